"""Point 6: decoding alone: how much the GPU's JPEG hardware should have, DALI's paddings, and the host beside them."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch

from tools.gpu_points.batches import loader
from tools.gpu_points.dali_graph import decoding
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import peak_gib, rate

PADDINGS = {"device_memory_padding": 1 << 20, "host_memory_padding": 1 << 20}
SIDE = "preallocate_width_hint", "preallocate_height_hint"


def run(setup: Setup, results: Results) -> None:
    batch = setup.batches[1]
    hints = dict.fromkeys(SIDE, setup.size)
    forms: dict[str, dict[str, Any]] = {
        "hw_decoder_load 0.65, default paddings": {"hw_decoder_load": 0.65},
        "hw_decoder_load 0.65, paddings of 1 MiB, hints": {"hw_decoder_load": 0.65, **PADDINGS, **hints},
        "hw_decoder_load 0": {"hw_decoder_load": 0.0, **PADDINGS, **hints},
        "hw_decoder_load 1": {"hw_decoder_load": 1.0, **PADDINGS, **hints},
    }
    results.put("batch", batch)
    results.put("threads", setup.threads)
    for name, decoder in forms.items():
        before = peak_gib(setup)
        started = perf_counter()
        pipeline = decoding(setup, batch, **decoder)
        built = perf_counter() - started
        pipeline.run()
        first = perf_counter() - started
        numbers = {"build_seconds": built, "first_batch_seconds": first}
        results.put(name, numbers | {"images_per_second": rate(pipeline.run, batch, setup)} | gib(before, setup))
        del pipeline
    batches = iter(loader(setup, "jpeg", batch, torch.uint8, device="cpu"))
    results.put("ours on the host alone", {"images_per_second": rate(lambda: next(batches), batch, setup)})


def gib(before: dict[str, float], setup: Setup) -> dict[str, float]:
    """The GPU memory that has come to be in use since `before`."""
    now = peak_gib(setup)
    return {"gib": now["device_in_use"] - before["device_in_use"]} if now else {}
