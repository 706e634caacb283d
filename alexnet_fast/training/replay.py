"""Training steps of small batches on a GPU, replayed as CUDA graphs: one launch a step, not some hundreds.

A fast GPU computes a small step sooner than the host can launch it kernel by kernel. A graph repeats the kernels of one
step, on the same memory and with the same numbers from the host: so batches are copied to where the recorded step read
its own, learning rates are read from tensors, and torch's replay takes seed and offset of dropout from the generator
as it is then (CUDAGraph.replay). Batch sizes that occur, two in an epoch, have a graph each; images of another
side make new ones. Results are the same with and without, and any step can be taken either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.batch import Batch

Results = tuple[Tensor, Tensor, Tensor | None]

MOST_IMAGES = 512
"""The largest step that is replayed: a larger one works for longer than its launches take on any GPU of today, and its
maps would take memory a second time. By reckoning: not measured yet."""
WARM_UP = 3
"""Steps of a size before it is recorded: the optimizer makes its momentum, cuDNN and the compilers choose kernels."""
TURNS = 10
"""Steps of each kind that are timed, in turns."""


class Replay:
    """Takes steps by calling `work`, or by replaying it: whichever the first steps of a session show to be faster.

    `work`: one training step of a batch that updates the weights by `optimizer` and returns tensors on the device. All
    it does there must be the same for each batch of a size, until `forget` is called, but for what is in tensors, and
    the learning rates.
    """

    def __init__(
        self,
        work: Callable[[Batch], Results],
        optimizer: torch.optim.Optimizer,
        print_line: Callable[[str], object],
    ) -> None:
        self._work, self._optimizer, self._print = work, optimizer, print_line
        self._side = 0
        """Of the images, pixels: what is known of one side does not hold for another."""
        self.forget()

    def forget(self) -> None:
        """Forgets what was recorded and measured: from now on `work` does other things."""
        self._taken: Counter[int] = Counter()
        """Steps by their number of images."""
        self._graphs: dict[int, _Graph] = {}
        self._pool: Any = None
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        """Start and end of each step timed: one by `work`, one replayed, and so on."""
        self._is_faster: bool | None = None
        """Whether replaying is; None until it is known."""

    def step(self, batch: Batch) -> Results:
        """Returns `work`'s results for the batch; those of the step before may be overwritten. Raises TrainingError
        where the step cannot be recorded."""
        images, side = len(batch.labels), batch.images.shape[-1]
        if side != self._side:
            self._side = side
            self.forget()
        self._taken[images] += 1
        if self._is_faster is False or self._taken[images] <= WARM_UP:
            return self._work(batch)
        if images not in self._graphs:
            self._graphs[images] = self._recorded(batch)
        replayed = self._graphs[images].replay
        if self._is_faster:
            return replayed(batch)
        return self._timed(replayed if len(self._spans) % 2 else self._work, batch)

    def _recorded(self, batch: Batch) -> _Graph:
        self._pool = self._pool or pool()
        try:
            return _Graph(self._work, self._optimizer, batch, self._pool)
        except RuntimeError as error:
            raise TrainingError(
                f"the training step could not be recorded as a CUDA graph: {error}\n"
                "Train without: --set cuda_graphs=false"
            ) from error

    def _timed(self, form: Callable[[Batch], Results], batch: Batch) -> Results:
        """Takes a step by `form` between two events; chooses when all that are needed have happened, without a wait."""
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        results = form(batch)
        ended.record()
        self._spans.append((began, ended))
        if len(self._spans) >= 2 * TURNS and self._spans[2 * TURNS - 1][1].query():
            times = [began.elapsed_time(ended) for began, ended in self._spans[: 2 * TURNS]]
            called, replayed = median(times[0::2]), median(times[1::2])
            self._is_faster, self._spans = replayed < called, []
            choice = "replays them" if self._is_faster else "launches them one by one"
            self._print(
                f"a step of {len(batch.labels)} images takes the GPU {replayed:.2f} ms with its kernels replayed as a "
                f"CUDA graph, {called:.2f} ms with them launched one by one: {choice}"
            )
            if not self._is_faster:
                self._graphs, self._pool = {}, None
        return results


class _Graph:
    """One step's kernels and the tensors that they read and write."""

    def __init__(
        self, work: Callable[[Batch], Results], optimizer: torch.optim.Optimizer, batch: Batch, pool: Any
    ) -> None:
        """Records `work` on copies of the batch, which it does not do then: the step is still to be taken."""
        self._groups = optimizer.param_groups
        self._batch = batch.map(torch.clone)
        self._rates = [torch.zeros((), device=batch.images.device) for _ in self._groups]
        self._filled = [0.0] * len(self._groups)
        before = [group["lr"] for group in self._groups]
        try:
            for group, rate in zip(self._groups, self._rates, strict=True):
                group["lr"] = rate
            self._again, self._results = record(lambda: work(self._batch), pool)
        finally:
            for group, value in zip(self._groups, before, strict=True):
                group["lr"] = value

    def replay(self, batch: Batch) -> Results:
        for name, column in batch.tensors.items():
            self._batch.tensors[name].copy_(column)
        for i, group in enumerate(self._groups):
            if group["lr"] != self._filled[i]:
                self._rates[i].fill_(group["lr"])
                self._filled[i] = group["lr"]
        self._again()
        return self._results


def pool() -> Any:
    """Returns memory that graphs may share, of which only one is replayed at a time."""
    return torch.cuda.graph_pool_handle()


def record(work: Callable[[], Results], pool: Any) -> tuple[Callable[[], None], Results]:
    """Records the kernels that `work` launches, which do not run then. Returns a function that launches them all, and
    `work`'s results, which it fills. Other threads, as DALI's, may use CUDA meanwhile, but not wait for the device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        results = work()
    return graph.replay, results
