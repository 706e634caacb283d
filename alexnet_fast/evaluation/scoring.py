"""Exact top-1 and top-5 over every image of a split, one view or ten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alexnet_fast.distributed.stalls import watched
from alexnet_fast.distributed.topology import Topology, sum_over_processes
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.checks import check_crop
from alexnet_fast.loading.epochs import evaluated_side
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.format import SQUARE
from alexnet_fast.shards.reader import Split

BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Per cent of `images`; `views` averaged for each. `corrupt` of the images could not be read: counted as wrong."""

    top1: float
    top5: float
    images: int
    views: int
    corrupt: int = 0


@dataclass(frozen=True)
class Member:
    """A network of an average: `crop`, the side of its input, pixels; `mean`, RGB 0-255, what is subtracted from it."""

    model: nn.Module
    crop: int
    mean: list[float]


class Stopped(Exception):
    """The evaluation was stopped before its end."""


def evaluate(
    member: Member,
    split: Split,
    topology: Topology,
    *,
    views: int = 1,
    dtype: torch.dtype = torch.float32,
    threads: int = 2,
    stopped: Callable[[], bool] = lambda: False,
) -> Accuracy:
    """Returns the accuracy of a network on a split, each image counted once over all processes. The arguments are
    those of `ScoringPass`. Raises Stopped, in all processes, when `stopped` returns true in one."""
    scores = ScoringPass([member], split, topology, views=views, dtype=dtype, threads=threads)
    counts = torch.zeros(3, dtype=torch.int64, device=topology.device)
    stop = False
    for batch, each in scores:
        counts += count_correct(each[0], batch.labels)
        if stop := stopped():
            break
    others = torch.tensor([len(scores.corrupt), int(stop)], device=topology.device)
    top1, top5, images, corrupt, stops = sum_over_processes(torch.cat([counts, others]), topology).tolist()
    if stops and images < len(split):
        raise Stopped
    if images != len(split):
        raise AssertionError(f"evaluated {images} of {len(split)} images")
    return Accuracy(100 * top1 / images, 100 * top5 / images, images, views, corrupt)


class ScoringPass:
    """Iterates over batches and the softmax of each network, (networks, n, classes), its mean over the views.

    Every image of the split, or of its `samples`, comes once over all processes, in that order but for the order inside
    a batch. Of a corrupt image the batch shows a neighbour, under the label UNLABELLED; `corrupt` names them by sample.
    `views`: 1, the central crop; 10, corners and centre and their mirror images (the paper's section 4.1). Where the
    networks' crops differ, each takes its own from the same stored image. `dtype`: what the networks compute in.
    Raises InputError when a crop is larger than the stored images.
    """

    def __init__(
        self,
        members: list[Member],
        split: Split,
        topology: Topology,
        *,
        views: int = 1,
        samples: NDArray[np.int64] | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> None:
        crops = {member.crop for member in members}
        side = evaluated_side(split, max(crops))
        check_crop(max(crops), side)
        self._members, self._views, self._dtype, self._topology = members, views, dtype, topology
        self._loader = Loader.evaluation(
            split,
            batch=BATCH if views == 1 else BATCH // 8,
            samples=samples,
            crop=crops.pop() if views == 1 and len(crops) == 1 else side,
            resize=None if split.shape == SQUARE else side,
            mean=members[0].mean,
            rank=topology.rank,
            world_size=topology.world_size,
            device=topology.device,
            dtype=dtype,
            threads=threads,
        )
        for member in members:
            member.model.eval()

    @property
    def corrupt(self) -> dict[int, str]:
        return self._loader.corrupt

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        for batch in watched(self._loader, self._topology):
            device = self._topology.device.type
            with torch.inference_mode(), torch.autocast(device, self._dtype, enabled=self._dtype != torch.float32):
                each = torch.stack([self._softmax(member, batch.images) for member in self._members])
            yield batch, each

    def _softmax(self, member: Member, images: Tensor) -> Tensor:
        if member.mean != self._members[0].mean:
            difference = [first - own for first, own in zip(self._members[0].mean, member.mean, strict=True)]
            images = images + torch.tensor(difference, dtype=images.dtype, device=images.device)[:, None, None]
        return predict([member.model], views_of(images, member.crop, self._views))


def corruption_note(accuracy: Accuracy) -> str:
    """For the line that shows the accuracy; empty when every image could be read."""
    note = f"; {accuracy.corrupt:,} corrupt images counted as wrong (alexnet-fast verify names them)"
    return note if accuracy.corrupt else ""


def predict(models: list[nn.Module], views: list[Tensor]) -> Tensor:
    """Views (N, 3, S, S) of the same images -> (N, classes): mean softmax over views and networks."""
    return torch.stack([model(view).float().softmax(1) for model in models for view in views]).mean(0)


def views_of(images: Tensor, crop: int, views: int) -> list[Tensor]:
    """The central crop of (N, 3, S, S); with 10 views four corners and the centre, then the five mirrored."""
    margin = images.shape[-1] - crop
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin)] if views == 10 else []
    places = [*corners, (margin // 2, margin // 2)]
    crops = [images[:, :, top : top + crop, left : left + crop] for top, left in places]
    return crops + [view.flip(3) for view in crops] if views == 10 else crops


def count_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """(3,) int64: images whose label is the highest score, is among the five highest, and all."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([best[:, 0].sum(), best.sum(), torch.full((), len(labels), device=labels.device)])
