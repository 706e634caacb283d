"""Nothing in a step asks a tensor for a number, for which the host would wait for a GPU. On one: tests/test_gpu.py."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training.trainer import Trainer
from tests.cuda_stand_ins import no_waiting_for_the_gpu

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default}
"""item(), bool(), what has a size that only the device knows. Not tolist(), which reads past torch on a CPU."""
ALONE = Topology(0, 1, torch.device("cpu"))


class Asked(Exception):
    pass


class NoNumbers(TorchDispatchMode):
    """Raises Asked where an operation is of WAITING, but of the tensor at `allowed`, which lies on the host."""

    def __init__(self, allowed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._allowed = allowed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING and args[0].data_ptr() != self._allowed:
            raise Asked(str(func))
        if func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise Asked("a boolean index")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("recipe", ["paper", "fast", "large"])
def test_a_step_asks_for_no_number(recipe: str, accumulate: int, raw_shards: Path, tmp_path: Path) -> None:
    """The trainer's: with rates, seed, watching for NaN, sums, layer scales."""
    common = {"precision": "fp32", "hidden": 16, "batch": 16, "crop": 64, "threads": 1, "log_every": 1}
    config = make_config(recipe, shards=str(raw_shards), accumulate=accumulate, layer_scales=True, **common)
    trainer = Trainer(ALONE, config, ShardSet.of(config), tmp_path, None)
    batches = iter(trainer.batches)
    for _ in range(2):  # the optimizer's state comes with the first
        batch = next(batches)
        with NoNumbers(allowed=trainer.finite._found.data_ptr()):
            trainer.step(batch)
    loss, _, images = trainer.meter.pending()
    assert images == 2 * 15
    assert math.isfinite(loss)


def test_torch_s_warning_of_its_mode_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/test_gpu.py sets the mode by this, and warnings are errors."""
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        if mode == "error":  # once in a process
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: modes.append("synchronized"))
    with pytest.raises(RuntimeError), no_waiting_for_the_gpu():
        raise RuntimeError("a step that waits")
    assert modes == ["synchronized", "error", "default"]


def test_what_asks_is_noticed() -> None:
    x = torch.ones(3)
    for ask in (x.max().item, lambda: bool(x.all()), lambda: x[x > 0], x.nonzero):
        with pytest.raises(Asked), NoNumbers(allowed=0):
            ask()
