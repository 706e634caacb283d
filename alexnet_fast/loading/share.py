"""Which share of the JPEGs the host decodes beside a GPU: tried out while training, by the rate of that."""

from __future__ import annotations

from alexnet_fast.loading.idle import Moment

STARTING = 48
"""Batches before the first trial, in which the step settles: cuDNN and compilers choose kernels, and small steps are
launched or replayed in turns until the faster way is known (training/replay.py)."""
SETTLING = 8
"""Batches of a trial that are not measured: what was prepared and queued before is used up meanwhile."""
MEASURED = 24
"""Batches of a trial that are measured."""
GAIN = 1.02
"""A share tried later is taken only if it is so many times as fast."""
PARTS = 8
"""Of the shares between none and all: multiples of one in so many."""
RAW_WORK = 1 / 3
"""The host's work for a raw sample, in JPEGs: raw sets were measured to load 2 to 4 times as fast (tools/tuning.md)."""


class ShareTrials:
    """Tries three shares, each over some batches of the training: all on the host, none, and the share with which both
    would end together at the rates of these two. Then `share` stays at the best.

    The loader calls `used` after each batch. Rates are by moments of the device, since the host is ahead of it, and
    are read once those have come: nothing waits for them, the trial only takes a few batches more.
    """

    def __init__(self) -> None:
        self.share = 1.0
        """Of the next batch's JPEGs, 0 to 1: what the host decodes."""
        self.rates: dict[float, float] = {}
        """Images/s of the trials so far, by share."""
        self.done = False
        self._batches = -STARTING
        self._measured: list[tuple[int, Moment, Moment]] = []

    def used(self, share: float, images: int, began: Moment, ended: Moment) -> None:
        """Adds a batch of `images`, decoded with `share`, that was asked for at `began`; the next one at `ended`."""
        if self.done or share != self.share:
            return
        self._batches += 1
        if SETTLING < self._batches <= SETTLING + MEASURED:
            self._measured.append((images, began, ended))
        if self._batches >= SETTLING + MEASURED and self._measured[-1][2].query():
            self._end_trial()

    def _end_trial(self) -> None:
        took = sorted((began.elapsed_time(ended) / 1000, images) for images, began, ended in self._measured)
        # Without the slowest, in which a checkpoint may have been saved, or a step of another size compiled or recorded
        kept = took[: max(len(took) - 1, 1)]
        self.rates[self.share] = sum(images for _, images in kept) / max(sum(seconds for seconds, _ in kept), 1e-9)
        self._batches, self._measured = 0, []
        if 0.0 not in self.rates:
            self.share = 0.0
            return
        both = self.rates[1.0] / (self.rates[0.0] + self.rates[1.0])
        some = round(PARTS * both) / PARTS
        if len(self.rates) == 2 and 0 < some < 1:
            self.share = some
            return
        self.share, self.done = best_share(self.rates), True


def best_share(rates: dict[float, float]) -> float:
    """Returns the share with the highest rate. One that was tried after another counts as better from GAIN on: the
    steps that were queued under the one before may hide a little that it is slower than the step."""
    best, *others = rates
    for share in others:
        if rates[share] > GAIN * rates[best]:
            best = share
    return best


def host_threads(threads: int, share: float, raw: float) -> int:
    """Returns how many of `threads` cut and decode on the host; the others are DALI's. As their work: the host has
    `share` of the JPEGs, and the raw samples, `raw` of all. Each that has work gets one at least."""
    ours, theirs = share * (1 - raw) + RAW_WORK * raw, (1 - share) * (1 - raw)
    if not ours or not theirs:
        return threads if ours else 0
    return max(min(round(threads * ours / (ours + theirs)), threads - 1), 1)
