"""How many training samples of a mixed set can be raw pixels, so that the whole set fits its budget of bytes.

FFCV's best idea: raw pixels need no decoding but ten times the disk, so a disk that is too small for all of them
still spares the decoder that share of its work.
"""

from __future__ import annotations

import math
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alexnet_fast import random
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Images, Source
from alexnet_fast.sharding.plan import Options, Plan
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.shards.format import raw_bytes
from alexnet_fast.text import byte_text

SAMPLED = 256
"""Images of each split that are converted to learn the size of a JPEG: their mean is good to some 3 %."""
SPARE = 2
"""Standard errors of that mean by which JPEGs are taken for larger: the set is to fit, not to fit as often as not."""
AROUND = 3 * tarfile.BLOCKSIZE + 128
"""Bytes of a sample beside its image: two tar headers and the label; its rows of both indexes."""


def estimate_raw_share(source: Source, plan: Plan, print_line: Callable[[str], None]) -> float:
    """Returns the share of training samples that fit raw, 0 to 1: the same on any machine.

    Raises InputError when not even JPEGs fit.
    """
    options, budget = plan.options, plan.options.budget or 0
    jpeg = {split: _jpeg_bytes(source.root, images, options) for split, images in source.splits.items()}
    least = sum(plan.images[split] * (size + AROUND) for split, size in jpeg.items())
    least += tarfile.RECORDSIZE * sum(plan.tars.values())  # the end of a tar is half of that: the rest is the manifest
    more = plan.images.get("train", 0) * (_in_blocks(raw_bytes(options.size)) - jpeg.get("train", 0))
    if budget < least:
        needed = byte_text(least, round_up=True)  # so that it is enough
        raise InputError(
            f"--budget is too small: the set may take {needed} when every image is a JPEG. Give at least that, or a "
            "smaller --size or --quality."
        )
    share = math.floor(1e4 * min((budget - least) / max(more, 1), 1)) / 1e4
    text = f"{100 * share:.4g} % of the training images raw, {byte_text(least + share * more)} in all"
    print_line(f"{text}: the budget holds more" if share == 1 else text)
    return share


def _jpeg_bytes(root: Path, images: Images, options: Options) -> float:
    """Returns the bytes that a split's average JPEG takes in a tar, or a little more."""
    rng = random.budget_sample(options.seed)
    chosen = np.sort(rng.choice(len(images), min(SAMPLED, len(images)), replace=False))
    sizes = np.array(list(_jpeg_sizes(root, images.select(chosen), options)) or [0])
    error = sizes.std() / math.sqrt(len(sizes)) * math.sqrt(1 - len(chosen) / len(images))  # none when all were seen
    return float(sizes.mean() + SPARE * error)


def _jpeg_sizes(root: Path, images: Images, options: Options) -> Iterator[int]:
    """Yields the bytes that each image takes in a tar as JPEG."""
    from alexnet_fast.sharding import decode  # may import torch: only where images are made

    for _, data in read_images(root, list(images)):
        try:
            if isinstance(data, bytes):
                found = decode.convert(
                    data,
                    size=options.size,
                    encoding="jpeg",
                    quality=options.quality,
                    keep=options.keep,
                    rule=options.rule,
                )
                yield _in_blocks(len(found.data))
        except ValueError:
            pass  # no image: it will be left out


def _in_blocks(size: int) -> int:
    """Returns `size` rounded up to whole tar blocks."""
    return size + -size % tarfile.BLOCKSIZE
