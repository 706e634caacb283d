"""Augmentations beyond crops, mirror images and PCA colour: what they are, and how the plan draws them. NumPy only.

Each is a pure function of (seed, epoch) and the row, like the rest of the plan. effects.py applies them to pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import random
from alexnet_fast.errors import InputError

ATTEMPTS = 10
"""At a box to erase that lies inside its image, before nothing is erased: as in torchvision."""


@dataclass(frozen=True)
class ColourJitter:
    """Brightness, contrast and saturation, in this order, each multiplied by a factor from 1 - value to 1 + value, not
    below 0. The formulas are those of torchvision's ColorJitter, without rounding in between."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < np.inf:
                raise InputError(f"{field.name} is {value!r}; it must be a number, 0 or more.")


@dataclass(frozen=True)
class Erasing:
    """A box of some images is filled with the mean colour: torchvision's RandomErasing. `p`: the share of the images;
    `scale`: range of the box's share of the image's area; `ratio`: of its height divided by its width."""

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _check_share(self.p)
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1] < np.inf:
            raise InputError(
                f"scale {self.scale} and ratio {self.ratio} of Erasing must be ranges above 0, that of scale up to 1."
            )


@dataclass(frozen=True)
class MixUp:
    """Pairs of images are blended (arXiv 1710.09412), the first's weight being of Beta(alpha, alpha). `p`: the share of
    the pairs; where there is CutMix too, each has half of them."""

    alpha: float = 0.2
    p: float = 1.0

    def __post_init__(self) -> None:
        _check_mixing(self.alpha, self.p)


@dataclass(frozen=True)
class CutMix:
    """Each image of a pair gets a box of the other (arXiv 1905.04899), whose area is of 1 - Beta(alpha, alpha). `p`: as
    in MixUp."""

    alpha: float = 1.0
    p: float = 1.0

    def __post_init__(self) -> None:
        _check_mixing(self.alpha, self.p)


Augmentation = ColourJitter | Erasing | MixUp | CutMix


