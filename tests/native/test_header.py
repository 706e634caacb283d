"""What is read of a JPEG's markers, in C and in Python: the same, of whole files and of corrupt ones."""

from __future__ import annotations

import ctypes
import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet_fast import native
from alexnet_fast.sharding.jpeg_header import check_jpeg, check_stored_jpeg, has_own_tables, read_frame
from tests.native import jpegs
from tests.native.jpegs import DHT, DQT, SOS, by_pillow, frame, joined, picture, scan, segment, segments
from tests.native.results import crop_or_reason

library = native.loaded().library
pytestmark = pytest.mark.skipif(library is None, reason="needs the compiled code")

MUTATIONS = 6000
CROP, SIDE = 40, 64


def header_of(data: bytes) -> tuple[int, ...]:
    """Kind, height, width, components and scans, as native/header.c reads them."""
    numbers = (ctypes.c_int * 5)()
    assert library is not None
    library.header_of(data, len(data), ctypes.byref(numbers))
    kind, width, height, components, scans = numbers
    return kind, height, width, components, scans


def frame_of(data: bytes) -> tuple[int, ...]:
    found = read_frame(data)
    return found.kind, found.height, found.width, len(found.sampling), found.scans


@cache
def whole() -> dict[str, bytes]:
    """All forms that Pillow writes, and ours."""
    image = picture()
    forms: dict[str, dict[str, Any]] = {
        **{
            f"{s} {p}": {"subsampling": s, "progressive": p} for s in ("4:2:0", "4:2:2", "4:4:4") for p in (False, True)
        },
        "optimised": {"optimize": True},
        "restart markers": {"restart_marker_blocks": 1},
        "RGB": {"keep_rgb": True},
        "comment": {"comment": b"\xff\xc0\xff\xda\xff\xd9"},
        "EXIF": {"exif": b"Exif\0\0II*\0" + b"\xff\xd9" * 9},
        "profile": {"icc_profile": b"\xff\xc4" * 40_000},
        "one of 1": {"quality": 1},
    }
    found = {name: by_pillow(image, **how) for name, how in forms.items()}
    for mode in ("L", "CMYK"):
        found |= {f"{mode} {p}": by_pillow(image.convert(mode), progressive=p) for p in (False, True)}
    file = io.BytesIO()
    image.save(file, "MPO", save_all=True, append_images=[picture(96)])
    makes = (jpegs.standard, jpegs.optimised, jpegs.no_huffman_tables, jpegs.no_huffman_tables_but_a_comment)
    more = (jpegs.no_quantisation_tables, jpegs.tables_behind_their_scan, jpegs.scan_bomb, jpegs.zeros_to_the_end)
    rest = (jpegs.empty_table, jpegs.table_of_a_long_value)
    return {**found, "two images": file.getvalue(), **{make.__name__: make() for make in (*makes, *more, *rest)}}


