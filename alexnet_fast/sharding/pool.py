"""Runs independent jobs on processes of this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from socket import create_connection
from time import sleep
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from alexnet_fast import native, signals
from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError

J = TypeVar("J")
R = TypeVar("R")
TRIES = 2
POLL_SECONDS = 0.5
"""Between two looks at how far the running jobs are."""
_place: tuple[Any, int] | None = None
"""In a worker of `Processes`: what each slot's job has reported, shared with the parent; and the worker's slot."""


class Pool(Protocol):
    """Runs `slots` jobs at a time; `killed` is what a future raises when its worker died."""

    slots: int
    killed: type[Exception]

    def submit(self, slot: int, function: Callable[[J], R], job: J) -> Future[R]: ...

    def renew(self, slot: int) -> None:
        """Starts another worker for the slot, whose own was killed."""

    def reported(self, slots: list[int]) -> int:
        """Returns the sum of what the jobs running there have reported; 0 where that is not known."""

    def close(self) -> None:
        """Waits for the running jobs, and ends the workers."""


class Processes:
    """A pool of one process a slot: when a process is killed, it is known which job it had, and no other suffers."""

    killed: type[Exception] = BrokenProcessPool

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._context: Any = get_context("forkserver")
        start_server()
        self._reported = self._context.RawArray("Q", workers)
        self._executors = [self._start(slot) for slot in range(workers)]

    def submit(self, slot: int, function: Callable[[J], R], job: J) -> Future[R]:
        self._reported[slot] = 0
        try:
            with _uninterrupted():  # it may start a process
                return self._executors[slot].submit(function, job)
        except (EOFError, ConnectionError) as error:
            _wait_for_end_of_server()
            start_server()
            raise BrokenProcessPool("the server that workers are forked from was killed") from error

    def renew(self, slot: int) -> None:
        self._executors[slot].shutdown()
        self._executors[slot] = self._start(slot)

    def reported(self, slots: list[int]) -> int:
        return sum(self._reported[slot] for slot in slots)

    def close(self) -> None:
        with _uninterrupted():  # a second Ctrl-C would leave half of it undone
            for executor in self._executors:
                executor.shutdown(cancel_futures=True)

    def _start(self, slot: int) -> Executor:
        place = self._reported, slot
        return ProcessPoolExecutor(1, mp_context=self._context, initializer=_start_worker, initargs=place)


def start_server() -> None:
    """Starts what `Processes` are forked from, unless it runs already; does not wait for it. Raises InputError where
    ALEXNET_FAST_NATIVE is malformed, at which the processes would fail."""
    native.best_allowed()
    forkserver.set_forkserver_preload(["alexnet_fast.sharding.preload"])
    with _uninterrupted(), _in_root():
        forkserver.ensure_running()


def _wait_for_end_of_server() -> None:
    """Waits until the fork server, which has closed its connections, has ended; 5 s at most. Before that,
    multiprocessing would take it for alive, and start no other."""
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    for _ in range(100):
        try:
            if pid is None or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
        except ChildProcessError:  # it was waited for already
            return
        sleep(0.05)


class DaskWorkers:
    """The threads of the workers that a Dask scheduler has; they must see source and output at the same paths."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
            from distributed.scheduler import KilledWorker
        except ImportError as error:
            raise InputError(f"--scheduler needs Dask: {install_command('cluster')}") from error
        try:
            url = urlsplit(address)
            with create_connection((url.hostname, url.port or 8786), timeout=20):  # Dask's own refusal takes minutes
                pass
            self._client: Any = Client(address, timeout=20, set_as_default=False)
            self._client.wait_for_workers(1, timeout=60)
            self._client.register_worker_callbacks(_prepare_process)  # also of workers that come later
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(f"no Dask scheduler with workers answers at {address} ({error}).") from error
        self.killed: type[Exception] = KilledWorker
        self.slots = max(sum(self._client.nthreads().values()), 1) + 1  # one more: no worker waits for its next job
        self._executor: Executor = self._client.get_executor(pure=False)

    def submit(self, slot: int, function: Callable[[J], R], job: J) -> Future[R]:
        return self._executor.submit(function, job)

    def renew(self, slot: int) -> None:
        pass  # Dask's nanny has started another worker

    def reported(self, slots: list[int]) -> int:
        return 0  # they may run on other machines

    def close(self) -> None:
        self._executor.shutdown()
        self._client.close()


