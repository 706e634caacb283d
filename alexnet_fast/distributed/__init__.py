"""Several processes: who they are, how they are started, and what happens when one is lost."""
