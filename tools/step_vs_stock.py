"""A whole training step beside the same network written with torch's stock layers, in turns.

    python tools/step_vs_stock.py [--turns 5] [--steps 2] [--batch 128] [--out tools/records/DATE_step_HARDWARE]

Two pairs, 224 px, random images in memory: the paper's net in bfloat16 and channels-last on both sides; and `onetower`
in bfloat16 and channels-last beside torchvision's AlexNet in float32 and torch's default layout, as its reference
trains it. Each network lives in a process of its own, takes ours or torch's plain optimizer, and rests while another
has its turn. The last row is the share of our paper step that LRN takes: the step of the same net without it. CPU only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import click
import torch
from torch import nn

from alexnet_fast.environment import environment
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.model.grouped import choose_forms
from alexnet_fast.recipes import make_config
from alexnet_fast.training.optim import set_learning_rates
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import train_step

CPU, CLASSES, SIDE = torch.device("cpu"), 1000, 224
Step = Callable[[], object]


def conv(inputs: int, outputs: int, kernel: int, **how: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, **how), nn.ReLU(inplace=True)]  # type: ignore[arg-type]


def stock_paper() -> nn.Module:
    """The paper's net of torch's layers; torch's LRN has no towers, the same work."""

    def norm() -> nn.Module:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)

    return nn.Sequential(
        *[
            nn.ZeroPad2d((0, 3, 0, 3)),
            nn.Conv2d(3, 96, 11, stride=4),
            norm(),
            nn.MaxPool2d(3, 2),
            nn.ReLU(inplace=True),
        ],
        *[*conv(96, 256, 5, padding=2, groups=2), norm(), nn.MaxPool2d(3, 2)],
        *conv(256, 384, 3, padding=1),
        *conv(384, 384, 3, padding=1, groups=2),
        *[*conv(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.Flatten()],
        *[nn.Linear(9216, 4096), nn.ReLU(inplace=True), nn.Dropout()],
        *[nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, CLASSES)],
    )


def stock_onetower() -> nn.Module:
    """torchvision's AlexNet, layer by layer."""
    return nn.Sequential(
        *[*conv(3, 64, 11, stride=4, padding=2), nn.MaxPool2d(3, 2)],
        *[*conv(64, 192, 5, padding=2), nn.MaxPool2d(3, 2)],
        *[*conv(192, 384, 3, padding=1), *conv(384, 256, 3, padding=1)],
        *[*conv(256, 256, 3, padding=1), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d((6, 6)), nn.Flatten()],
        *[nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(inplace=True)],
        *[nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Linear(4096, CLASSES)],
    )


def stock(model: nn.Module, batch: int, *, fast: bool, device: torch.device = CPU, side: int = SIDE) -> Step:
    """`fast`: bfloat16 autocast and channels-last."""
    layout = torch.channels_last if fast else torch.contiguous_format
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    images = (torch.randn(batch, 3, side, side, device=device) * 60).to(memory_format=layout)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ours(
    batch: int,
    *,
    recipe: str = "paper",
    device: torch.device = CPU,
    forms: Mapping[str, bool] = MappingProxyType({}),
    **settings: Any,
) -> Step:
    """`forms`: of the convolutions, arguments of `choose_forms`."""
    if device == CPU:
        keep_freed_memory()  # as the loader does
    config = replace(make_config(recipe, batch=batch, **{"precision": "bf16", "crop": SIDE, **settings}), lr=1e-6)
    state = initial_state(config, CLASSES, device)
    choose_forms(state.model, **forms)
    set_learning_rates(state.optimizer, config, 0.0)
    item = next(synthetic(config, CLASSES, torch.bfloat16, device))  # in the form that the loader gives
    return lambda: train_step(state.model, state, item, config, 1.0)


FORMS: dict[str, Callable[[int], Step]] = {
    "paper, stock layers": lambda batch: stock(stock_paper(), batch, fast=True),
    "paper, ours": ours,
    "paper, ours, no LRN": lambda batch: ours(batch, lrn="none"),
    "torchvision, fp32 NCHW": lambda batch: stock(stock_onetower(), batch, fast=False),
    "onetower, ours": lambda batch: ours(batch, arch="onetower"),
}


def work(form: str, batch: int, threads: int, pipe: Connection) -> None:
    """Warms up, then for each number of steps received sends back the seconds they took."""
    torch.set_num_threads(threads)
    step = FORMS[form](batch)
    step()
    pipe.send(0.0)
    while steps := pipe.recv():
        started = time.perf_counter()
        for _ in range(steps):
            step()
        pipe.send(time.perf_counter() - started)


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--steps", default=2, show_default=True, help="Of a turn.")
@click.option("--batch", default=128, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(turns: int, steps: int, batch: int, threads: int, out: Path | None) -> None:
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    for form in FORMS:
        pipes[form], theirs = context.Pipe()
        context.Process(target=work, args=(form, batch, threads, theirs), daemon=True).start()
        pipes[form].recv()
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(turns):
        for form, pipe in pipes.items():
            pipe.send(steps)
            seconds[form].append(pipe.recv() / steps)
    for pipe in pipes.values():
        pipe.send(0)
    for form, values in seconds.items():
        print(f"{form:24s} {batch / median(values):6.1f} images/s  [{min(values):.2f}-{max(values):.2f} s a step]")

    def ratio(form: str, to: str) -> float:
        return median([a / b for a, b in zip(seconds[form], seconds[to], strict=True)])

    ratios = {
        "paper: ours / stock layers": ratio("paper, stock layers", "paper, ours"),
        "onetower: ours / torchvision fp32": ratio("torchvision, fp32 NCHW", "onetower, ours"),
        "LRN's share of the paper step": 1 - ratio("paper, ours, no LRN", "paper, ours"),
    }
    for name, value in ratios.items():
        print(f"{name:36s} {value:.3f}")
    if out:
        out.mkdir(parents=True)
        about = {"batch": batch, "steps": steps, "threads": threads, **environment()}
        body = {**about, "seconds_a_step": seconds, "ratios": ratios}
        (out / "numbers.json").write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
