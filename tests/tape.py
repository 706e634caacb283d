"""What a CUDA graph does, on a CPU: tests put `record` in the place of `training.replay.record`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


def record(work: Callable[[], T], pool: Any) -> tuple[Callable[[], None], T]:
    """Records the operations of `work`, whose effects are undone. Returns a function that does them again on the same
    memory, with the same numbers from Python; and `work`'s results, which it fills."""
    random, tape = torch.get_rng_state(), Tape()
    with tape:
        results = work()
    tape.undo()
    torch.set_rng_state(random)
    return tape.replay, results


class Tape(TorchDispatchMode):
    """The operations inside, backward passes' too. Raises RuntimeError where one reads a number, as of a graph CUDA
    does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[tuple[Any, Any, Any, dict[int, Tensor]]] = []
        """Function, arguments, and of its results those that are new, by their place."""
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        """Storages that were there before, by address: as they were, and a tensor that is all of each."""
        self._made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = changed(function, args, kwargs or {})
        for x in (x for x in written if address(x) not in self._made):
            whole = x.detach().as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
            self._before.setdefault(address(x), (whole, whole.clone()))
        results = function(*args, **(kwargs or {}))
        inputs = {address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        new = {i: x for i, x in enumerate(tree_leaves(results)) if isinstance(x, Tensor) and address(x) not in inputs}
        self._made.update({address(x): x for x in new.values()})
        if new or written:  # else it is a view
            self._operations.append((function, args, kwargs or {}, new))
        return results

    def undo(self) -> None:
        for now, before in self._before.values():
            now.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, new in self._operations:
            results = tree_leaves(function(*args, **kwargs))
            for i, recorded in new.items():
                recorded.copy_(results[i])


def changed(function: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that the operation writes to."""
    if function is torch.ops.aten.native_batch_norm.default:  # its running statistics, which its schema leaves out
        return [args[3], args[4]]
    given = dict(zip((a.name for a in function._schema.arguments), args, strict=False)) | kwargs
    named = [given.get(a.name) for a in function._schema.arguments if a.alias_info and a.alias_info.is_write]
    return [x for x in tree_leaves(named) if isinstance(x, Tensor)]


def address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
