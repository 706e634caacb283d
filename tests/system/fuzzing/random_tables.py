"""Baseline JPEGs that no encoder writes: random coefficients in random Huffman codes.

Of a seed and nothing else. A code has words of all lengths up to 16, is as full as libjpeg takes it or not, and gives
long words to frequent symbols as soon as to rare ones; symbols are permuted, some are never used, some have two words.
Values reach what libjpeg takes at most, which is more than an 8-bit image has. Blocks end by an end-of-block, by one of
the symbols that libjpeg takes for it, or by runs of zeros that reach exactly the last coefficient, in few images beyond
it. libjpeg decodes all of it without a warning.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from tests.system.fuzzing.jpeg_writer import (
    LONGEST,
    Code,
    Events,
    Numbers,
    Sampling,
    frame,
    huffman_table,
    intervals,
    restarts,
    scan_header,
    segment,
)

BLOCK, ZRL = 64, 0xF0
SAMPLINGS = {
    "grey": ((1, 1),),
    "4:4:4": ((1, 1),) * 3,
    "4:2:2": ((2, 1), (1, 1), (1, 1)),
    "4:2:0": ((2, 2), (1, 1), (1, 1)),
    "4:4:0": ((1, 2), (1, 1), (1, 1)),
    "4:1:1": ((4, 1), (1, 1), (1, 1)),
    "grey 2x2": ((2, 2),),
    "4:1:0": ((4, 2), (1, 1), (1, 1)),
    "4:2:1": ((2, 2), (2, 1), (1, 1)),
    "4:4:4 of 2x1": ((2, 1),) * 3,
    "colour finer": ((1, 1), (2, 1), (2, 1)),
}
"""Samples of each component, horizontally and vertically. From the seventh on unusual ones."""
USUAL = 6
DC_RANGES = {True: (0, 3, 60, 1023), False: (60, 1023, 2047, 16_000)}
"""Largest DC values: of an 8-bit image, whose differences have 11 bits at most, or any."""
AC_BITS = {True: (1, 3, 6, 10), False: (6, 10, 11, 15)}
"""Longest AC values: of an 8-bit image, or any."""
EIGHT_BITS = 0.8
"""Share of the JPEGs whose codes have no symbol that an 8-bit image cannot have. huffman.c leaves others to libjpeg."""


def random_jpeg(seed: int, longest_side: int = 72, exchange: bool = False) -> bytes:
    """Of the same seed the same coefficients and words; `exchange`: other symbols for them, see `_exchanged`."""
    rng = np.random.default_rng(seed)
    names = list(SAMPLINGS)
    name = names[rng.integers(USUAL if rng.random() < 0.85 else len(names))]
    height, width = (int(rng.integers(1, longest_side + 1)) for _ in range(2))
    sampling = SAMPLINGS[name]
    slots = [(int(rng.integers(4)), int(rng.integers(4))) for _ in sampling]
    if rng.random() < 0.5:  # as encoders do it: the colours share
        slots = [(0, 0)] + [(1, 1)] * (len(sampling) - 1)
    component, mcu = _order(sampling, height, width)
    eight_bits = bool(rng.random() < EIGHT_BITS)
    restart = int(rng.integers(1, max(2, mcu[-1] + 3))) if rng.random() < 0.4 else 0
    events = _events(rng, component, mcu // restart if restart else 0 * mcu, slots, eight_bits)
    used = {table: np.unique(events.symbol[events.table == table]) for table in _tables(slots)}
    codes = {table: _code(rng, symbols, table < 4, eight_bits) for table, symbols in used.items()}
    if exchange:
        codes = {table: _exchanged(code) if table >= 4 else code for table, code in codes.items()}
    tables = (_transform(rng, len(sampling)), _quantisation(rng), _huffman(rng, codes), restarts(restart))
    headers = (frame(sampling, height, width), scan_header(slots))
    return b"".join((b"\xff\xd8", *tables, *headers, *intervals(events, codes), b"\xff\xd9"))


def _order(sampling: Sampling, height: int, width: int) -> tuple[Numbers, Numbers]:
    """Of each block of the scan, in its order, the component and the MCU."""
    if len(sampling) == 1:  # a MCU is a block, whatever the sampling
        mcus = -(-height // 8) * -(-width // 8)
        return np.zeros(mcus, np.int64), np.arange(mcus)
    h, v = (max(sizes) for sizes in zip(*sampling, strict=True))
    mcus = -(-height // (8 * v)) * -(-width // (8 * h))
    of_mcu = np.repeat(np.arange(len(sampling)), [a * b for a, b in sampling])
    return np.tile(of_mcu, mcus), np.repeat(np.arange(mcus), len(of_mcu))


def _tables(slots: list[tuple[int, int]]) -> list[int]:
    return sorted({dc for dc, _ in slots} | {4 + ac for _, ac in slots})


def _events(
    rng: np.random.Generator, component: Numbers, interval: Numbers, slots: list[tuple[int, int]], eight_bits: bool
) -> Events:
    """Random blocks as symbols and values."""
    dc_slot, ac_slot = (np.array(numbers)[component] for numbers in zip(*slots, strict=True))
    blocks = len(component)
    dc = _dc_differences(rng, component, interval, int(rng.choice(DC_RANGES[eight_bits])))
    dc_bits = _bits_of(dc)
    block, at, values = _ac_values(rng, blocks, int(rng.choice(AC_BITS[eight_bits])))
    first = np.r_[True, block[1:] != block[:-1]] if len(block) else np.zeros(0, bool)
    zeros = np.where(first, at - 1, np.diff(at, prepend=0) - 1)
    bits = _bits_of(values)
    last = np.zeros(blocks, np.int64)
    np.maximum.at(last, block, at)
    zrls_behind, has_end = _ends(rng, 63 - last)
    ends = np.flatnonzero(has_end)
    end_symbol = 16 * rng.integers(0, 15, len(ends)) * (rng.random(len(ends)) < rng.choice([0.0, 0.0, 0.3]))
    # Each kind of event by block, and by place within it: DC, values with runs before them, runs behind, the end.
    runs, behind = zeros // 16, np.repeat(np.arange(blocks), zrls_behind)
    of_runs = np.repeat(np.arange(len(block)), runs)
    parts: list[tuple[Numbers | int, ...]] = [
        (np.arange(blocks), 0, dc_slot, dc_bits, dc, dc_bits),
        (block[of_runs], 2 * at[of_runs], 4 + ac_slot[block[of_runs]], ZRL, 0, 0),
        (block, 2 * at + 1, 4 + ac_slot[block], zeros % 16 * 16 + bits, values, bits),
        (behind, 200, 4 + ac_slot[behind], ZRL, 0, 0),
        (ends, 300, 4 + ac_slot[ends], end_symbol, 0, 0),
    ]
    of_block, place, table, symbol, value, count = np.concatenate(
        [np.stack(np.broadcast_arrays(*part)) for part in parts], axis=1
    ).astype(np.int64)
    order = np.lexsort((place, of_block))
    value = np.where(value < 0, value + (1 << count) - 1, value)
    return Events(table[order], symbol[order], value[order], count[order], interval[of_block[order]])


def _dc_differences(rng: np.random.Generator, component: Numbers, interval: Numbers, largest: int) -> Numbers:
    value = rng.integers(-largest, largest + 1, len(component))
    difference = value.copy()
    for number in range(int(component.max()) + 1):
        mine = np.flatnonzero(component == number)
        same = interval[mine][1:] == interval[mine][:-1]
        difference[mine[1:][same]] -= value[mine[:-1][same]]
    return difference


def _ac_values(rng: np.random.Generator, blocks: int, longest: int) -> tuple[Numbers, Numbers, Numbers]:
    """Block, place (1 to 63) and value of each that is not 0."""
    share = rng.choice([0.01, 0.05, 0.1, 0.3, 1.0]) * rng.random((blocks, 1)) ** 2
    chosen = rng.random((blocks, BLOCK)) < share
    chosen[:, 0] = False
    chosen[:, 63] |= rng.random(blocks) < rng.choice([0, 0.2])
    # Where runs of 16 zeros reach exactly the end behind them.
    exact = np.flatnonzero(rng.random(blocks) < rng.choice([0, 0.3]))
    chosen[exact, 16:] = False
    chosen[exact, rng.choice([15, 31, 47], len(exact))] = True
    block, at = np.nonzero(chosen)
    bits = rng.integers(1, longest + 1, len(block))
    size = (1 << (bits - 1)) + rng.integers(0, 1 << 62, len(block)) % (1 << (bits - 1))
    size = np.where(rng.random(len(block)) < 0.05, (1 << bits) - 1, size)
    return block, at, size * rng.choice([-1, 1], len(block))


def _ends(rng: np.random.Generator, zeros: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """For blocks with so many zeros at the end: how many runs of 16 are written, whether an end-of-block is."""
    most = zeros // 16
    runs = np.where(rng.random(len(zeros)) < rng.choice([0.0, 0.2, 0.7]), rng.integers(0, most + 1), 0)
    runs = np.where((zeros == 16 * most) & (rng.random(len(zeros)) < 0.5), most, runs)
    if rng.random() < 0.04:
        runs += (zeros % 16 > 0) * (runs == most) * (rng.random(len(zeros)) < 0.5)
    return runs, runs * 16 < zeros


def _bits_of(values: Numbers) -> Numbers:
    """How many the size of each has."""
    bits: Numbers = np.ceil(np.log2(np.abs(values) + 1)).astype(np.int64)
    return bits


def _code(rng: np.random.Generator, used: Numbers, is_dc: bool, eight_bits: bool) -> Code:
    """A random prefix code."""
    possible = np.arange(16 if is_dc else 256)
    others = np.setdiff1d(possible, used)
    if eight_bits:
        others = others[others <= 11] if is_dc else others[others % 16 <= 10]
    more = rng.permutation(others)[: rng.integers(0, len(others) + 1) if rng.random() < 0.7 else 0]
    symbols = np.r_[used, more]
    if rng.random() < 0.1:
        symbols = np.r_[symbols, rng.choice(symbols, min(len(symbols), 256 - len(symbols)))]
    lengths = _lengths(rng, max(len(symbols), 1))
    return lengths[: len(symbols)], rng.permutation(symbols)


def _exchanged(code: Code) -> Code:
    """The same words, some for a zero more or less before a value of as many bits: who takes one code for the other
    finds no fault, but other pixels."""
    lengths, symbols = code
    other = symbols ^ 16
    return lengths, np.where((symbols % 16 > 0) & np.isin(other, symbols), other, symbols)


def _lengths(rng: np.random.Generator, words: int) -> Numbers:
    """Of a code that lacks at least one word, as libjpeg wants it, or more, or has longer ones than it could."""
    leaves = [1, *[0] * LONGEST]  # of a tree, by their depth
    deep = rng.choice([0.0, 0.3, 0.8, 1.0])
    goal = words + int(rng.integers(2, 20) if rng.random() < 0.5 else 1)
    for chance, where in rng.random((goal - 1, 2)).tolist():
        splittable = [depth for depth in range(LONGEST) if leaves[depth]]
        if not splittable:
            break
        if chance < deep:
            depth = splittable[-1]
        else:
            shares = zip(splittable, _shares(leaves, splittable), strict=True)
            depth = next(depth for depth, share in shares if where < share)
        leaves[depth] -= 1
        leaves[depth + 1] += 2
    lengths = np.repeat(np.arange(LONGEST + 1), leaves)
    if len(lengths) == words + 1:
        return lengths[:words]  # it lacks the longest
    chosen = rng.permutation(lengths)[:words]
    if rng.random() < 0.3:
        chosen = np.minimum(chosen + rng.integers(0, 6, words) * (rng.random(words) < 0.3), LONGEST)
    in_order: Numbers = np.sort(chosen)
    return in_order


def _shares(leaves: list[int], depths: list[int]) -> list[float]:
    """Of the leaves at all `depths`, how many are at each or before it."""
    counts = list(itertools.accumulate(leaves[depth] for depth in depths))
    return [count / counts[-1] for count in counts]


def _transform(rng: np.random.Generator, components: int) -> bytes:
    """Nothing, JFIF's marker, or Adobe's, by which colours are YCbCr or RGB."""
    kind = rng.integers(4)
    if kind == 1:
        return segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    if kind == 2 and components == 3:
        return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([rng.integers(2)]))
    return b""


def _quantisation(rng: np.random.Generator) -> bytes:
    largest = int(rng.choice([1, 2, 20, 255, 255, 60_000]))
    table = rng.integers(1, largest + 1, BLOCK)
    wide = largest > 255
    return segment(0xDB, bytes([16 * wide]) + table.astype(">u2" if wide else np.uint8).tobytes())


def _huffman(rng: np.random.Generator, codes: dict[int, Code]) -> bytes:
    """In one segment or in several, some behind another code for the same slot, which is of no use."""
    tables = []
    for table, code in codes.items():
        if rng.random() < 0.1:
            tables.append(huffman_table(table, _code(rng, np.zeros(0, np.int64), table < 4, True)))
        tables.append(huffman_table(table, code))
    if rng.random() < 0.5:
        return b"".join(segment(0xC4, table) for table in tables)
    return segment(0xC4, b"".join(tables))
