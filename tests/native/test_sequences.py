"""Whatever a thread has decoded before, in batches of any size: each JPEG gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.loading.cpu import CropReader, Cut
from tests.native import jpegs
from tests.native.jpegs import as_array, by_pillow, picture
from tests.native.libraries import fresh, using
from tests.native.results import crop_or_reason, square_or_reason

pytestmark = pytest.mark.usefixtures("native_decoder")

CROP, SIDE = 56, 64
UNSOUND = 7
"""The last of the samples, which are refused."""
Make = Callable[[], bytes]


def sound() -> list[bytes]:
    """Each of other tables, or of none."""
    rng = np.random.default_rng(1)
    makes: list[Make] = [
        jpegs.standard,
        jpegs.optimised,
        jpegs.no_huffman_tables,
        jpegs.no_huffman_tables_but_a_comment,
    ]
    makes += [jpegs.tables_behind_their_scan, jpegs.zeros_to_the_end, jpegs.usual_table, jpegs.table_of_a_long_value]
    makes += [
        jpegs.progressive,
        jpegs.empty_table,
        *[partial(jpegs.random_grey, rng, SIDE), partial(jpegs.permuted, rng)] * 3,
    ]
    for seed in range(4):
        makes.append(partial(by_pillow, picture(seed=seed), quality=20 + 25 * seed, optimize=True))
        makes.append(partial(by_pillow, picture(seed=seed), subsampling="4:4:4", restart_marker_blocks=1 + seed))
        makes.append(partial(by_pillow, picture(seed=seed).convert("L"), progressive=seed > 2))
    flipped = bytearray(jpegs.optimised())
    flipped[-200] ^= 0x40
    return [*(make() for make in makes), bytes(flipped)]


def unsound() -> list[bytes]:
    good, optimised = jpegs.standard(), jpegs.optimised()
    return [
        jpegs.no_quantisation_tables(),
        jpegs.scan_bomb(),
        good[: len(good) * 2 // 3],
        optimised[:300],
        b"",
        by_pillow(picture(SIDE + 8)),
        by_pillow(picture().convert("CMYK")),
    ]


@pytest.fixture(scope="module")
def samples() -> list[bytes]:
    return [*sound(), *unsound()]


def drawn(samples: list[bytes], rng: np.random.Generator, share: float) -> int:
    """The number of one; `share` of them unsound."""
    count, good = len(samples), len(samples) - UNSOUND
    return int(rng.integers(good, count)) if rng.random() < share else int(rng.integers(good))


@pytest.fixture(scope="module")
def alone(samples: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes | str, bytes | str]]:
    """The crop and the square of each, by libraries that have decoded nothing else."""
    folder, found = tmp_path_factory.mktemp("alone"), []
    for data in samples:
        with using(fresh(folder)):
            crop = crop_or_reason(data, (5, 3), crop=CROP, side=SIDE)
        with using(fresh(folder)):
            found.append((crop, square_or_reason(data, 40)))
    crops = [crop for crop, _ in found]
    assert {type(crop) for crop in crops[:-UNSOUND]} == {bytes}
    assert {type(crop) for crop in crops[-UNSOUND:]} == {str}
    assert len({crop for crop in crops if isinstance(crop, str)}) > 4
    return found


@pytest.mark.parametrize("seed", range(9))
def test_batches(seed: int, samples: list[bytes], alone: list[tuple[bytes | str, bytes | str]], tmp_path: Path) -> None:
    """A batch with some that do not decode fails for the first of them."""
    rng = np.random.default_rng(seed)
    failed = 0
    with using(fresh(tmp_path)):
        reader = CropReader(crop=CROP, threads=1 + seed % 3, pinned=False)
        for number in range(60):
            share = 0.0 if number % 3 else 0.1
            numbers = [drawn(samples, rng, share) for _ in range(rng.integers(1, 50))]
            stored, count = [as_array(samples[one]) for one in numbers], len(numbers)
            sizes, boxes = np.full((count, 2), SIDE), np.array([(5, 3, CROP, CROP)] * count, np.uint16)
            expected = [alone[one][0] for one in numbers]
            cut = reader.submit(stored, sizes, boxes, count, torch.zeros(count, 3), torch.uint8)
            reasons = [reason for reason in expected if isinstance(reason, str)]
            assert images_or_reason(cut) == (reasons[0] if reasons else expected), numbers
            failed += bool(reasons)
        reader.close()
    assert 5 < failed < 30


def images_or_reason(cut: Cut) -> list[bytes] | str:
    """When all its tasks have ended: the buffers are used again."""
    for task in cut.tasks:
        task.exception()
    try:
        return [image.numpy().tobytes() for image in cut.result()]
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(3))
def test_crops_and_squares_in_turns(
    seed: int, samples: list[bytes], alone: list[tuple[bytes | str, bytes | str]], tmp_path: Path
) -> None:
    """In one thread, whose tables both use."""
    rng = np.random.default_rng(seed)
    with using(fresh(tmp_path)):
        for _ in range(200):
            one = drawn(samples, rng, 0.2)
            assert square_or_reason(samples[one], 40) == alone[one][1]
            other = drawn(samples, rng, 0.2)
            assert in_this_thread(samples[other]) == alone[other][0]


def in_this_thread(data: bytes) -> bytes | str:
    """The crop, without a reader's threads."""
    reader = CropReader(crop=CROP, threads=1, pinned=False)
    stored = [as_array(data)]
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reader._pool, "submit", Now)
            boxes = np.array([(5, 3, CROP, CROP)], np.uint16)
            cut = reader.submit(stored, np.full((1, 2), SIDE), boxes, 1, torch.zeros(1, 3), torch.uint8)
        return cut.result()[0].numpy().tobytes()
    except ValueError as error:
        return str(error)
    finally:
        reader.close()


class Now:
    """In place of a Future: the work is done at once."""

    def __init__(self, work: Callable[[int], None], first: int) -> None:
        work(first)

    def result(self) -> None: ...
