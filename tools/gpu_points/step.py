"""Point 5: the training step without a loader: how fast, of which parts, by which kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from alexnet_fast import environment
from alexnet_fast.loading.handover import centre
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import finish, milliseconds, peak_gib, rate
from tools.step_parts import Forms, both_ways, conv1, maps, norm
from tools.step_vs_stock import ours

NETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper without LRN": {"lrn": "none"},
    "half": {"arch": "half"},
    "bn": {"recipe": "fast"},
}
FORMS: dict[str, dict[str, bool]] = {
    "paper, conv1 by 4x4 blocks": {"conv1_by_blocks": True},
    "paper, a convolution a tower": {"groups_apart": True},
}
"""Of the convolutions, other than by default: arguments of `choose_forms`."""
PROFILED_STEPS = 10


def run(setup: Setup, results: Results) -> None:
    device = torch.device(setup.device)
    profiles = []
    for batch in setup.batches:
        for name, how in NETS.items():
            step = ours(batch, device=device, **setup.settings, **how)
            numbers: dict[str, Any] = {"images_per_second": rate(step, batch, setup), "gib": peak_gib(setup)}
            if name != "paper without LRN":
                kernels, table = profiled(step, setup)
                numbers |= kernels
                profiles.append(f"{name}, batch {batch}, {PROFILED_STEPS} steps\n{table}\n")
                Path(setup.work, "profile.txt").write_text("\n".join(profiles))
            results.put(f"{name}, batch {batch}", numbers)
            del step
            if setup.on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    for part, forms in parts(setup):
        results.put(part, {form: milliseconds(work, setup) for form, work in forms.items()})
    for name, how in FORMS.items():
        for batch in setup.batches:
            step = ours(batch, device=device, forms=how, **setup.settings)
            results.put(f"{name}, batch {batch}", {"images_per_second": rate(step, batch, setup)})


def profiled(step: Callable[[], object], setup: Setup) -> tuple[dict[str, float], str]:
    """The number of a step's kernels and their milliseconds in all, on a GPU; and the profiler's table."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setup.on_gpu else [])]
    steps = PROFILED_STEPS if setup.on_gpu else 1
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            step()
        finish(setup)
    averages = profiler.key_averages()
    table = averages.table(sort_by=f"self_{setup.device}_time_total", row_limit=40, max_name_column_width=90)
    kernels = [one for one in averages if one.device_type == DeviceType.CUDA]
    if not kernels:
        return {}, table
    total = sum(one.self_device_time_total for one in kernels) / 1000 / steps
    return {"kernel_ms": total, "kernels": sum(one.count for one in kernels) / steps}, table


def parts(setup: Setup) -> Iterator[tuple[str, Forms]]:
    """Forms to choose among, in milliseconds of the large batch, forward and backward but for `centre`."""
    batch, device, bf16 = setup.batches[1], setup.device, torch.bfloat16
    yield f"LRN of conv1's maps, batch {batch}", norm(maps(batch, 96, setup.crop // 4, bf16, device))
    yield f"LRN of conv2's maps, batch {batch}", norm(maps(batch, 256, setup.crop // 8, bf16, device))
    yield f"conv1, batch {batch}", conv1(maps(batch, 3, setup.crop + 3, bf16, device))
    for name, inputs, outputs, kernel, side in (
        ("conv2", 96, 256, 5, setup.crop // 8),
        ("conv4", 384, 384, 3, setup.crop // 16),
        ("conv5", 384, 256, 3, setup.crop // 16),
    ):
        x = maps(batch, inputs, side, bf16, device)
        yield f"{name}, two groups, batch {batch}", grouped(x, outputs, kernel)
    yield f"centre, batch {batch}", centred(setup, batch)


def grouped(x: Tensor, outputs: int, kernel: int) -> Forms:
    """A convolution of two groups, and the two as convolutions of their own."""
    layer = nn.Conv2d(x.shape[1], outputs, kernel, padding=kernel // 2, groups=2)
    layer = layer.to(x.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bias = layer.bias
    assert bias is not None

    def two(x: Tensor) -> Tensor:
        halves = zip(x.chunk(2, 1), layer.weight.chunk(2), bias.chunk(2), strict=True)
        return torch.cat([nn.functional.conv2d(*half, padding=kernel // 2) for half in halves], 1)

    wrt: list[Tensor] = [x.requires_grad_(), *layer.parameters()]
    return {"one of two groups": both_ways(layer, x, wrt), "two convolutions": both_ways(two, x, wrt)}


def centred(setup: Setup, batch: int) -> Forms:
    """The last pass over the pixels: as chosen on this machine, and by torch's operations."""
    shape = batch, setup.crop, setup.crop, 3
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=setup.device)
    out = torch.empty(shape, dtype=torch.bfloat16, device=setup.device)
    offset = torch.rand(batch, 3, device=setup.device) * 255

    def chosen() -> None:
        centre(pixels, batch // 2, offset, out)

    def by_torch() -> None:
        with patch.object(environment, "why_no_triton", lambda: "not wanted"):
            chosen()

    return {"as chosen": chosen, "torch's operations": by_torch}
