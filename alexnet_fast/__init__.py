"""alexnet-fast: train AlexNet (Krizhevsky, Sutskever, Hinton 2012) as fast as the hardware allows.

For a training loop of one's own:

    from alexnet_fast import Loader, ShardSet

    split = ShardSet("shards/imagenet").split("train")
    for epoch in range(90):
        for batch in Loader.training(split, batch=256, epoch=epoch, device="cuda"):
            step(batch.images, batch.labels)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_fast.loading.loader import Loader
    from alexnet_fast.loading.pipeline import Batch
    from alexnet_fast.shards.reader import ShardSet

__all__ = ["Batch", "Loader", "ShardSet"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line must not wait for torch to print its help."""
    if name == "ShardSet":
        from alexnet_fast.shards.reader import ShardSet

        return ShardSet
    if name in __all__:
        from alexnet_fast.loading import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
