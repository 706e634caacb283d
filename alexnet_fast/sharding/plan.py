"""Decides which image goes to which tar: a pure function of the listing, the options and the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast import random
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Image, Images, Source
from alexnet_fast.sharding.output import Output, sealed, unsealed
from alexnet_fast.sharding.rule import WHITE, Rule
from alexnet_fast.sharding.summary import describe
from alexnet_fast.shards.format import MIXED, WORK, tar_name

SAMPLES_PER_TAR = 1000
MIN_TARS = 8
"""A small set is still cut in a few tars, so that several processes have work."""
PLAN = f"{WORK}/plan.json"


@dataclass(frozen=True)
class Options:
    """`size`: pixels of the stored square, or of the shorter side where `shape` is FULL, 0 for those of the source;
    `quality`: of JPEG, 1 to 100; `seed`: of the stored order; `keep`: store a JPEG as it is where it has the shape and
    size already; `budget`: bytes that a mixed set may take; `orient` and `background`: of `rule.Rule`, None for its
    defaults. `shape`: None for SQUARE."""

    encoding: str = "jpeg"
    quality: int = 90
    size: int = 256
    seed: int = 0
    keep: bool = False
    budget: int | None = None
    orient: bool | None = None
    background: str | None = None
    shape: str | None = None

    @property
    def rule(self) -> Rule:
        return Rule(self.orient or False, self.background or WHITE)


@dataclass(frozen=True)
class Job:
    """A tar to write: which images, in which order, and which of them as raw pixels."""

    split: str
    number: int
    images: list[Image]
    raw: list[bool]
    root: Path
    options: Options
    output: Output

    def __str__(self) -> str:
        return tar_name(self.split, self.number)


@dataclass(frozen=True)
class Plan:
    """The description of a shard set before it is made. Two runs with equal plans write the same bytes.

    `raw_share`: of a mixed set's training samples, those that are raw. `source`: what the source was taken for, as
    summary.Contents. Both are found out once, by the run that begins the set, and do not make another plan: parts and
    resumed runs take it as it is there.
    """

    options: Options
    classes: list[dict[str, str]]
    tars: dict[str, int]
    images: dict[str, int]
    listing: str
    raw_share: float | None = None
    source: dict[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self, dict_factory=_without_none), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        body: dict[str, Any] = json.loads(text)
        return cls(**{**body, "options": Options(**body["options"])})

    def fingerprint(self) -> str:
        """Returns a hash of what the set is made from."""
        return hashlib.sha256(self.without_estimates().to_json().encode()).hexdigest()

    def without_estimates(self) -> Plan:
        return replace(self, raw_share=None, source=None)

    def raw_share_of(self, split: str) -> float:
        """Returns the share of a split's samples that are raw: of a mixed set in `train`, which is read every epoch."""
        if self.options.encoding == MIXED:
            return (self.raw_share or 0.0) if split == "train" else 0.0
        return float(self.options.encoding == "raw")

    def images_in(self, split: str, number: int) -> int:
        """Returns the number of images of a tar: np.array_split makes the first ones longer by one."""
        images, tars = self.images[split], self.tars[split]
        return images // tars + (number < images % tars)

    def tar_names(self) -> Iterator[tuple[str, int]]:
        """Returns (split, number) of every tar, in the order of the plan."""
        return ((split, number) for split, tars in self.tars.items() for number in range(tars))


def make_plan(source: Source, options: Options) -> Plan:
    """Returns the plan. Raises InputError when a class has a name that no manifest can hold."""
    listing = hashlib.sha256("".join(images.fingerprint() for images in source.splits.values()).encode())
    return Plan(
        options=options,
        classes=[{"id": name, "name": source.names.get(name, name)} for name in source.classes],
        tars={split: _tars(len(images)) for split, images in source.splits.items()},
        images={split: len(images) for split, images in source.splits.items()},
        listing=listing.hexdigest(),
        source=describe(source).as_dict(),
    )


def begin(plan: Plan, output: Output, raw_share: Callable[[], float]) -> Plan:
    """Writes the plan to the output and returns it: of a mixed set with its `raw_share()`, which is not called where
    the same plan is there already. Raises InputError where another one is."""
    if output.read(PLAN) is None:
        full = replace(plan, raw_share=raw_share()) if plan.options.encoding == MIXED else plan
        if output.create(PLAN, sealed(full.to_json())):
            return full
    begun = begun_plan(output)
    if begun.without_estimates() != plan.without_estimates():
        raise InputError(
            f"{output} holds an unfinished shard set of other images or options ({_difference(begun, plan)}). "
            f"Give the same as then, choose another --out, or delete {output}/{WORK} to start afresh."
        )
    return begun


def begun_plan(output: Output) -> Plan:
    """Returns the plan in the output. Raises InputError when that holds no unfinished shard set."""
    text = output.read(PLAN)
    if text is None:
        raise InputError(f"{output} holds no unfinished shard set. Begin one with --src.")
    try:
        return Plan.from_json(unsealed(text))
    except (ValueError, KeyError, TypeError) as error:  # of other versions of this program, the last two
        raise InputError(f"{output}/{PLAN} is damaged ({error}). Delete {output}/{WORK} to start afresh.") from error


def jobs(source: Source, plan: Plan, output: Output, wanted: set[tuple[str, int]]) -> Iterator[Job]:
    """Yields the jobs of the `wanted` tars (split, number), made one by one, as each lists its images."""
    for place, (split, images) in enumerate(source.splits.items()):
        if any(name == split for name, _ in wanted):
            cut = _cut(images, plan.options.seed, place)
            raw = np.array_split(_evenly(plan.raw_share_of(split), len(images)), len(cut))
            for number, rows in enumerate(cut):
                if (split, number) in wanted:
                    taken = images.take(rows)
                    yield Job(split, number, taken, raw[number].tolist(), source.root, plan.options, output)


def _cut(images: Images, seed: int, place: int) -> list[NDArray[np.int64]]:
    """Returns the rows of each tar: the split shuffled by (seed, its place), cut into near-equal lengths."""
    starts = images.blocks
    shuffled = random.stored_order(seed, place).permutation(len(starts) - 1)
    if len(shuffled) == len(images):  # no blocks: the same as below, in a quarter of the memory
        return np.array_split(shuffled, _tars(len(images)))
    lengths = np.diff(starts)[shuffled]
    ends = np.cumsum(lengths)
    order = np.arange(len(images)) + np.repeat(starts[:-1][shuffled] - (ends - lengths), lengths)
    return np.array_split(order, _tars(len(images)))


def _evenly(share: float, count: int) -> NDArray[np.bool_]:
    """Returns a mask (count,) with `share` of it true, evenly spaced: the order of the images is random already."""
    if share in (0, 1):
        return np.full(count, bool(share))
    return np.asarray(np.diff(np.floor(share * np.arange(count + 1))) > 0)


def _tars(images: int) -> int:
    """Returns the number of tars for so many images."""
    return max(-(-images // SAMPLES_PER_TAR), min(MIN_TARS, -(-images // 16)))


def _without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leaves out what few sets have, so that other plans are the same as before there were any."""
    return {name: value for name, value in pairs if value is not None}


def _difference(begun: Plan, now: Plan) -> str:
    """Returns the first difference of two plans, in words."""
    for name, old in asdict(begun.options).items():
        new = getattr(now.options, name)
        if old != new:
            words = ["not given" if value is None else value for value in (old, new)]
            return f"{name} {words[0]}, now {words[1]}"
    for name in ("images", "classes"):
        if getattr(begun, name) != getattr(now, name):
            return f"other {name}"
    return "another listing"
