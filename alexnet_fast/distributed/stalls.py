"""Prints what a loader waits for when no batch comes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from threading import Event, Thread
from time import monotonic
from typing import Protocol

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.loading.batch import Batch

STALL = 30.0
"""Seconds without a batch that are called a stall."""


class Source(Protocol):
    """A loader, or several one after another."""

    def __iter__(self) -> Iterator[Batch]: ...

    def waits_for(self) -> str: ...


def watched(loader: Source, topology: Topology) -> Iterator[Batch]:
    """The loader's batches. A thread beside it prints, once a stall, what is waited for; and how long it took."""
    asked: float | None = None
    is_reported = False
    ended = Event()

    def watch() -> None:
        nonlocal is_reported
        while not ended.wait(STALL / 10):
            if asked is not None and not is_reported and monotonic() - asked > STALL:
                is_reported = True
                _print(f"no batch for {STALL:.0f} s: {loader.waits_for()}", topology)

    Thread(target=watch, daemon=True).start()
    batches = iter(loader)
    try:
        while True:
            asked = monotonic()
            batch = next(batches, None)
            if is_reported:
                _print(f"a batch came after {monotonic() - asked:.0f} s", topology)
            asked, is_reported = None, False
            if batch is None:
                return
            yield batch
    finally:
        ended.set()


def _print(text: str, topology: Topology) -> None:
    prefix = f"rank {topology.rank}: " * (topology.world_size > 1)
    print(f"{prefix}{text}", file=sys.stderr, flush=True)
