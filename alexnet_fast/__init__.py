"""alexnet-fast: train AlexNet (Krizhevsky, Sutskever, Hinton 2012) as fast as the hardware allows.

For a training loop of one's own:

    from alexnet_fast import Loader, ShardSet

    split = ShardSet("shards/imagenet").split("train")
    for epoch in range(90):
        for images, labels in Loader.training(split, batch=256, epoch=epoch, device="cuda"):
            step(images, labels)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_fast.loading.augment import ColourJitter, CutMix, Erasing, MixUp
    from alexnet_fast.loading.batch import Batch
    from alexnet_fast.loading.datasets import IterableDataset, MapDataset
    from alexnet_fast.loading.loader import Loader
    from alexnet_fast.loading.sampling import Weighted, class_balanced, of_classes
    from alexnet_fast.shards.reader import ShardSet

__all__ = [
    "Batch",
    "ColourJitter",
    "CutMix",
    "Erasing",
    "IterableDataset",
    "Loader",
    "MapDataset",
    "MixUp",
    "ShardSet",
    "Weighted",
    "class_balanced",
    "of_classes",
]
__version__ = "0.1.0"
_MODULES = {
    "loading.augment": ("ColourJitter", "CutMix", "Erasing", "MixUp"),
    "loading.datasets": ("IterableDataset", "MapDataset"),
    "loading.loader": ("Loader",),
    "loading.batch": ("Batch",),
    "loading.sampling": ("Weighted", "class_balanced", "of_classes"),
    "shards.reader": ("ShardSet",),
}


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line must not wait for torch to print its help."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"alexnet_fast.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