def run(
    pool: Pool,
    function: Callable[[J], R],
    jobs: Iterable[J],
    finished: Callable[[R, int], None],
    moved: Callable[[int], None],
    print_line: Callable[[str], None],
) -> None:
    """Calls `function` on every job and `finished` with each result as it comes; jobs are taken as slots get free.
    `finished` also gets what the jobs that still run have reported, and now and then `moved` gets it.

    A job whose worker was killed (by the kernel for want of memory, say) is tried once more. Raises InputError when
    that fails too, and whatever `function` raises.
    """
    todo = iter(jobs)
    idle = list(range(pool.slots))
    running: dict[Future[R], tuple[int, J, int]] = {}

    def reported() -> int:
        return pool.reported([slot for slot, _, _ in running.values()])

    try:
        while True:
            while idle and (job := next(todo, None)) is not None:
                slot = idle.pop()
                running[_submit(pool, slot, function, job)] = slot, job, 1
            if not running:
                return
            if not (done := wait(running, POLL_SECONDS, FIRST_COMPLETED).done):
                moved(reported())
            for future in done:
                slot, job, tries = running.pop(future)
                try:
                    finished(future.result(), reported())
                    idle.append(slot)
                except pool.killed as error:
                    if tries == TRIES:
                        raise InputError(
                            f"the worker that wrote {job} was killed {TRIES} times, most often by the kernel for want "
                            "of memory. Run the same command with fewer --workers: finished tars are kept."
                        ) from error
                    print_line(
                        f"the worker that wrote {job} was killed, most often for want of memory; trying once more"
                    )
                    pool.renew(slot)
                    running[_submit(pool, slot, function, job)] = slot, job, tries + 1
    finally:
        pool.close()


def _submit(pool: Pool, slot: int, function: Callable[[J], R], job: J) -> Future[R]:
    try:
        return pool.submit(slot, function, job)
    except pool.killed:  # while it had nothing to do, or when it started
        pool.renew(slot)
    try:
        return pool.submit(slot, function, job)
    except pool.killed as error:
        raise InputError(
            f"the workers were killed when they started ({error}), most often by the kernel for want of memory. Run "
            "the same command with fewer --workers: finished tars are kept."
        ) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C and SIGTERM, and blocks them in the processes that are started inside: their parent handles them,
    and batch systems send SIGTERM to all processes."""
    resource_tracker.ensure_running()  # which unblocks signals when it starts
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals.BOTH)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


@contextmanager
def _in_root() -> Iterator[None]:
    """Changes to the root folder: a Python that is started in a checkout would import the package from there, where it
    is not compiled, and not the one that is installed."""
    here = os.open(".", os.O_PATH)
    os.chdir("/")
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def report(done: int) -> None:
    """Reports how far the job that calls it is; costs next to nothing."""
    if _place:
        array, slot = _place
        array[slot] = done


def _start_worker(*place: Any) -> None:
    from threading import Thread

    global _place
    _place = place
    for number in signals.BOTH:
        signal.signal(number, signal.SIG_IGN)
    _prepare_process()
    Thread(target=_end_with_parent, daemon=True).start()


def _prepare_process() -> None:
    """Sets one thread, as each core has a process, and keeps freed memory: new pages take 3 % of an image's time."""
    from alexnet_fast.memory import keep_freed_memory

    if native.kernels() is None:
        import torch

        torch.set_num_threads(1)
    keep_freed_memory()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
