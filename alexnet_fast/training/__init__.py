"""Training in a run folder: `start` makes a `trainer`, which calls `step` for each batch."""