@dataclass(frozen=True)
class Effects:
    """What augmentations do to n rows. A column is None where that augmentation is off."""

    jitter: NDArray[np.float32] | None = None
    """(n, 3) factors of brightness, contrast and saturation."""
    erased: NDArray[np.uint16] | None = None
    """(n, 4) top, left, height and width of the box that is erased; of no height: none."""
    partner: NDArray[np.int64] | None = None
    """(n,) place among these rows of the one that each is mixed with; its own: none."""
    weights: NDArray[np.float32] | None = None
    """(n,) a row's own share of its mixed image, and of the label."""
    pasted: NDArray[np.uint16] | None = None
    """(n, 4) the box that is the partner's; of no height: the whole images are blended."""

    def take(self, order: NDArray[np.int64]) -> Effects:
        """Those at the places `order`, among which both rows of a pair have to be."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        taken = {name: column[order] for name, column in columns.items() if column is not None}
        if self.partner is not None:
            places = np.zeros(len(self.partner), np.int64)
            places[order] = np.arange(len(order))
            taken["partner"] = places[taken["partner"]]
        return replace(self, **taken)


class Draws:
    """Draws the effects of an epoch's rows, in order. `crop`: side of the images, pixels."""

    def __init__(self, augment: Sequence[Augmentation], seed: int, epoch: int, crop: int) -> None:
        self._by_kind = {type(one): one for one in augment}
        self._crop = crop
        self._jitter = random.epoch_jitter(seed, epoch)
        self._erasing = random.epoch_erasing(seed, epoch)
        self._pairs = random.epoch_pairs(seed, epoch)
        self._weights = {MixUp: random.epoch_mixup(seed, epoch), CutMix: random.epoch_cutmix(seed, epoch)}

    def step(self, n: int) -> Effects | None:
        """The next n rows, which are a step: pairs are its rows 0 and 1, 2 and 3, ...; None without augmentations."""
        if not self._by_kind:
            return None
        effects = Effects()
        jitter, erasing = self._by_kind.get(ColourJitter), self._by_kind.get(Erasing)
        if isinstance(jitter, ColourJitter):
            effects = replace(effects, jitter=self._factors(jitter, n))
        if isinstance(erasing, Erasing):
            effects = replace(effects, erased=self._boxes(erasing, n))
        if mixes(self._by_kind.values()):
            partner, weights, pasted = self._mixed(n)
            effects = replace(effects, partner=partner, weights=weights, pasted=pasted)
        return effects

    def _factors(self, jitter: ColourJitter, n: int) -> NDArray[np.float32]:
        values = np.array([jitter.brightness, jitter.contrast, jitter.saturation])
        low, high = np.maximum(1 - values, 0), 1 + values
        return np.asarray(low + (high - low) * self._jitter.random((n, 3)), np.float32)

    def _boxes(self, erasing: Erasing, n: int) -> NDArray[np.uint16]:
        """As torchvision's RandomErasing.get_params."""
        is_erased, corner = self._erasing.random(n) < erasing.p, self._erasing.random((n, 2))
        shares, ratios = np.moveaxis(self._erasing.random((n, 2, ATTEMPTS)), 1, 0)
        low, high = np.log(erasing.ratio)
        areas = self._crop**2 * (erasing.scale[0] + (erasing.scale[1] - erasing.scale[0]) * shares)
        aspects = np.exp(low + (high - low) * ratios)
        shapes = np.rint(np.sqrt(np.stack([areas * aspects, areas / aspects], axis=2))).astype(np.int64)
        fits = (shapes < self._crop).all(axis=2)
        shape = shapes[np.arange(n), fits.argmax(axis=1)]
        corners = (corner * (self._crop - shape + 1)).astype(np.int64)
        boxes = np.concatenate([corners, shape], axis=1)
        return np.where((is_erased & fits.any(axis=1))[:, None], boxes, 0).astype(np.uint16)

    def _mixed(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint16]]:
        """The columns `partner`, `weights` and `pasted`. Drawn a row, so that another batch changes only the pairs; a
        pair's are its first row's."""
        uniform = self._pairs.random((n, 4))
        kinds = [kind for kind in (MixUp, CutMix) if kind in self._by_kind]
        chosen = (uniform[:, 0] * len(kinds)).astype(np.int64)
        weights, pasted = np.ones(n), np.zeros((n, 4), np.int64)
        is_mixed = np.zeros(n, bool)
        for place, kind in enumerate(kinds):
            mixing = self._by_kind[kind]
            assert isinstance(mixing, (MixUp, CutMix))
            drawn = self._weights[kind].beta(mixing.alpha, mixing.alpha, n)
            used = (chosen == place) & (uniform[:, 1] < mixing.p)
            if kind is CutMix:
                boxes = self._cut(drawn, uniform[:, 2:])
                pasted[used] = boxes[used]
                drawn = 1 - boxes[:, 2] * boxes[:, 3] / self._crop**2
            weights[used] = drawn[used]
            is_mixed |= used
        first = np.arange(n) // 2 * 2
        partner = first * 2 + 1 - np.arange(n)
        alone = ~is_mixed[first] | (partner >= n)
        partner[alone] = np.arange(n)[alone]
        weights, pasted = np.where(alone, 1, weights[first]), np.where(alone[:, None], 0, pasted[first])
        return partner, weights.astype(np.float32), pasted.astype(np.uint16)

    def _cut(self, weights: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
        """As torchvision's CutMix: squares of the area 1 - weight around any pixel, cut off at the edges; where nothing
        is left, of no height."""
        half = (0.5 * np.sqrt(1 - weights) * self._crop).astype(np.int64)[:, None]
        centre = (centres * self._crop).astype(np.int64)
        start, stop = np.maximum(centre - half, 0), np.minimum(centre + half, self._crop)
        return np.concatenate([start, stop - start], axis=1)


def mixes(augment: Iterable[Augmentation]) -> bool:
    """Whether images are mixed in pairs."""
    return any(isinstance(one, (MixUp, CutMix)) for one in augment)


def check_augment(augment: Sequence[Augmentation]) -> None:
    """Raises InputError for what is no augmentation, or one twice."""
    allowed = ColourJitter, Erasing, MixUp, CutMix
    kinds = [type(one) for one in augment] if isinstance(augment, Sequence) else [type(None)]
    names = ", ".join(kind.__name__ for kind in allowed)
    if not set(kinds) <= set(allowed) or len(set(kinds)) < len(kinds):
        raise InputError(f"augment is {augment!r}; it must be a list of {names}, each at most once.")


def _check_share(p: float) -> None:
    if not 0 <= p <= 1:
        raise InputError(f"p is {p!r}; it must be a number from 0 to 1.")


def _check_mixing(alpha: float, p: float) -> None:
    _check_share(p)
    if not 0 < alpha < np.inf:
        raise InputError(f"alpha is {alpha!r}; it must be a number above 0.")
