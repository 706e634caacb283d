"""Which image goes to which tar: a pure function of the listing, the options and the seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.images import Image, Images, Source
from alexnet_fast.sharding.output import WORK, Output
from alexnet_fast.shardset import tar_name

SAMPLES_PER_TAR = 1000
MIN_TARS = 8
"""A small set is still cut in a few tars, so that several processes have work."""
PLAN = f"{WORK}/plan.json"


@dataclass(frozen=True)
class Options:
    """`size`: pixels of the stored square; `quality`: of JPEG, 1 to 100; `seed`: of the stored order; `keep`: store
    a JPEG as it is where it is a square of the size already."""

    encoding: str = "jpeg"
    quality: int = 90
    size: int = 256
    seed: int = 0
    keep: bool = False


@dataclass(frozen=True)
class Job:
    """A tar to write: which images, in which order."""

    split: str
    number: int
    images: list[Image]
    root: Path
    options: Options
    output: Output

    def __str__(self) -> str:
        return tar_name(self.split, self.number)


@dataclass(frozen=True)
class Plan:
    """What a shard set will be. Two runs with equal plans write the same bytes."""

    options: Options
    classes: list[dict[str, str]]
    tars: dict[str, int]
    images: dict[str, int]
    listing: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        body: dict[str, Any] = json.loads(text)
        return cls(**{**body, "options": Options(**body["options"])})

    def fingerprint(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def images_in(self, split: str, number: int) -> int:
        """Images of a tar: np.array_split makes the first ones longer by one."""
        images, tars = self.images[split], self.tars[split]
        return images // tars + (number < images % tars)

    def tar_names(self) -> Iterator[tuple[str, int]]:
        """(split, number) of every tar, in the order of their places in the plan."""
        return ((split, number) for split, tars in self.tars.items() for number in range(tars))


def make_plan(source: Source, options: Options) -> Plan:
    listing = hashlib.sha256("".join(images.fingerprint() for images in source.splits.values()).encode())
    return Plan(
        options=options,
        classes=[{"id": name, "name": source.names.get(name, name)} for name in source.classes],
        tars={split: _tars(len(images)) for split, images in source.splits.items()},
        images={split: len(images) for split, images in source.splits.items()},
        listing=listing.hexdigest(),
    )


def begin(plan: Plan, output: Output) -> None:
    """Writes the plan to the output; raises InputError where another one was begun there."""
    text = output.read(PLAN)
    if text is None:
        output.write(PLAN, plan.to_json().encode())
        return
    begun = begun_plan(output)
    if begun != plan:
        raise InputError(
            f"{output} holds an unfinished shard set of other images or options ({_difference(begun, plan)}). "
            f"Give the same as then, choose another --out, or delete {output}/{WORK} to start afresh."
        )


def begun_plan(output: Output) -> Plan:
    """Raises InputError when the output holds no unfinished shard set."""
    text = output.read(PLAN)
    if text is None:
        raise InputError(f"{output} holds no unfinished shard set. Begin one with --src.")
    try:
        return Plan.from_json(text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{output}/{PLAN} is damaged ({error}). Delete {output}/{WORK} to start afresh.") from error


def jobs(source: Source, options: Options, output: Output, wanted: set[tuple[str, int]]) -> Iterator[Job]:
    """The jobs of the `wanted` tars (split, number), made one by one: a job lists its images."""
    for place, (split, images) in enumerate(source.splits.items()):
        if any(name == split for name, _ in wanted):
            for number, rows in enumerate(_cut(images, options.seed, place)):
                if (split, number) in wanted:
                    yield Job(split, number, images.take(rows), source.root, options, output)


def _cut(images: Images, seed: int, place: int) -> list[NDArray[np.int64]]:
    """Shuffles a split by (seed, its place) and cuts it into tars of near-equal length."""
    random = np.random.Generator(np.random.Philox(key=np.array([seed, place], np.uint64)))
    starts = images.blocks
    shuffled = random.permutation(len(starts) - 1)
    lengths = np.diff(starts)[shuffled]
    ends = np.cumsum(lengths)
    order = np.arange(len(images)) + np.repeat(starts[:-1][shuffled] - (ends - lengths), lengths)
    return np.array_split(order, _tars(len(images)))


def _tars(images: int) -> int:
    return max(-(-images // SAMPLES_PER_TAR), min(MIN_TARS, -(-images // 16)))


def _difference(begun: Plan, now: Plan) -> str:
    for name, old in asdict(begun.options).items():
        new = getattr(now.options, name)
        if old != new:
            return f"{name} {old}, now {new}"
    for name in ("images", "classes"):
        if getattr(begun, name) != getattr(now, name):
            return f"other {name}"
    return "another listing"
