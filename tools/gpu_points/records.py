"""Point 10: `bench` of both recipes on both sets, beside torch's own AlexNet and DALI's own reader."""

from __future__ import annotations

import json
from typing import Any

import torch

from tools.gpu_points.sets import product
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import rate
from tools.peer_loaders import DALI_JPEG, DALI_RAW, Job
from tools.peer_loaders import run as run_peer
from tools.step_vs_stock import stock, stock_onetower, stock_paper


def run(setup: Setup, results: Results) -> None:
    """What a record needs most comes first: time may end it."""
    stock_steps(setup, results)
    if setup.on_gpu:
        torch.cuda.empty_cache()  # for the processes that follow
    stock_dali(setup, results)
    small, large = setup.batches
    cases = [("paper", "jpeg", large), ("paper", "raw", large), ("paper", "raw", small)]
    cases += [("fast", "jpeg", large), ("fast", "raw", large)]
    for recipe, encoding, batch in cases if setup.on_gpu else cases[:1]:
        results.put(f"bench, {recipe}, {encoding}, batch {batch}", bench(setup, recipe, encoding, batch))


def bench(setup: Setup, recipe: str, encoding: str, batch: int) -> dict[str, Any]:
    options = ["--recipe", recipe, "--batch", str(batch), "--turns", str(min(setup.turns, 2)), "--json", "-"]
    where = ["--shards", str(setup.shards(encoding)), "--gpus", str(int(setup.on_gpu))]
    body: dict[str, Any] = json.loads(product("bench", *where, *options))
    del body["environment"]
    return body


def stock_steps(setup: Setup, results: Results) -> None:
    """torchvision's AlexNet, and the paper's net of torch's layers."""
    torch.backends.cudnn.benchmark = True  # as for ours
    forms = {
        "torchvision's AlexNet, fp32, NCHW": (stock_onetower, False),
        "torchvision's AlexNet, bf16, channels-last": (stock_onetower, True),
        "the paper's net of torch's layers, bf16, channels-last": (stock_paper, True),
    }
    for batch in setup.batches if setup.on_gpu else setup.batches[:1]:
        for name, (build, fast) in list(forms.items())[: None if setup.on_gpu else 1]:
            step = stock(build(), batch, fast=fast, device=torch.device(setup.device))
            results.put(f"{name}, batch {batch}", {"images_per_second": rate(step, batch, setup)})


def stock_dali(setup: Setup, results: Results) -> None:
    """readers.webdataset, decoder, crop_mirror_normalize. The variants whose batches are channels-last, as ours."""
    variants = {"jpeg": ["DALI image_crop, HWC"], "raw": ["DALI numpy, HWC", "DALI reshape, HWC"]}
    assert {*variants["jpeg"], *variants["raw"]} <= {*DALI_JPEG, *DALI_RAW}
    for encoding, loaders in variants.items():
        for loader in loaders if setup.on_gpu else loaders[:1]:
            job = Job(
                loader,
                "float32",
                str(setup.shards(encoding)),
                threads=setup.threads,
                batch=setup.batches[1],
                images=setup.batches[1],
                seconds=4 * setup.seconds,
                warm_up=5,
                gpu=setup.on_gpu,
            )
            try:
                results.put(f"stock {loader}, {encoding}", run_peer("rate", job))
            except RuntimeError as error:  # a variant that does not run is no failure of ours
                results.put(f"stock {loader}, {encoding}", {"failed": str(error)})
