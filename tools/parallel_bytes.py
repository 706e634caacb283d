"""What each --parallel sends and how long that takes, in gloo processes on one machine, beside tools/scaling.py's.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 tools/parallel_bytes.py [--turns 5] [--batch 32] [--out FOLDER]

Whole training steps of the paper's net on random images. Bytes are the kernel's count of what left this process' TCP
sockets (TCP_INFO), so they know nothing of the prediction. Time of communication: a step's time less that of the same
step with nothing sent, in turns; predicted: bytes over what all-reduces and all-gathers alone reach here.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import click
import torch
import torch.distributed as dist
from torch import Tensor

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed import devices
from alexnet_fast.distributed.topology import Topology, barrier, run
from alexnet_fast.environment import environment
from alexnet_fast.loading.synthetic import synthetic
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.recipes import make_config
from alexnet_fast.training import placement
from alexnet_fast.training.state import initial_state
from alexnet_fast.training.step import DTYPES, train_step
from tools.scaling import BACKWARD, net_of, sent

BYTES_SENT = 200
"""Where Linux' struct tcp_info has tcpi_bytes_sent and then tcpi_bytes_retrans, 8 bytes each, since version 4.19."""
WARM_UP = 3


def bytes_sent() -> int:
    """Of all TCP sockets that this process has open, since they opened; without headers and what was sent again."""
    total = 0
    for file in list(Path("/proc/self/fd").iterdir()):
        if file.is_socket():
            with (
                suppress(OSError),
                socket.socket(fileno=os.dup(int(file.name))) as one,
            ):  # but those of TCP: no TCP_INFO
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                once_and_again, again = struct.unpack_from("<QQ", info, BYTES_SENT)
                total += once_and_again - again
    return total


@contextmanager
def nothing_sent() -> Iterator[None]:
    """Every process keeps to itself: as many numbers come back, none from another process."""

    def all_gather(parts: list[Tensor], own: Tensor, group: Any = None) -> None:
        for part in parts:
            part.copy_(own)

    with (
        patch.object(dist, "all_gather", all_gather),
        patch.object(dist, "all_to_all_single", lambda received, sent: received.copy_(sent)),
        patch.object(placement, "average_gradients", lambda model, topology, config: model),
    ):
        yield


def steps_of(config: TrainConfig, classes: int, topology: Topology) -> Callable[[], object]:
    """A training step of this process, on random images of its share of the batch."""
    state = initial_state(config, classes, topology.device)
    placed = placement.place(state.model, state.optimizer, topology, config)
    state.model, state.optimizer = placed.model, placed.optimizer
    share = replace(config, batch=config.batch // placed.data.world_size)
    batch = next(synthetic(share, classes, DTYPES[config.precision], topology.device))
    return lambda: train_step(placed.wrapped, state, batch, config, 1.0)


def measure(topology: Topology, config: TrainConfig, classes: int, turns: int) -> dict[str, Any]:
    """Of this process, a step each turn: bytes and seconds, and seconds with nothing sent."""
    keep_freed_memory()  # as the loader does
    step = steps_of(config, classes, topology)
    with nothing_sent():
        silent = steps_of(config, classes, topology)
    result: dict[str, list[float]] = {"bytes": [], "seconds": [], "silent_seconds": []}
    for turn in range(WARM_UP + turns):
        barrier(topology)
        before, started = bytes_sent(), perf_counter()
        step()
        seconds, count = perf_counter() - started, bytes_sent() - before
        barrier(topology)
        with nothing_sent():
            started = perf_counter()
            silent()
            silent_seconds = perf_counter() - started
        if turn >= WARM_UP:
            result["bytes"].append(count)
            result["seconds"].append(seconds)
            result["silent_seconds"].append(silent_seconds)
    net = net_of(config, classes, config.crop)
    activation = 2 if config.precision == "bf16" else 4
    expected = sent(net, config.parallel, topology.world_size, config.batch, (4, activation))  # gloo: fp32 gradients
    return {**result, "predicted_bytes": expected.bytes, "predicted_gradient_bytes": expected.gradients}


def bandwidths(topology: Topology, turns: int = 7) -> dict[str, float]:
    """Bytes a second that a process sends in all-reduces of a DDP bucket (25 MiB) and all-gathers of 2 MiB alone."""
    bucket, maps = torch.zeros(25 * 2**18), torch.zeros(2**19)
    parts = [torch.empty_like(maps) for _ in range(topology.world_size)]
    rates = {}
    collectives: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(bucket),
        "all_gather": lambda: dist.all_gather(parts, maps),
    }
    for name, collective in collectives.items():
        measured = []
        for _ in range(turns):
            barrier(topology)
            before, started = bytes_sent(), perf_counter()
            collective()
            measured.append((bytes_sent() - before) / (perf_counter() - started))
        rates[name] = median(measured)
    return rates


def describe(name: str, one: dict[str, Any], rates: dict[str, float]) -> str:
    """A row of the table."""
    gradients = one["predicted_gradient_bytes"] / rates["all_reduce"]
    activations = (one["predicted_bytes"] - one["predicted_gradient_bytes"]) / rates["all_gather"]
    hidden = BACKWARD * median(one["silent_seconds"])  # of hybrid nearly
    seconds = f"{activations + max(0.0, gradients - hidden):.2f} to {activations + gradients:.2f}"
    waits = [a - b for a, b in zip(one["seconds"], one["silent_seconds"], strict=True)]
    step = f"{median(one['seconds']):.2f} [{min(one['seconds']):.2f}-{max(one['seconds']):.2f}]"
    sizes = f"{median(one['bytes']) / 1e6:.2f} | {one['predicted_bytes'] / 1e6:.2f}"
    return f"| {name} | {sizes} | {step} | {median(waits):.2f} [{min(waits):.2f}-{max(waits):.2f}] | {seconds} |"


def everything(topology: Topology, turns: int, batch: int, precisions: list[str], out: Path | None) -> None:
    rates = bandwidths(topology)
    lines = [
        "| --parallel | MB sent a step | predicted | s a step | of them communication | predicted, overlapped to not |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    results: dict[str, Any] = {}
    for precision in precisions:
        for parallel in ("data", "towers", "hybrid"):
            if parallel == "towers" and topology.world_size != 2:
                continue
            config = make_config("paper", parallel=parallel, batch=batch, precision=precision, crop=224)
            results[f"{parallel}, {precision}"] = one = measure(topology, config, 1000, turns)
            lines.append(describe(f"{parallel}, {precision}", one, rates))
            if topology.first:
                print(lines[-1], flush=True)
    if topology.first:
        print("\n".join([*lines, f"bytes/s alone: {rates}"]))
        if out:
            out.mkdir(parents=True)
            about = {
                "processes": topology.world_size,
                "threads": torch.get_num_threads(),
                "batch": batch,
                "turns": turns,
            }
            body = {**about, "bytes_per_second": rates, "steps": results, **environment()}
            (out / "numbers.json").write_text(json.dumps(body, indent=1) + "\n")
            (out / "README.md").write_text("\n".join(["# Bytes and time of --parallel", "", *lines]) + "\n")


@click.command()
@click.option("--turns", default=5, show_default=True)
@click.option("--batch", default=32, show_default=True, help="Images a step over all processes.")
@click.option("--precision", "precisions", multiple=True, default=["fp32", "bf16"], show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(turns: int, batch: int, precisions: tuple[str, ...], out: Path | None) -> None:
    if not devices.started_by_torchrun():
        raise click.UsageError("start it with torchrun --nproc-per-node 2.")
    run(everything, 0, turns, batch, list(precisions), out)


if __name__ == "__main__":
    main()
