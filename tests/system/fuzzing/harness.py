"""Gives a reader damaged files, in a process of its own with limits on time, memory and what it may touch."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from tests.system.fuzzing.damage import damaged

CPU_SECONDS, SECONDS = 5.0, 60
"""Of one file: CPU time, then wall-clock time. Ended by a signal, so that code outside Python is ended too."""
MOST_FAILURES = 5
"""Of one target; then its other files are left out."""
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
NEVER = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "pty.spawn")


@dataclass(frozen=True)
class Target:
    """`make` fills an empty folder with whole files and returns the one to be damaged, `read` reads that file as the
    program does, and may raise `refusals`. `form`: see damage.py. `gibibytes`: memory it may take on top.
    `every`: it is slow, and gets one input where others get so many."""

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    form: str
    refusals: tuple[type[Exception], ...]
    gibibytes: float = 1
    every: int = 1
    cpu_seconds: float = CPU_SECONDS


@dataclass
class Outcome:
    """How many of `inputs` were read, how many refused; `failures`: by the number of the file, what came in place of
    the two. `peak_mib`: memory taken on top of the start's; `slowest`: seconds of one file."""

    target: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    cpu_seconds: float = 0.0
    slowest: float = 0.0
    peak_mib: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def fuzz(target: Target, inputs: int, seed: int = 0) -> Outcome:
    """File number n follows from `seed` and n alone: `sample` makes it again."""
    outcome = Outcome(target.name)
    while outcome.inputs < inputs and len(outcome.failures) < MOST_FAILURES:
        outcome = _go_on(target, inputs, seed, outcome)
    return outcome


def sample(target: Target, number: int, seed: int = 0) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return _sample(target.make(Path(folder)).read_bytes(), target.form, seed, number)


def _sample(whole: bytes, form: str, seed: int, number: int) -> bytes:
    return damaged(whole, form, Random(f"{seed} {number}"))


def _go_on(target: Target, inputs: int, seed: int, outcome: Outcome) -> Outcome:
    """In a new process, up to the end or to a file that ends the process."""
    context = get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(target, inputs, seed, outcome, Path(folder), theirs))
        process.start()
        theirs.close()
        while (received := _receive(ours)) is not None:
            outcome = received
        process.join()
        code = process.exitcode or 0
        process.close()
    if code > 0:
        raise RuntimeError(f"the process that damages files for {target.name} failed")
    if code:
        outcome.failures[outcome.inputs - 1] = _ending(-code)
    return outcome


def _receive(pipe: Connection) -> Outcome | None:
    try:
        outcome: Outcome = pipe.recv()
    except EOFError:
        return None
    return outcome


def _ending(number: int) -> str:
    return "took too long" if number in (signal.SIGPROF, signal.SIGALRM) else f"ended by {signal.Signals(number).name}"


def _work(target: Target, inputs: int, seed: int, outcome: Outcome, folder: Path, results: Connection) -> None:
    """Sends `outcome` when a file is begun, and at the end."""
    inside = folder / "inside"
    inside.mkdir()
    os.chdir(inside)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders outside Python print what they think of a file
    path = target.make(inside)
    whole = path.read_bytes()
    with suppress(*target.refusals):
        target.read(path)  # whatever is imported late, is now
    guard = _Guard(folder)
    _limit_memory(int(target.gibibytes * 2**30))
    before = _peak_mib()
    while outcome.inputs < inputs and len(outcome.failures) < MOST_FAILURES:
        data = _sample(whole, target.form, seed, outcome.inputs)
        path.write_bytes(data)
        outcome.inputs += 1
        results.send(outcome)
        _read(target, path, guard, outcome)
        outcome.peak_mib = max(outcome.peak_mib, _peak_mib() - before)
    results.send(outcome)


def _read(target: Target, path: Path, guard: _Guard, outcome: Outcome) -> None:
    signal.setitimer(signal.ITIMER_PROF, target.cpu_seconds)
    signal.alarm(SECONDS)
    started = process_time()
    try:
        target.read(path)
        outcome.read += 1
    except target.refusals:
        outcome.refused += 1
    except BaseException as error:
        outcome.failures[outcome.inputs - 1] = f"{type(error).__name__}: {str(error)[:300]}\n{_where(error)}"
    seconds = process_time() - started
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    outcome.cpu_seconds += seconds
    outcome.slowest = max(outcome.slowest, seconds)
    if guard.caught:
        outcome.failures[outcome.inputs - 1] = f"it went outside: {guard.caught.pop()}"
        guard.caught.clear()


class _Guard:
    """Whatever lies outside the folder may be read, nothing else; and no program is started."""

    def __init__(self, folder: Path) -> None:
        self.caught: list[str] = []
        self._inside = f"{folder}/"
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in NEVER:
            self._forbid(event, arguments)
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        if event in TOUCHES and (event != "open" or arguments[2] & writing):
            for path in arguments[: 2 if event in ("os.rename", "os.symlink", "os.link") else 1]:
                if isinstance(path, str | bytes | os.PathLike) and not self._is_inside(path):
                    self._forbid(event, arguments)

    def _is_inside(self, path: Any) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith(self._inside) or os.fsdecode(path) == os.devnull

    def _forbid(self, event: str, arguments: tuple[Any, ...]) -> None:
        self.caught.append(f"{event} {arguments[0]!r}")
        raise PermissionError(f"{event} is not for a reader")


def _limit_memory(more: int) -> None:
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _where(error: BaseException) -> str:
    """The last lines of the program that the error went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "alexnet_fast" in frame.filename]
    return "".join(f"  {Path(frame.filename).name}:{frame.lineno} {frame.line}\n" for frame in frames[-4:])
