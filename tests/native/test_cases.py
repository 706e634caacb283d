"""JPEGs that decoders disagree on, or that must not reach one: the same result each time, whatever came before."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import Loader
from alexnet_fast.errors import TrainingError
from alexnet_fast.sharding import decode, resize
from alexnet_fast.sharding.jpeg_header import check_stored_jpeg
from alexnet_fast.sharding.resize import Target
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import turn_native_off
from tests.native import jpegs
from tests.native.libraries import fresh, using
from tests.native.results import crop_or_reason, cut, square_or_reason

pytestmark = pytest.mark.usefixtures("native_decoder")

GIVEN = Path(__file__).resolve().parents[3] / "shared" / "cases" / "jpeg"
"""Files on which the code of before went wrong; beside the checkout, not part of the repository."""

WAYS: dict[str, Callable[[bytes], bytes | str]] = {
    "crop": lambda data: crop_or_reason(data, (5, 3), crop=56, side=64),
    "square": lambda data: square_or_reason(data, 48),
}
OTHERS = (jpegs.standard, jpegs.optimised, jpegs.tables_behind_their_scan, jpegs.no_quantisation_tables)


ORDERS = [
    *permutations(["a-optimised", "b-standard", "c-no-dht", "d-no-dqt"]),
    ("state-reuse-1", "state-reuse-1", "e-no-dht-comment", "state-reuse-1"),
]


def given(name: str) -> bytes:
    path = GIVEN / f"{name}.jpg"
    if not path.exists():
        pytest.skip(f"needs shared/cases/jpeg/{path.name} beside the checkout")
    return path.read_bytes()


def alone(folder: Path, way: Callable[[bytes], bytes | str], data: bytes) -> bytes | str:
    """The result of a library that has decoded nothing yet."""
    with using(fresh(folder)):
        return way(data)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [jpegs.no_huffman_tables, jpegs.no_huffman_tables_but_a_comment])
def test_missing_huffman_tables_are_the_standards(make: Callable[[], bytes], way: str, tmp_path: Path) -> None:
    """Not those of the image before. With the standard's tables in it the JPEG is the same image."""
    find, bare, whole = WAYS[way], make(), jpegs.standard()
    expected = alone(tmp_path, find, whole)
    assert isinstance(expected, bytes)
    assert alone(tmp_path, find, bare) == expected
    for other in OTHERS:
        with using(fresh(tmp_path)):
            assert find(other()) == alone(tmp_path, find, other())
            assert find(bare) == find(whole) == find(bare) == expected


def batch_or_reason(*stored: bytes) -> list[bytes] | str:
    """The images of one call."""
    try:
        batch = cut([jpegs.as_array(data) for data in stored], [(0, 0)] * len(stored), crop=64, side=64, threads=1)
    except ValueError as error:
        return str(error)
    return [image.tobytes() for image in batch.numpy()]


@pytest.mark.parametrize("make", [jpegs.no_huffman_tables, jpegs.no_huffman_tables_but_a_comment])
def test_missing_huffman_tables_in_a_batch(make: Callable[[], bytes]) -> None:
    whole = simplejpeg.decode_jpeg(jpegs.standard()).tobytes()
    others = [other() for other in OTHERS[:3]]
    images = batch_or_reason(*[data for other in others for data in (other, make())])
    assert images[1::2] == [whole] * 3
    assert images[::2] == [simplejpeg.decode_jpeg(other).tobytes() for other in others]


def test_missing_quantisation_tables_in_a_batch() -> None:
    alone = batch_or_reason(jpegs.no_quantisation_tables())
    assert isinstance(alone, str)
    assert batch_or_reason(jpegs.standard(), jpegs.no_quantisation_tables()) == alone


