"""The augmentations of augment.py, applied to a batch on its device: brightness, contrast, saturation, erasing, mixing.

The results are the same bits for any number of threads and however rows are shared among batches: each operation is on
single values, and the one mean over an image is of whole numbers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.loading.augment import Effects
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.handover import CHUNK, copied

GREY = 0.2989, 0.587, 0.114
"""Weights of R, G and B, as in torchvision."""


def augmented(
    batch: Batch, offset: torch.Tensor, mean: NDArray[np.float32], dtype: torch.dtype, num_classes: int
) -> Batch:
    """The batch of uint8 images after its rows' effects, images of type `dtype`. The other arguments: of `applied`."""
    effects, device = batch.rows.effects, batch.images.device
    assert effects is not None
    images = applied(batch.images.permute(0, 2, 3, 1), effects, offset, mean, dtype).permute(0, 3, 1, 2)
    if effects.partner is None or effects.weights is None:
        return replace(batch, images=images)
    others = batch.labels[_column(effects.partner, device)]
    weights = _column(effects.weights, device)
    return replace(batch, images=images, other_labels=others, weights=weights, num_classes=num_classes)


def applied(
    pixels: torch.Tensor, effects: Effects, offset: torch.Tensor, mean: NDArray[np.float32], dtype: torch.dtype
) -> torch.Tensor:
    """uint8 `pixels` (n, h, w, 3) -> the same shape of type `dtype`: jittered, minus the image's RGB `offset` (n, 3),
    which is on their device, erased, mixed. Where `dtype` is uint8 nothing is subtracted, and the rounded `mean` (3,)
    erases."""
    n, height, width, _ = pixels.shape
    device = pixels.device
    chunk = CHUNK if device.type == "cpu" else n
    parts = [slice(start, start + chunk) for start in range(0, n, chunk)]
    is_mixed = effects.partner is not None
    images = torch.empty(pixels.shape, dtype=torch.float32 if is_mixed else dtype, device=device)
    offset = offset[:, None, None]
    jitter = None if effects.jitter is None else _column(effects.jitter, device)
    erased = None if effects.erased is None else _inside(effects.erased, height, width, device)
    fill = _column(np.rint(mean), device) if dtype == torch.uint8 else torch.zeros(3, device=device)
    for part in parts:
        block = pixels[part].float()
        if effects.jitter is not None and jitter is not None:
            _jitter(block, jitter[part, None, None], [bool((column != 1).any()) for column in effects.jitter.T])
        if dtype == torch.uint8:
            block.round_()
        else:
            block -= offset[part]
        if erased is not None:
            block = torch.where(erased[part], fill, block)
        images[part] = block
    if effects.partner is None or effects.weights is None or effects.pasted is None:
        return images
    mixed = torch.empty(pixels.shape, dtype=dtype, device=device)
    partner, pasted = _column(effects.partner, device), _inside(effects.pasted, height, width, device)
    is_blended = effects.pasted[:, 2] == 0
    weights = _column(np.where(is_blended, effects.weights, np.float32(1)), device)[:, None, None, None]
    for part in parts:
        own = torch.where(pasted[part], 0, weights[part])
        block = images[part] * own + images[partner[part]] * (1 - own)
        mixed[part] = block.round_() if dtype == torch.uint8 else block
    return mixed


def _jitter(block: torch.Tensor, factors: torch.Tensor, used: list[bool]) -> None:
    """Brightness, contrast and saturation of `block` (n, h, w, 3), in place; `factors` (n, 1, 1, 3)."""
    brightness, contrast, saturation = (factors[..., i : i + 1] for i in range(3))
    if used[0]:
        block.mul_(brightness).clamp_(0, 255)
    if used[1]:
        total = _grey(block).round_().long().sum((1, 2), keepdim=True)
        mean = total / (block.shape[1] * block.shape[2])
        block.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 255)
    if used[2]:
        grey = _grey(block)
        block.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 255)


def _grey(block: torch.Tensor) -> torch.Tensor:
    """(n, h, w, 1). In steps of one operation: a fused one might round otherwise in another place."""
    red, green, blue = (block[..., i : i + 1] * weight for i, weight in enumerate(GREY))
    return red.add_(green).add_(blue)


def _inside(boxes: NDArray[np.uint16], height: int, width: int, device: torch.device) -> torch.Tensor:
    """(n, height, width, 1) whether a pixel is in its image's box of `boxes` (n, 4)."""
    top, left, rows, columns = (_column(boxes[:, i].astype(np.int32), device)[:, None] for i in range(4))
    y, x = torch.arange(height, device=device), torch.arange(width, device=device)
    in_rows, in_columns = (y >= top) & (y < top + rows), (x >= left) & (x < left + columns)
    return (in_rows[:, :, None] & in_columns[:, None])[..., None]


def _column(values: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    return copied(torch.from_numpy(np.ascontiguousarray(values)), device)
