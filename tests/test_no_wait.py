"""Nothing in a step asks a tensor for a number, for which the host would wait for a GPU. On one: tests/test_gpu.py."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_fast import random
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.loading.loader import Batch, Loader
from alexnet_fast.recipes import make_config
from alexnet_fast.training import loop, optim
from alexnet_fast.training.finite import Finite
from alexnet_fast.training.metrics import Window
from alexnet_fast.training.scales import Scales
from tests.test_training import ROWS

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
def test_a_step_asks_for_no_number(recipe: str, accumulate: int) -> None:
    """With what the loop does about it: rates, seed, watching for NaN, sums, layer scales."""
    config = make_config(recipe, precision="fp32", hidden=16, accumulate=accumulate, layer_scales=True)
    state = loop.begin(config, 10, ALONE.device)
    finite = Finite(state.model, state.optimizer, config, alone=True)
    scales = Scales(state.model, state.optimizer, ALONE, config)
    window = Window(ALONE, Loader.__new__(Loader), state.sums)
    batch = Batch(torch.randn(6, 3, 64, 64), torch.randint(10, (6,)), ROWS)
    for step in (1, 2):  # the optimizer's state comes with the first
        with NoNumbers(allowed=finite._found.data_ptr()):
            optim.set_learning_rates(state.optimizer, config, step / 100)
            torch.manual_seed(random.dropout_seed(0, step, 0))
            scales.begin(True)
            loss, correct = loop.train_step(state.model, state, batch, config, 1.0)
            window.add(loss, correct, 6)
            finite.look(loss, step, batch)
    assert torch.isfinite(loss)


def test_what_asks_is_noticed() -> None:
    x = torch.ones(3)
    for ask in (x.max().item, lambda: bool(x.all()), lambda: x[x > 0], x.nonzero):
        with pytest.raises(Asked), NoNumbers(allowed=0):
            ask()
