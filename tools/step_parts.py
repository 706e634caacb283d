"""Parts of a training step beside torch's own form of each, forward and backward, in turns.

    python tools/step_parts.py [--turns 5] [--threads 2] [--batch 64] [--out tools/records/DATE_step-parts_HARDWARE]

Channels-last, float32 and bfloat16 (autocast, as training has it), on the CPU. Each part is warmed up once; then each
turn times every form of it once. Prints milliseconds (median, low, high) and the ratio to torch's form, turn by turn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn

from alexnet_fast.environment import environment
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.model import lrn_kernel
from alexnet_fast.model.alexnet import build
from alexnet_fast.model.conv1 import Conv1
from alexnet_fast.model.lrn import LocalResponseNorm
from alexnet_fast.recipes import make_config
from alexnet_fast.training.optim import make_optimizer

Forms = dict[str, Callable[[], object]]
"""The ways to compute one part; the first is torch's own."""


def maps(batch: int, channels: int, side: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    values = torch.randn(batch, channels, side, side, device=device) * 50
    return values.to(dtype, memory_format=torch.channels_last)


def both_ways(layer: Callable[[Tensor], Tensor], x: Tensor, wrt: list[Tensor]) -> Callable[[], object]:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        gradient = torch.randn_like(layer(x))

    def run() -> object:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = layer(x)
        return torch.autograd.grad(y, wrt, gradient)

    return run


class TorchNorm(nn.LocalResponseNorm):
    """In float32 at every precision: torch has no bfloat16 kernel of it on the CPU."""

    def __init__(self) -> None:
        super().__init__(5, alpha=1e-4, beta=0.75, k=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def norm(x: Tensor) -> Forms:
    """torch's layer has no towers: it sums across all maps, the same work."""
    ours = LocalResponseNorm(x.shape[1], towers=2).to(x.device)
    x.requires_grad_()

    def banded() -> object:
        with patch.multiple(lrn_kernel, available=lambda: False, available_on_gpu=lambda: False):
            return both()

    both = both_ways(ours, x, [x])
    return {"torch": both_ways(TorchNorm(), x, [x]), "banded convolution": banded, "compiled": both}


def conv1(x: Tensor) -> Forms:
    """Both forms at every precision, whichever `Conv1.forward` would choose."""
    layer = Conv1(96).to(x.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    wrt: list[Tensor] = list(layer.parameters())
    return {
        "torch": both_ways(lambda x: nn.Conv2d.forward(layer, x), x, wrt),
        "4x4 blocks as channels": both_ways(layer.by_blocks, x, wrt),
    }


def network(x: Tensor) -> Forms:
    """The paper's net, forward and backward; torch's form has the same layers but torch's LRN and plain conv1."""
    ours, theirs = (build(1000).on(torch.device("cpu")) for _ in range(2))
    for i, layer in enumerate(theirs.features):
        if isinstance(layer, LocalResponseNorm):
            theirs.features[i] = TorchNorm()
        elif isinstance(layer, Conv1):
            theirs.features[i] = nn.Conv2d(3, 96, 11, stride=4).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    nets = {"torch": theirs, "ours": ours}
    return {name: both_ways(net, x, list(net.parameters())) for name, net in nets.items()}


def optimizers() -> Forms:
    """One step of the paper net's parameters; ours is what `make_optimizer` chooses."""
    model = build(1000).on(torch.device("cpu"))
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    ours = make_optimizer(model, make_config("paper", precision="bf16"))
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in ours.param_groups]
    loop, foreach = (torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=each) for each in (False, True))
    return {"torch, a loop": loop.step, "torch, foreach": foreach.step, "ours, fused": ours.step}


def parts(batch: int) -> Iterator[tuple[str, Forms]]:
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        yield f"LRN 96x55x55, {name}", norm(maps(batch, 96, 55, dtype))
        yield f"LRN 256x27x27, {name}", norm(maps(batch, 256, 27, dtype))
        for images in (batch, 2 * batch):
            yield f"conv1 227 px, batch {images}, {name}", conv1(maps(images, 3, 227, dtype))
        yield f"paper net 224 px, {name}", network(maps(batch, 3, 224, dtype))
    yield "SGD, 61.0 M parameters", optimizers()


def measure(forms: Forms, turns: int) -> dict[str, list[float]]:
    """Milliseconds of each form in each turn."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(turns + 1):
        for name, form in forms.items():
            started = perf_counter()
            form()
            if turn:  # the first warms up
                times[name].append((perf_counter() - started) * 1000)
    return times


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(turns: int, threads: int, batch: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as the loader does
    results: dict[str, Any] = {}
    for part, forms in parts(batch):
        times = measure(forms, turns)
        reference = next(iter(times.values()))
        results[part] = {}
        print(part)
        for name, t in times.items():
            ratio = median([a / b for a, b in zip(t, reference, strict=True)])
            results[part][name] = {"median": median(t), "low": min(t), "high": max(t), "turns": t, "ratio": ratio}
            print(f"  {name:24s} {median(t):7,.0f} ms  [{min(t):,.0f}-{max(t):,.0f}]  x{ratio:.2f}", flush=True)
    if out:
        out.mkdir(parents=True)
        about = {"batch": batch, "threads": threads, **environment()}
        (out / "numbers.json").write_text(json.dumps({**about, "milliseconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
