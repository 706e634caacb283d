"""Names the process that is lost: each counts up a number of its own in torch's store, and watches the others'."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from threading import Event, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from alexnet_fast.distributed.topology import Topology, is_of_peers, store_for_a_thread
from alexnet_fast.errors import InputError, LostProcessError, TrainingError

BEAT = 2.0
"""Seconds between two counts."""
LOST = 30.0
"""Seconds without one after which a process counts as lost."""
LEFT = 1 << 40
"""Added to the count of a process that has ended as it should."""
HINT = "Resume from the last checkpoint with --resume."


class Ranks:
    """`with Ranks(topology):` around the training; of one process it does nothing.

    Where a process is silent, or has failed while this one waits for it, prints so and ends this process with exit
    code 1: a wait inside a collective cannot be left otherwise. A collective's error becomes a LostProcessError that
    names it. The first process watches all, the others the first.
    """

    def __init__(self, topology: Topology) -> None:
        self._rank, self._world_size = topology.rank, topology.world_size
        self._followed = [r for r in range(self._world_size) if r != self._rank and 0 in (r, self._rank)]
        self._ended = Event()
        self._store: Any = store_for_a_thread() if self._world_size > 1 else None
        self._heard: dict[int, tuple[int, float]] = {}
        """Each process' last count, and when it came."""
        self._where: dict[int, str] = {}
        """Their processes, in words."""
        self._failure = ""
        self._failed_at = 0.0

    def __enter__(self) -> Ranks:
        if self._store:
            self._store.set(f"where/{self._rank}", f"process {os.getpid()} on {socket.gethostname()}")
            self._heard = {rank: (0, monotonic()) for rank in self._followed}
            for work in (self._beat, self._judge):
                Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._store:
            return
        try:
            if isinstance(error, RuntimeError) and is_of_peers(error):
                raise LostProcessError(self._who_is_lost()) from error
            if isinstance(error, InputError | TrainingError | OSError):
                with suppress(RuntimeError):  # the store may be gone too
                    self._store.compare_set("failed", "", f"rank {self._rank} failed: {error}")
        finally:
            self._ended.set()
            with suppress(RuntimeError):
                self._count(self._rank, LEFT)

    def _beat(self) -> None:
        while not self._ended.is_set():
            with suppress(RuntimeError):  # the store is gone with the process that holds it
                self._count(self._rank, 1)
                for rank in self._followed:
                    if (count := self._count(rank, 0)) != self._heard[rank][0]:
                        self._heard[rank] = count, monotonic()
                        self._where.setdefault(rank, self._store.get(f"where/{rank}").decode())
                if not self._failure and (failure := self._reported_failure()):
                    self._failed_at, self._failure = monotonic(), failure
            self._ended.wait(BEAT)

    def _judge(self) -> None:
        """In a thread of its own: the other one may wait for the store."""
        looked = monotonic()
        while not self._ended.wait(BEAT / 2):
            now = monotonic()
            if now - looked > 2 * BEAT:  # perhaps all were suspended: count anew
                self._heard = {rank: (count, now) for rank, (count, _) in self._heard.items()}
            looked = now
            silent = [rank for rank, (count, since) in self._heard.items() if count < LEFT and now - since > LOST]
            if silent:
                self._end(f"{self._named(silent)} gave no sign of life for {LOST:.0f} s: stopped, or cut off. {HINT}")
            if self._failure and now - self._failed_at > 3 * BEAT:
                self._end(self._failure)

    def _end(self, text: str) -> None:
        print(f"Error: {text}", file=sys.stderr, flush=True)
        os._exit(1)

    def _who_is_lost(self) -> str:
        """After an error of a collective: who failed, or did not count for three beats."""
        try:
            before = self._counts()
            deadline = monotonic() + 3 * BEAT
            while monotonic() < deadline:
                if failure := self._reported_failure():
                    return failure
                sleep(BEAT / 4)
            silent = [rank for rank, count in self._counts().items() if count == before[rank] and count < LEFT]
        except RuntimeError:
            silent = [0]  # it, or what started it, holds the store
        if silent:
            return f"{self._named(silent)} ended unexpectedly: killed, out of memory, or cut off. {HINT}"
        return f"the processes lost their connection, though all of them run. Check the network. {HINT}"

    def _reported_failure(self) -> str:
        return str(self._store.get("failed").decode()) if self._store.check(["failed"]) else ""

    def _counts(self) -> dict[int, int]:
        return {rank: self._count(rank, 0) for rank in range(self._world_size) if rank != self._rank}

    def _count(self, rank: int, more: int) -> int:
        return int(self._store.add(f"alive/{rank}", more))

    def _named(self, ranks: list[int]) -> str:
        return ", ".join(f"rank {rank} ({self._where.get(rank, 'never seen')})" for rank in ranks)
