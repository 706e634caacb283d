"""Every random stream, by name: a function returns its generator or seed, from all that the numbers depend on.

Most streams are Philox, whose key and counter are set directly: so a stream can be had without those before it, and
none is seeded by another. Changing a key changes which images are in which tar, or what every past run has seen: shard
sets and checkpoints could not be continued.
"""

from __future__ import annotations

import numpy as np

Generator = np.random.Generator

_ORDER, _CROP, _MIRROR, _COLOUR, _DRAWS, _JITTER, _ERASING, _PAIRS, _MIXUP, _CUTMIX = range(10)
_VAL_SPLIT, _BUDGET_SAMPLE = 1 << 32, 2 << 32
"""In the place of a split's number, which is small."""


def epoch_order(seed: int, epoch: int) -> Generator:
    """In which order the samples of an epoch come."""
    return _philox(seed, epoch, _ORDER)


def epoch_crops(seed: int, epoch: int) -> Generator:
    """Where each sample of an epoch is cropped."""
    return _philox(seed, epoch, _CROP)


def epoch_mirrors(seed: int, epoch: int) -> Generator:
    """Which samples of an epoch are flipped."""
    return _philox(seed, epoch, _MIRROR)


def epoch_colours(seed: int, epoch: int) -> Generator:
    """The colour jitter of an epoch's samples."""
    return _philox(seed, epoch, _COLOUR)


def epoch_draws(seed: int, epoch: int) -> Generator:
    """Which samples an epoch consists of, where they are drawn by weight."""
    return _philox(seed, epoch, _DRAWS)


def epoch_jitter(seed: int, epoch: int) -> Generator:
    """Brightness, contrast and saturation of an epoch's samples."""
    return _philox(seed, epoch, _JITTER)


def epoch_erasing(seed: int, epoch: int) -> Generator:
    """Which boxes of an epoch's samples are erased."""
    return _philox(seed, epoch, _ERASING)


def epoch_pairs(seed: int, epoch: int) -> Generator:
    """Which pairs of an epoch's samples are mixed, how, and where a box is cut out."""
    return _philox(seed, epoch, _PAIRS)


def epoch_mixup(seed: int, epoch: int) -> Generator:
    """With which weights pairs are blended."""
    return _philox(seed, epoch, _MIXUP)


def epoch_cutmix(seed: int, epoch: int) -> Generator:
    """How large the boxes are that pairs exchange."""
    return _philox(seed, epoch, _CUTMIX)


def weights_seed(seed: int) -> int:
    """For torch's generator, before a network's first weights are drawn."""
    return seed


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """For torch's generator, before a step: so a resumed run draws what an uninterrupted one does. `step`: of the whole
    run; `rank`: processes that hold the same images of a step share one."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def stored_order(seed: int, split: int) -> Generator:
    """In which order a split's images are stored. `split`: its number in the shard set."""
    return _philox(seed, split)


def val_split(seed: int) -> Generator:
    """Which training images --val-fraction takes."""
    return _philox(seed, _VAL_SPLIT)


def budget_sample(seed: int) -> Generator:
    """By which images --budget learns the size of a JPEG."""
    return _philox(seed, _BUDGET_SAMPLE)


def report_sample() -> Generator:
    """Which images a report or a table looks at where it does not look at all of them: the same in every report."""
    return np.random.default_rng(0)


def drawn_image(seed: int, split: int, label: int, number: int) -> Generator:
    """One of the demo's images: image `number` of a class in a split."""
    return np.random.default_rng((seed, split, label, number))


def _philox(seed: int, second: int, stream: int = 0) -> Generator:
    """(seed, second) is the key, and each stream has counters of its own."""
    key, counter = np.array([seed, second], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