def test_the_given_jpegs_in_a_batch() -> None:
    names = ("a-optimised", "c-no-dht", "b-standard", "e-no-dht-comment", "c-no-dht", "b-standard")
    images = batch_or_reason(*map(given, names))
    expected = [simplejpeg.decode_jpeg(given(name)).tobytes() for name in ("a-optimised", "b-standard")]
    assert images == [expected[name != "a-optimised"] for name in names]
    assert isinstance(batch_or_reason(given("b-standard"), given("d-no-dqt")), str)


@pytest.mark.parametrize("name", ["no_huffman_tables", "no_huffman_tables_but_a_comment", "no_quantisation_tables"])
def test_a_jpeg_without_tables_is_not_kept(name: str) -> None:
    """Other readers could not decode it."""
    assert not decode.why_not_kept(jpegs.standard(), jpegs.SIDE)
    assert decode.why_not_kept(getattr(jpegs, name)(), jpegs.SIDE) == "without its own tables"


@pytest.mark.parametrize("name", ["c-no-dht", "e-no-dht-comment", "d-no-dqt"])
def test_the_given_jpegs_without_tables_are_not_kept(name: str) -> None:
    assert not decode.why_not_kept(given("b-standard"), 64)
    assert decode.why_not_kept(given(name), 64)


@pytest.mark.parametrize("way", WAYS)
def test_missing_quantisation_tables_are_refused(way: str, tmp_path: Path) -> None:
    find, bare = WAYS[way], jpegs.no_quantisation_tables()
    expected = alone(tmp_path, find, bare)
    assert isinstance(expected, str)
    with using(fresh(tmp_path)):
        assert isinstance(find(jpegs.standard()), bytes)
        assert find(bare) == expected