def by_hand() -> Iterator[tuple[str, bytes, tuple[int, ...]]]:
    """Of each what is right, without a reader: kind, height, width, components, scans."""
    head, none = frame(30, 20, 3), (0, 0, 0, 0, 0)
    every, first = segment(SOS, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])), scan(1, b"abc")
    yield "nothing", b"", none
    yield "one byte", b"\xff", none
    yield "its start", b"\xff\xd8", none
    yield "not its start", b"\xff\xd9" + head, none
    yield "a frame", jpegs.START + head, (0xC0, 20, 30, 3, 0)
    yield "cut off by a byte", (jpegs.START + head)[:-1], none
    yield "too short a frame", jpegs.START + segment(0xC0, b"\x08\0\x14\0\x1e"), none
    yield "of the least length", jpegs.START + segment(0xC0, b"\x08\0\x14\0\x1e\x03"), (0xC0, 20, 30, 3, 0)
    yield "a length of 1", jpegs.START + b"\xff\xe0\0\x01" + head, none
    yield "a length of 0", jpegs.START + b"\xff\xe0\0\0" + head, none
    yield "half a length", jpegs.START + head + b"\xff\xe0\0", (0xC0, 20, 30, 3, 0)
    yield "fill bytes", jpegs.START + b"\xff" * 5 + head, (0xC0, 20, 30, 3, 0)
    yield "bytes between", jpegs.START + b"ab\xff\0\xff\xd3" + head, (0xC0, 20, 30, 3, 0)
    yield "a marker at the end", jpegs.START + head + b"\xff", (0xC0, 20, 30, 3, 0)
    yield "two frames", jpegs.START + head + frame(9, 9, 1, 0xC2), (0xC0, 20, 30, 3, 0)
    yield "only tables", jpegs.START + segment(DHT, b"") + segment(0xC8, bytes(9)) + segment(0xCC, bytes(9)), none
    yield "a scan of all", jpegs.START + head + every + b"\xff\0" + every, (0xC0, 20, 30, 3, 1)
    yield "of one each", jpegs.START + head + first * 7, (0xC0, 20, 30, 3, 7)
    yield "one, then all", jpegs.START + head + first * 2 + every + first, (0xC0, 20, 30, 3, 3)
    yield "behind the end", jpegs.START + head + first + jpegs.END + first * 9, (0xC0, 20, 30, 3, 1)
    yield "progressive", jpegs.START + frame(30, 20, 3, 0xC2) + every * 4 + jpegs.END + every, (0xC2, 20, 30, 3, 4)
    yield "a scan without a frame", jpegs.START + every * 2, (0, 0, 0, 0, 2)
    yield "with a restart in it", jpegs.START + head + first + b"\xff\xd0a\xff\xd7" + first, (0xC0, 20, 30, 3, 2)
    yield "an empty scan header", jpegs.START + head + segment(SOS, b"") + first, (0xC0, 20, 30, 3, 2)


@pytest.mark.parametrize(("data", "expected"), [pytest.param(*case[1:], id=case[0]) for case in by_hand()])
def test_by_hand(data: bytes, expected: tuple[int, ...]) -> None:
    assert frame_of(data) == header_of(data) == expected


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning", "ignore:Corrupt EXIF:UserWarning")
@pytest.mark.parametrize("name", whole())
def test_whole_files(name: str) -> None:
    """Pillow reads the same size and kind."""
    data = whole()[name]
    assert frame_of(data) == header_of(data)
    with Image.open(io.BytesIO(data)) as image:
        assert header_of(data)[1:3] == (image.height, image.width)
        assert header_of(data)[3] == {"L": 1, "CMYK": 4}.get(image.mode, 3)
        assert (header_of(data)[0] == 0xC2) == ("progressive" in image.info)
    scans = {"scan_bomb": 600, "tables_behind_their_scan": 3}.get(name)
    assert header_of(data)[4] == (scans or (data.count(b"\xff\xda\0") if header_of(data)[0] == 0xC2 else 1))


def mutations(count: int) -> Iterator[bytes]:
    """Bytes changed, taken out, put in and cut off, most of them among the markers."""
    rng = np.random.default_rng(0)
    markers = [b"\xff", b"\xff\xff", b"\xff\0", b"\0", *(bytes([255, kind]) for kind in range(0xC0, 0x100))]
    files = [data for data in whole().values() if len(data) < 20_000]
    for _ in range(count):
        data = bytearray(files[rng.integers(len(files))])
        for _ in range(rng.integers(1, 4)):
            near = int(rng.integers(len(data) if rng.random() < 0.3 else min(len(data), 700)))
            found = data.find(b"\xff", near)
            at = found + int(rng.integers(5)) if found >= 0 and rng.random() < 0.6 else near
            way = rng.integers(5)
            if way == 0:
                data[at : at + 1] = rng.bytes(1)
            elif way == 1:
                del data[at : at + int(rng.integers(1, 9))]
            elif way == 2:
                data[at:at] = markers[rng.integers(len(markers))]
            elif way == 3:
                data[at : at + 2] = markers[rng.integers(len(markers))]
            elif rng.random() < 0.3:
                del data[at:]
            if len(data) < 4:
                break
        yield bytes(data)


def test_corrupt_files() -> None:
    found = set()
    for data in mutations(MUTATIONS):
        assert frame_of(data) == header_of(data), data.hex()
        found.add(header_of(data))
    assert len({kind for kind, *_ in found}) > 8
    assert len(found) > 200


def reason_of(data: bytes) -> str:
    """Why check_stored_jpeg refuses it, or empty."""
    try:
        check_stored_jpeg(data, crop=CROP, size=(SIDE, SIDE))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.usefixtures("native_decoder")
