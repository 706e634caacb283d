"""A batch on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from alexnet_fast.loading.plan import Rows


@dataclass(frozen=True)
class Batch:
    """`images` (n, 3, crop, crop) in channels-last memory, RGB 0-255 minus the mean; `labels` (n,) int64. The order
    inside a batch is the loader's: `rows` says which sample each image is. Unpacks as `images, targets = batch`.

    Of mixed images, `weights` (n,) float32 is the share of `labels`, the rest being of `other_labels` (n,); None where
    nothing is mixed. `num_classes`: of the split.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: Rows
    other_labels: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    num_classes: int = 0

    @property
    def targets(self) -> torch.Tensor:
        """What `cross_entropy` takes: the labels, or of mixed images the shares (n, num_classes) of the classes."""
        if self.other_labels is None or self.weights is None:
            return self.labels
        share, classes = self.weights[:, None], torch.arange(self.num_classes, device=self.labels.device)
        first, second = (labels[:, None] == classes for labels in (self.labels, self.other_labels))
        return first * share + second * (1 - share)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Those that are there, by name: what is copied where a batch is."""
        columns = {name: getattr(self, name) for name in ("images", "labels", "other_labels", "weights")}
        return {name: column for name, column in columns.items() if column is not None}

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield self.images
        yield self.targets

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on that device, as `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with `change` of each of its tensors in its place."""
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in self.tensors.items()}
        return replace(self, **changed)