@pytest.mark.parametrize("way", WAYS)
def test_tables_that_come_later_are_not_those_of_the_next_time(way: str, tmp_path: Path) -> None:
    find, data = WAYS[way], jpegs.tables_behind_their_scan()
    whole = simplejpeg.decode_jpeg(data)
    with using(fresh(tmp_path)):
        found = [find(data) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    if way == "crop":
        assert found[0] == whole[5:61, 3:59].tobytes()


def test_a_batch_of_the_same_jpeg_is_of_the_same_images(tmp_path: Path) -> None:
    data = jpegs.tables_behind_their_scan()
    with using(fresh(tmp_path)):
        assert batch_or_reason(*[data] * 20) == [simplejpeg.decode_jpeg(data).tobytes()] * 20


def test_the_given_jpeg_is_the_same_twice_in_a_batch(tmp_path: Path) -> None:
    """129 x 65 pixels: the same crops, or refused at the first."""
    stored = jpegs.as_array(given("state-reuse-1"))
    alone = crop_or_reason(stored, crop=64, side=129)
    with using(fresh(tmp_path)):
        if isinstance(alone, bytes):
            images = cut([stored] * 4, [(0, 0)] * 4, crop=64, side=129, threads=1)
            assert [image.tobytes() for image in images.numpy()] == [alone] * 4
        assert crop_or_reason(stored, crop=64, side=129) == alone


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", ORDERS, ids=" ".join)
def test_the_given_jpegs_in_any_order(way: str, names: tuple[str, ...], tmp_path: Path) -> None:
    expected = {name: alone(tmp_path, WAYS[way], given(name)) for name in set(names)}
    if "d-no-dqt" in expected:
        assert isinstance(expected["d-no-dqt"], str)
        assert expected["c-no-dht"] == expected["b-standard"]
    with using(fresh(tmp_path)):
        for name in names:
            assert WAYS[way](given(name)) == expected[name]


# --- a table that is none

TABLES = {
    "usual": jpegs.usual_table,
    "empty": jpegs.empty_table,
    "long value": jpegs.table_of_a_long_value,
}


def in_one_pass(data: bytes, side: int) -> bytes | None:
    """The whole image by sharding's own function; None where it leaves the JPEG to another decoder, as not sound."""
    square = resize.jpeg_middle(data, 8, (side, side), Target((side, side), (side, side)))
    return None if square is None else square.tobytes()


@pytest.mark.parametrize("order", [("empty",), *permutations(TABLES)], ids=" then ".join)
def test_a_table_without_codes_decodes_nothing(order: tuple[str, ...], tmp_path: Path) -> None:
    """Though that of the image before would. libjpeg-turbo takes each block's values for 0 then, and warns at the end,
    which a crop does not reach. Each twice."""
    found: dict[str, set[bytes | str | None]] = {name: set() for name in TABLES}
    squares, whole = {name: set(found[name]) for name in TABLES}, jpegs.usual_table()
    with using(fresh(tmp_path)):
        for name in order:
            for _ in range(2):
                data = TABLES[name]()
                found[name].add(crop_or_reason(data, crop=64, side=64))
                squares[name].add(in_one_pass(data, 64))
    without_values = simplejpeg.decode_jpeg(jpegs.empty_table(), strict=False)
    assert found["empty"] == {without_values.tobytes()}
    assert squares["empty"] == {None}
    usual = simplejpeg.decode_jpeg(whole, strict=True).tobytes()
    assert usual != without_values.tobytes()
    for name in set(order) - {"empty"}:
        assert found[name] == squares[name] == {usual}


@pytest.mark.parametrize("order", [*permutations(["normal", "empty-ac", "long-symbol"])], ids=" then ".join)
def test_the_given_tables(order: tuple[str, ...], tmp_path: Path) -> None:
    with using(fresh(tmp_path)):
        for name in order:
            data = given(f"table-{name}")
            whole = simplejpeg.decode_jpeg(data, strict=False).tobytes()
            assert crop_or_reason(data, crop=96, side=96) == whole, name
            assert in_one_pass(data, 96) == (None if name == "empty-ac" else whole), name


@pytest.mark.parametrize("native_code", [True, False])
def test_the_loader_refuses_them_too(
    native_code: bool, jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch, fed_to_dali: list[int]
) -> None:
    """Before DALI has them."""
    if not native_code:
        turn_native_off(monkeypatch)
    split = ShardSet(jpeg_shards).split("train")
    read = split.read

    def with_a_bomb(samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        stored = read(samples)
        return [jpegs.as_array(jpegs.scan_bomb()) if sample == 7 else item
                for sample, item in zip(samples, stored, strict=True)]  # fmt: skip

    monkeypatch.setattr(split, "read", with_a_bomb)
    with pytest.raises(TrainingError, match="a JPEG of 600 scans, more than the limit of 200"):
        list(Loader.evaluation(split, batch=20, crop=84))
    assert fed_to_dali == []


def test_what_lies_behind_a_progressive_image_is_not_looked_at() -> None:
    plain, more = jpegs.progressive(), jpegs.progressive_with_more_behind()
    assert len(more) > 16 << 20
    check_stored_jpeg(more, crop=56, size=(64, 64))
    for find in WAYS.values():
        assert isinstance(find(plain), bytes)
        assert find(more) == find(plain)


def test_as_many_scans_as_may_be() -> None:
    """Of a JPEG that decodes however many it has; by each of the functions that decode."""
    usual, most, more = (jpegs.of_scans(count) for count in (3, 200, 201))
    assert in_one_pass(most, 64) == in_one_pass(usual, 64) == simplejpeg.decode_jpeg(usual).tobytes()
    assert in_one_pass(more, 64) is None
    for find in WAYS.values():
        assert find(most) == find(usual)
        assert find(more) == "a JPEG of 201 scans, more than the limit of 200"


def test_zeros_that_end_a_block() -> None:
    """The file and Pillow's decoder; test_huffman.py has more of them."""
    for data in (jpegs.zeros_to_the_end(), *([given("zrl-64")] if GIVEN.exists() else [])):
        with Image.open(io.BytesIO(data)) as image:
            whole = np.asarray(image.convert("RGB"))
        assert crop_or_reason(data, crop=64, side=64) == whole.tobytes() == simplejpeg.decode_jpeg(data).tobytes()