def test_both_refuse_for_the_same_reason() -> None:
    """What one refuses unseen the other does; of what is left a decoder judges. In C the set's size limits pixels."""
    reasons = set()
    for data in (*whole().values(), *mutations(MUTATIONS // 2), *(case[1] for case in by_hand())):
        reason, found = reason_of(data), crop_or_reason(data, crop=CROP, side=SIDE)
        if "pixels" in reason:
            reason = "it is larger than the set's images"
        if reason:
            assert found == reason, data.hex()
        reasons.add("scans" if "scans" in reason else reason)
        if not reason and isinstance(found, str):
            assert found not in reasons
    assert len(reasons) == 7, reasons  # none, no frame, arithmetic, lossless, scans, smaller, larger


def test_the_rule_counts_pixels_and_scans() -> None:
    """By hand; what a shard set may hold is smaller by far."""
    check_jpeg(jpegs.scan_bomb(side=200, scans=200))
    with pytest.raises(ValueError, match="a JPEG of 201 scans, more than the limit of 200"):
        check_jpeg(jpegs.scan_bomb(side=200, scans=201))
    with pytest.raises(ValueError, match="a JPEG of 100 scans of 100,000,000 pixels each, more than the limit of"):
        check_jpeg(jpegs.scan_bomb(side=10_000, scans=100))
    with pytest.raises(ValueError, match=r"225,000,000 pixels, more than the limit of 178,956,970"):
        check_jpeg(jpegs.scan_bomb(side=15_000, scans=1))


# --- tables


def tables(*kinds: int) -> bytes:
    """A scan of three components behind a frame: the first uses tables 0, the others 1. `kinds`: what is defined, by
    the first byte of a Huffman table's segment, or 0x80 + the number of a quantisation table."""
    head = segment(0xC0, bytes([8, 0, 8, 0, 8, 3, 1, 0x11, 0, 2, 0x11, 1, 3, 0x11, 1]))
    parts = [
        segment(DQT, bytes([kind & 15]) + bytes(64))
        if kind & 0x80
        else segment(DHT, bytes([kind, 1]) + bytes(15) + b"\0")
        for kind in kinds
    ]
    return jpegs.START + head + b"".join(parts) + segment(SOS, bytes([3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0])) + jpegs.END


EVERY = (0x80, 0x81, 0x00, 0x01, 0x10, 0x11)


def test_all_tables_of_a_scan() -> None:
    assert has_own_tables(tables(*EVERY))
    assert has_own_tables(tables(*reversed(EVERY), 0x03))
    assert not has_own_tables(tables())


@pytest.mark.parametrize("missing", EVERY)
def test_a_missing_table(missing: int) -> None:
    assert not has_own_tables(tables(*(kind for kind in EVERY if kind != missing)))


def test_several_tables_in_a_segment() -> None:
    """As Photoshop writes them; of 16 bits, too."""
    parts = segments(tables(*EVERY))
    huffman = b"".join(content for marker, content in parts if marker == DHT)
    rest = [part for part in parts if part[0] not in (DQT, DHT)]
    for quantisation in (b"\0" + bytes(64) + b"\1" + bytes(64), b"\x10" + bytes(128) + b"\x11" + bytes(128)):
        assert has_own_tables(joined([(DQT, quantisation), (DHT, huffman), *rest]))
        assert not has_own_tables(joined([(DQT, quantisation[:65]), (DHT, huffman), *rest]))
        assert not has_own_tables(joined([(DQT, quantisation), (DHT, huffman[:-18]), *rest]))


def test_tables_that_are_no_tables() -> None:
    """Their markers in a comment, or behind the scan."""
    inside = b"".join(segment(marker, content) for marker, content in segments(tables(*EVERY)) if marker in (DQT, DHT))
    bare = tables()
    assert not has_own_tables(bare[:2] + segment(0xFE, inside) + bare[2:])
    assert not has_own_tables(bare[:-2] + inside + bare[-2:])
    assert has_own_tables(bare[:2] + inside + bare[2:])


def test_what_pillow_writes_has_them() -> None:
    for name, data in whole().items():
        without = {"no_huffman_tables", "no_huffman_tables_but_a_comment", "no_quantisation_tables",
                   "tables_behind_their_scan"}  # fmt: skip
        if header_of(data)[0] == 0xC0:
            assert has_own_tables(data) == (name not in without), name
