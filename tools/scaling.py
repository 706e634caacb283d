"""What several GPUs would bring, on paper: bytes sent, step time and speed-up, by the formulas of docs/scaling.md.

    python tools/scaling.py

prints the tables of that page. tools/parallel_bytes.py measures what two processes send and checks these formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config

RATE = 16_000
"""Images/s of one GPU, assumed: none has been measured here."""
BATCH = 128
"""Images a step and GPU."""
WORLDS = (1, 2, 8, 64)
BUCKET = 25 * 2**20
"""Bytes of gradients that DDP sends at once, by torch's default."""
BACKWARD = 2 / 3
"""Share of a step's computation that its backward pass is: two products a layer, the forward pass has one."""


@dataclass(frozen=True)
class Link:
    """Assumed: what a GPU sends over it in a second, four fifths of the nominal rate; seconds a message takes more."""

    name: str
    bytes_per_second: float
    latency: float


LINKS = (
    Link("NVLink 3 (300 GB/s each way)", 240e9, 5e-6),
    Link("PCIe 4.0 x16 (31.5 GB/s)", 25e9, 10e-6),
    Link("100 Gb/s Ethernet, one a GPU", 10e9, 20e-6),
)


@dataclass(frozen=True)
class Net:
    """What the formulas need of a network."""

    parameters: int
    convolutions: int
    """Parameters of them."""
    convolution_work: float
    """Their share of the multiply-adds."""
    crossing: int
    """Numbers an image that go into layers which read the maps or units of both towers."""
    linear: int
    """Numbers an image that go into linear layers."""
    classes: int


@dataclass(frozen=True)
class Sent:
    """By one process in a step: bytes, and messages that wait for one another."""

    gradients: float
    activations: float
    gradient_messages: int
    activation_messages: int

    @property
    def bytes(self) -> float:
        return self.gradients + self.activations

    def seconds(self, link: Link) -> tuple[float, float]:
        """Of the gradients and of the activations."""
        return (
            self.gradients / link.bytes_per_second + self.gradient_messages * link.latency,
            self.activations / link.bytes_per_second + self.activation_messages * link.latency,
        )


def net_of(config: TrainConfig, classes: int, crop: int) -> Net:
    """Traces shapes without computing."""
    with torch.device("meta"):
        model = build(classes, config)
        inputs: dict[str, int] = {}
        outputs: dict[str, int] = {}

        def note(name: str, _: nn.Module, args: Any, result: Tensor) -> None:
            inputs[name], outputs[name] = args[0][0].numel(), result[0].numel()

        layers = model.layers()
        for name, layer in layers.items():
            layer.register_forward_hook(partial(note, name))
        model(torch.empty(1, 3, crop, crop))
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    crossing = [name for name, layer in layers.items() if name in linear or getattr(layer, "groups", 0) == 1]
    work = {name: layer.weight[0].numel() * outputs[name] for name, layer in layers.items()}
    features = sum(p.numel() for p in model.features.parameters())
    return Net(
        parameters=sum(p.numel() for p in model.parameters()),
        convolutions=features,
        convolution_work=1 - sum(work[name] for name in linear) / sum(work.values()),
        crossing=sum(inputs[name] for name in crossing if name != "conv1"),
        linear=sum(inputs[name] for name in linear),
        classes=classes,
    )


def sent(net: Net, parallel: str, world: int, batch: int, bytes_each: tuple[int, int]) -> Sent:
    """`batch`: images a step over all processes, a multiple of them; `bytes_each`: of a gradient, of an activation.

    A ring's all-reduce sends each number 2 (world - 1) / world times, an all-gather or reduce-scatter half of that.
    """
    gradient, activation = bytes_each
    share = (world - 1) / world
    hops = world - 1

    def reduced(parameters: int) -> tuple[float, int]:
        buckets = -(-4 * parameters // BUCKET)
        return 2 * share * parameters * gradient, 2 * hops * buckets

    if parallel == "towers":  # conv3 and fc6-8 forward and backward, logits forward
        return Sent(0, share * batch * (2 * net.crossing + net.classes) * activation, 0, hops * 9)
    if parallel == "hybrid":  # fc6-8 and logits forward and backward
        gradients, messages = reduced(net.convolutions)
        return Sent(gradients, 2 * share * batch * (net.linear + net.classes) * activation, messages, hops * 8)
    gradients, messages = reduced(net.parameters)
    return Sent(gradients, 0, messages, 0)


def step_seconds(
    net: Net, parallel: str, world: int, batch: int, bytes_each: tuple[int, int], link: Link, rate: float
) -> float:
    """Gradients travel during the rest of the backward pass, activations while everything waits for them."""
    compute = batch / world / rate
    gradients, activations = sent(net, parallel, world, batch, bytes_each).seconds(link)
    hidden = BACKWARD * compute * (net.convolution_work if parallel == "hybrid" else 1)
    return compute + activations + max(0.0, gradients - hidden)


ROWS = {
    "data, fp32": ("data", (4, 4)),
    "data, bf16": ("data", (2, 2)),
    "towers, bf16": ("towers", (2, 2)),
    "hybrid, bf16": ("hybrid", (2, 2)),
}


def tables() -> str:
    """Markdown: bytes, then a table of step time and speed-up a link."""
    net = net_of(make_config("paper"), 1000, 224)
    head = (
        "".join(f" | {world} GPU{'s' * (world > 1)}" for world in WORLDS) + " |\n" + "| --- " * (len(WORLDS) + 1) + "|"
    )
    lines = [f"| MB a GPU sends a step (of them gradients){head}", *_rows(partial(_bytes, net))]
    for link in LINKS:
        lines += ["", f"| {link.name}: ms a step (times one GPU's rate){head}", *_rows(partial(_time, net, link))]
    return "\n".join(lines)


def _rows(cell: Callable[[str, int, int, tuple[int, int]], str]) -> Iterator[str]:
    for name, (parallel, bytes_each) in ROWS.items():
        worlds = WORLDS[:2] if parallel == "towers" else WORLDS
        cells = [cell(parallel, world, BATCH * world, bytes_each) for world in worlds]
        yield f"| {name} | " + " | ".join(cells + [""] * (len(WORLDS) - len(worlds))) + " |"


def _bytes(net: Net, parallel: str, world: int, batch: int, bytes_each: tuple[int, int]) -> str:
    what = sent(net, parallel, world, batch, bytes_each)
    return f"{what.bytes / 1e6:.0f} ({what.gradients / 1e6:.0f})"


def _time(net: Net, link: Link, parallel: str, world: int, batch: int, bytes_each: tuple[int, int]) -> str:
    seconds = step_seconds(net, parallel, world, batch, bytes_each, link, RATE)
    return f"{seconds * 1000:.1f} ({batch / seconds / RATE:.1f})"


@click.command()
def main() -> None:
    print(tables())


if __name__ == "__main__":
    main()
