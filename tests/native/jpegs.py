"""A small writer of JPEGs, and those on which decoders differ or that they must refuse. Independent of our reader."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DQT, SOF, DHT, DAC, SOS, COM = 0xDB, 0xC0, 0xC4, 0xCC, 0xDA, 0xFE
START, END = b"\xff\xd8", b"\xff\xd9"
ZRL, EOB = 0xF0, 0x00
"""Symbols: sixteen zeros; the rest of the block is zeros."""

SIDE = 64
"""Of most of them, in pixels."""


def picture(side: int = SIDE, seed: int = 0) -> Image.Image:
    """Smooth shapes with noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(small, np.int16) + rng.integers(-12, 13, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def by_pillow(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 85, **how})
    return file.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return bytes([255, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and content of each up to the first scan, whose content is all that follows its marker. For whole files
    without bytes between segments."""
    found, at = list[tuple[int, bytes]](), 2
    while True:
        assert data[at] == 255
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == SOS:
            return [*found, (SOS, data[at + 2 :])]
        found.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length


def joined(parts: Iterable[tuple[int, bytes]]) -> bytes:
    """What `segments` took apart."""
    return START + b"".join(
        bytes([255, marker]) + content if marker == SOS else segment(marker, content) for marker, content in parts
    )


def without(data: bytes, kind: int) -> bytes:
    return joined((marker, content) for marker, content in segments(data) if marker != kind)


@dataclass(frozen=True)
class Code:
    """A Huffman table: how many codes of 1 to 16 bits, and the symbols in the order of their codes."""

    lengths: bytes
    symbols: bytes

    @cached_property
    def words(self) -> dict[int, str]:
        """Of each symbol the bits."""
        found, code, place = {}, 0, 0
        for length, count in enumerate(self.lengths, 1):
            for _ in range(count):
                found[self.symbols[place]] = f"{code:0{length}b}"
                code, place = code + 1, place + 1
            code <<= 1
        return found

    def table(self, kind: int, number: int = 0) -> bytes:
        """Its segment; kind 0: of DC values, 1: of AC values."""
        return segment(DHT, bytes([kind << 4 | number]) + self.lengths + self.symbols)


def code_of(symbols: Sequence[int], lengths: Sequence[int]) -> Code:
    """`lengths`: of each symbol's code, increasing."""
    counts = bytes(list(lengths).count(length) for length in range(1, 17))
    return Code(counts, bytes(symbols))


def standard_code(kind: int) -> Code:
    """The standard's for luminance, which Pillow writes unless told otherwise."""
    for marker, content in segments(by_pillow(picture().convert("L"))):
        if marker == DHT and content[0] >> 4 == kind:
            return Code(content[1:17], content[17:])
    raise AssertionError


@dataclass(frozen=True)
class Block:
    """`dc`: the difference to the block before; `ac`: symbol (zeros, bits) and value of each, in order; `ended`: with
    EOB."""

    dc: int
    ac: Sequence[tuple[int, int]]
    ended: bool = True


def bits_of(value: int) -> str:
    """A value's bits behind its symbol, as many as it is long."""
    size = abs(value).bit_length()
    return f"{value if value > 0 else value + (1 << size) - 1:0{size}b}" if size else ""


def scan_of(blocks: Iterable[Block], dc: Code, ac: Code) -> bytes:
    """A scan's bytes: filled up with ones, zeros stuffed."""
    bits = []
    for block in blocks:
        bits += [dc.words[abs(block.dc).bit_length()], bits_of(block.dc)]
        for symbol, value in block.ac:
            bits += [ac.words[symbol], bits_of(value)]
        bits += [ac.words[EOB]] if block.ended else []
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text or "0", 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def flat_quantisation(step: int = 8) -> bytes:
    return segment(DQT, bytes([0]) + bytes([step]) * 64)


def frame(width: int, height: int, components: int = 1, kind: int = SOF) -> bytes:
    sizes = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return segment(
        kind, b"\x08" + sizes + bytes([components]) + b"".join(bytes([i + 1, 0x11, 0]) for i in range(components))
    )


def scan(component: int, data: bytes) -> bytes:
    """Of one component, with tables 0."""
    return segment(SOS, bytes([1, component, 0, 0, 63, 0])) + data


def grey(blocks: Sequence[Block], dc: Code, ac: Code, side: int = SIDE) -> bytes:
    tables = flat_quantisation() + frame(side, side) + dc.table(0) + ac.table(1)
    return START + tables + scan(1, scan_of(blocks, dc, ac)) + END


# --- the cases


def standard() -> bytes:
    """An ordinary JPEG with the standard's tables."""
    return by_pillow(picture())


def optimised() -> bytes:
    """With tables of its own."""
    return by_pillow(picture(seed=1), quality=50, optimize=True)


def no_huffman_tables() -> bytes:
    """As of a video of JPEGs: libjpeg-turbo then takes the standard's, which these bytes are of."""
    return without(standard(), DHT)


def no_huffman_tables_but_a_comment() -> bytes:
    """In which the markers of tables are found."""
    return START + segment(COM, b"\xff\xdb\xff\xc4") + no_huffman_tables()[2:]


def no_quantisation_tables() -> bytes:
    return without(standard(), DQT)


def tables_behind_their_scan() -> bytes:
    """Three scans of one component each. The first two are of the standard's tables, which are not there; then others
    are defined under the same number: a decompressor that decodes the file twice has these for the first, too."""
    dc, ac = standard_code(0), standard_code(1)
    turned = Code(ac.lengths, bytes(reversed(ac.symbols)))
    rng = np.random.default_rng(3)
    blocks = [
        [Block(int(rng.integers(-60, 60)), [(0x01, 1), (0x12, -3)]) for _ in range((SIDE // 8) ** 2)] for _ in "123"
    ]
    scans = [scan(i + 1, scan_of(blocks[i], dc, ac if i < 2 else turned)) for i in range(3)]
    between = dc.table(0) + turned.table(1)
    return START + flat_quantisation() + frame(SIDE, SIDE, 3) + scans[0] + scans[1] + between + scans[2] + END


def scan_bomb(side: int = 13_000, scans: int = 600) -> bytes:
    """Sequential, three components, and empty scans of the first one."""
    dc, ac = code_of([0], [1]), code_of([EOB], [1])
    return START + flat_quantisation() + frame(side, side, 3) + dc.table(0) + ac.table(1) + scan(1, b"") * scans + END


def zeros_to_the_end() -> bytes:
    """Blocks that end with the symbol of sixteen zeros, just as long as they are; the next block begins behind it. Few
    and short codes, so that a look at ten bits shows several symbols."""
    dc, ac = code_of([0, 1], [1, 2]), code_of([ZRL, EOB, 0x01, 0xE1], [1, 2, 3, 4])
    kinds = [
        Block(1, [(0xE1, 1), (ZRL, 0), (ZRL, 0), (ZRL, 0)], ended=False),  # 1 + 15 + 3 * 16 = 64
        Block(-1, [*[(0x01, -1)] * 15, (ZRL, 0), (ZRL, 0), (ZRL, 0)], ended=False),
        Block(1, [(ZRL, 0), (ZRL, 0), (ZRL, 0), (0xE1, -1)], ended=False),
        Block(-1, [(0x01, 1), (ZRL, 0)]),
    ]
    return grey([kinds[(i * i + i // 7) % 4] for i in range((SIDE // 8) ** 2)], dc, ac)


def with_ac_table(change: Any) -> bytes:
    """A grey JPEG, whose AC table (lengths, symbols) is changed."""
    parts = []
    for marker, content in segments(by_pillow(picture(seed=2).convert("L"))):
        if marker == DHT and content[0] == 0x10:
            content = content[:1] + change(content[1:17], content[17:])
        parts.append((marker, content))
    return joined(parts)


def usual_table() -> bytes:
    return with_ac_table(lambda lengths, symbols: lengths + symbols)


def empty_table() -> bytes:
    """No symbol has a code."""
    return with_ac_table(lambda lengths, symbols: bytes(16))


def table_of_a_long_value() -> bytes:
    """A symbol that no 8-bit image has, in the place of one that this image does not use."""
    return with_ac_table(lambda lengths, symbols: lengths + symbols[:-1] + b"\xfb")


def progressive() -> bytes:
    return by_pillow(picture(seed=4), progressive=True)


def progressive_with_more_behind(mebibytes: int = 16) -> bytes:
    """Behind its end, where nothing is of interest, the marker of a scan again and again."""
    return progressive() + b"\xff\xda" * (mebibytes << 19)


def random_code(symbols: Sequence[int], rng: np.random.Generator) -> Code:
    """Some code of 1 to 16 bits for these symbols, in random order. No code is all ones, as libjpeg asks."""
    lengths = [1, 1]
    while len(lengths) < len(symbols) + 1:
        at = int(np.argmin(lengths)) if rng.random() < 0.5 else int(rng.integers(len(lengths)))
        if lengths[at] < 16:
            lengths[at] += 1
            lengths.append(lengths[at])
    return code_of(rng.permutation(list(symbols)).tolist(), sorted(lengths)[:-1])


def random_block(symbols: Sequence[int], rng: np.random.Generator) -> Block:
    """A legal one of these AC symbols. What fits to the end exactly ends without EOB."""
    k, ac = 1, list[tuple[int, int]]()
    while k < 64 and rng.random() < 0.9:
        symbol = int(rng.choice(list(symbols)))
        zeros, size = symbol >> 4, symbol & 15
        if symbol == EOB or k + zeros + 1 > 64:
            continue
        value = int(rng.integers(1 << (size - 1), 1 << size)) * int(rng.choice([-1, 1])) if size else 0
        ac.append((symbol, value))
        k += zeros + 1
    return Block(int(rng.integers(-15, 16)), ac, ended=k < 64)


def random_grey(rng: np.random.Generator, side: int = 32) -> bytes:
    """Random symbols of a random code."""
    sizes = [0, 1, 2, 3, 4]
    ac = [
        EOB,
        ZRL,
        *{int(s) for s in rng.choice([16 * zeros + size for zeros in range(16) for size in (1, 2, 3, 5, 8, 10)], 12)},
    ]
    blocks = [random_block(ac, rng) for _ in range((side // 8) ** 2)]
    return grey(blocks, random_code(sizes, rng), random_code(ac, rng), side)


def as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)
