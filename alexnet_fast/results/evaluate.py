"""Exact top-1 and top-5 over every image of a split, one view or ten."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.console import Progress
from alexnet_fast.errors import InputError
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.plan import evaluation_rows
from alexnet_fast.shardset import Pixels, ShardSet, Split
from alexnet_fast.training import checkpoint
from alexnet_fast.training.distributed import Topology, check_gpus, sum_over_processes

BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Per cent of `images`; `views` averaged for each. `damaged` of the images could not be read: counted as wrong."""

    top1: float
    top5: float
    images: int
    views: int
    damaged: int = 0


def evaluate(
    models: list[nn.Module],
    split: Split,
    pixels: Pixels,
    topology: Topology,
    *,
    crop: int,
    views: int = 1,
    dtype: torch.dtype = torch.float32,
    threads: int = 2,
    progress: Callable[[int], None] = lambda images: None,
) -> Accuracy:
    """Counts every image once, whatever the number of processes: nothing is padded or dropped.

    `models`: their softmax is averaged, as the paper does for 5 and 7 networks.

    `views`: 1, the central crop; 10, corners and centre and their mirror images, softmax averaged (the paper's
    section 4.1). `dtype`: what the network computes in. `crop`: side of the network's input, pixels.
    `progress` is told the number of images this process has done.
    """
    side = split.size if views == 10 else crop
    batch = BATCH if views == 1 else BATCH // 8
    rows = evaluation_rows(len(split), batch, margin=split.size - side, rank=topology.rank, world=topology.world)
    loader = Loader(
        split,
        pixels,
        rows,
        max_batch=batch,
        crop=side,
        device=topology.device,
        dtype=dtype,
        threads=threads,
        strict=True,
    )
    counts = torch.zeros(3, dtype=torch.int64, device=topology.device)
    done = 0
    for model in models:
        model.eval()
    with torch.inference_mode(), torch.autocast(topology.device.type, dtype, enabled=dtype != torch.float32):
        for item in loader:
            inputs = ten_views(item.images, crop) if views == 10 else [item.images]
            counts += count_correct(predict(models, inputs), item.labels)
            done += len(item.labels)
            progress(done)
    damaged = torch.tensor([len(loader.damaged)], device=topology.device)
    top1, top5, images, unread = sum_over_processes(torch.cat([counts, damaged]), topology).tolist()
    if images != len(split):
        raise AssertionError(f"evaluated {images} of {len(split)} images")
    return Accuracy(100 * top1 / images, 100 * top5 / images, images, views, unread)


def damage_note(accuracy: Accuracy) -> str:
    """For the line that shows the accuracy; empty when every image could be read."""
    if not accuracy.damaged:
        return ""
    return f"; {accuracy.damaged:,} damaged images counted as wrong (alexnet-fast verify names them)"


def predict(models: list[nn.Module], views: list[Tensor]) -> Tensor:
    """Views (N, 3, S, S) of the same images -> (N, classes): mean softmax over views and networks."""
    return torch.stack([model(view).float().softmax(1) for model in models for view in views]).mean(0)


def ten_views(images: Tensor, crop: int) -> list[Tensor]:
    """Four corners and the centre of (N, 3, S, S), then the five mirrored."""
    margin = images.shape[-1] - crop
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    crops = [images[:, :, top : top + crop, left : left + crop] for top, left in corners]
    return crops + [view.flip(3) for view in crops]


def count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """(3,) int64: images whose label is the highest score, is among the five highest, and all."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([best[:, 0].sum(), best.sum(), torch.full((), len(labels), device=labels.device)])


def evaluate_checkpoints(
    paths: list[Path],
    shards: str | None,
    split: str,
    views: int,
    gpus: int | None,
    cache: str | None = None,
    cache_bytes: int | None = None,
) -> Accuracy:
    """Evaluates checkpoints or run folders on one device. Raises InputError when networks and shards do not fit.

    `cache` and `cache_bytes` are ShardSet's; None: the training's.
    """
    states = [checkpoint.load(checkpoint.find(path)) for path in paths]
    configs = [TrainConfig(**state["config"]) for state in states]
    cache_bytes = configs[0].cache_bytes if cache_bytes is None else cache_bytes
    shard_set = ShardSet(shards or configs[0].shards, cache or configs[0].cache, cache_bytes or None)
    classes = [entry["id"] for entry in shard_set.manifest.classes]
    for path, state in zip(paths, states, strict=True):
        if [entry["id"] for entry in state["classes"]] != classes:
            raise InputError(f"{path} was trained on other classes than those of {shard_set.location}.")
    if len({config.crop for config in configs}) > 1:
        raise InputError("these networks take inputs of different sizes, so they cannot be averaged.")
    if gpus is None:
        gpus = int(torch.cuda.is_available())
    check_gpus(gpus)
    device = torch.device("cuda", 0) if gpus else torch.device("cpu")
    models = [checkpoint.build_model(state).on(device) for state in states]
    if any(state["pixels"] != states[0]["pixels"] for state in states):
        raise InputError("these networks were trained with different pixel means, so they cannot be averaged.")
    images = shard_set.split(split)
    if configs[0].crop > images.size:
        raise InputError(
            f"the network takes {configs[0].crop} px, the images of {shard_set.location} have {images.size}. "
            f"Shard them with --size {-(-configs[0].crop * 8 // 7)}."
        )
    with Progress("evaluating", len(images)) as progress:
        return evaluate(
            list[nn.Module](models),
            images,
            Pixels(**states[0]["pixels"]),
            Topology(0, 1, device),
            crop=configs[0].crop,
            views=views,
            threads=len(os.sched_getaffinity(0)),
            progress=lambda done: progress.update(done, f"{done:,}/{len(images):,} images"),
        )
