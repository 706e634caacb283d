"""Every kind of damage to a shard set is blamed on the file and the samples that have it, and on nothing else."""

import io
import json
import random
import shutil
import tarfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexnet_fast.shards.format import INDEX_DTYPE, MANIFEST
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.verify import verify
from alexnet_fast.shards.verify_tar import Finding
from tests.conftest import picture

TAR, IDX, INDEX, SUMS = "train-000001.tar", "train-000001.idx", "train.index.npy", "SHA256SUMS"
FIRST, SAMPLES = 15, 15
"""Of TAR: its first row in INDEX, and how many there are."""

Pairs = set[tuple[str, str | int]]
"""(file, sample) of the reports; here a sample is its place in TAR, or "" for the file as a whole."""


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads in their place, which take no time to start; the command `verify` is tested with processes."""
    monkeypatch.setattr("alexnet_fast.shards.verify.ProcessPoolExecutor", lambda n, mp_context: ThreadPoolExecutor(n))


def check(folder: Path, *, quick: bool = False) -> list[Finding]:
    return verify(folder, quick, 1, lambda images: None)


@pytest.fixture
def copy(jpeg_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(jpeg_shards, tmp_path / "copy")


def words(folder: Path, sample: int) -> list[str]:
    return (folder / IDX).read_text().splitlines()[1 + sample].split(" ")


def key(folder: Path, sample: int) -> str:
    return words(folder, sample)[3].removesuffix(".cls")


def change_byte(path: Path, at: int, xor: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= xor
    path.write_bytes(data)


def in_tar(part: str, by: int = 0) -> Callable[[Path], object]:
    """Changes one byte of sample 3, `by` bytes from the start of a part of it."""

    def damage(folder: Path) -> None:
        _, label, _, _, _, image, size, _ = words(folder, 3)
        starts = {"label": int(label), "image": int(image), "image's end": int(image) + int(size)}
        change_byte(folder / TAR, starts[part] + by)

    return damage


def in_idx(edit: Callable[[list[str]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        lines = (folder / IDX).read_text(encoding="latin-1").split("\n")
        edit(lines)
        (folder / IDX).write_text("\n".join(lines), encoding="latin-1")

    return damage


def in_line(word: int, text: str) -> Callable[[Path], object]:
    """Replaces a word of sample 3."""

    def edit(lines: list[str]) -> None:
        parts = lines[4].split(" ")
        parts[word] = text
        lines[4] = " ".join(parts)

    return in_idx(edit)


def in_row(column: str, change: Callable[[int], int]) -> Callable[[Path], object]:
    """Changes a number of sample 3."""

    def damage(folder: Path) -> None:
        index = np.load(folder / INDEX)
        index[column][FIRST + 3] = change(int(index[column][FIRST + 3]))
        np.save(folder / INDEX, index)

    return damage


def in_rows(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / INDEX, edit(np.load(folder / INDEX)))


def in_manifest(name: str, change: Callable[[int], object]) -> Callable[[Path], object]:
    """Changes what it says of TAR."""

    def damage(folder: Path) -> None:
        body = json.loads((folder / MANIFEST).read_text())
        body["splits"]["train"][1][name] = change(body["splits"]["train"][1][name])
        (folder / MANIFEST).write_text(json.dumps(body, indent=1) + "\n")

    return damage


def change_counts(folder: Path) -> None:
    body = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(body | {"counts": {"train": [20, 20, 19], "val": [6, 6, 6]}}))


def cut(sample: int) -> Callable[[Path], object]:
    """The tar ends within the image of a sample."""
    return lambda folder: (folder / TAR).write_bytes((folder / TAR).read_bytes()[: int(words(folder, sample)[5]) + 700])


def add_member(size: int) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        info = tarfile.TarInfo("stray.txt")
        info.size = size
        with tarfile.open(folder / TAR, "a") as tar:
            tar.addfile(info, io.BytesIO(bytes(size)))

    return damage


def insert_member(folder: Path) -> None:
    """Before sample 5: each one after it lies elsewhere than the indexes say."""
    info = tarfile.TarInfo("stray.txt")
    info.size = 1
    data, at = (folder / TAR).read_bytes(), int(words(folder, 5)[1]) - 512
    (folder / TAR).write_bytes(data[:at] + info.tobuf(tarfile.USTAR_FORMAT) + b"!" + bytes(511) + data[at:])


def rename(folder: Path) -> None:
    """Another name for sample 3's label, and a header that is right in itself."""
    info = tarfile.TarInfo("other.cls")
    info.size = 1
    data, at = (folder / TAR).read_bytes(), int(words(folder, 3)[1])
    (folder / TAR).write_bytes(data[: at - 512] + info.tobuf(tarfile.USTAR_FORMAT) + data[at:])


def both(*damages: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [damage(folder) for damage in damages]


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def samples_from(start: int) -> Pairs:
    return {(TAR, sample) for sample in range(start, SAMPLES)}


IN_3: Pairs = {(TAR, ""), (TAR, 3)}
NONE: Pairs = set()

DAMAGE: dict[str, tuple[Callable[[Path], object], Pairs, Pairs]] = {
    # name: damage, what the full check reports, what the quick one does
    "label's header, name": (in_tar("label", -512), IN_3, NONE),
    "label's header, size": (in_tar("label", -512 + 134), IN_3, NONE),
    "label's header, checksum": (in_tar("label", -512 + 150), IN_3, NONE),
    "label's header, end of checksum": (in_tar("label", -512 + 155), IN_3, NONE),
    "label's header, last byte": (in_tar("label", -1), IN_3, NONE),
    "label's header, another name": (rename, IN_3, NONE),
    "label": (in_tar("label"), IN_3, NONE),
    "label's padding": (in_tar("label", 1), IN_3, NONE),
    "image's header, name": (in_tar("image", -512), IN_3, NONE),
    "image's header, size": (in_tar("image", -512 + 132), IN_3, NONE),
    "image's header, last byte": (in_tar("image", -1), IN_3, NONE),
    "image, first byte": (in_tar("image"), IN_3, NONE),
    "image, middle": (in_tar("image", 900), IN_3, NONE),
    "image, last byte": (in_tar("image's end", -1), IN_3, NONE),
    "image's padding": (in_tar("image's end"), IN_3, NONE),
    "both headers": (both(in_tar("label", -512), in_tar("image", -512)), IN_3, NONE),
    "end of the tar": (lambda folder: change_byte(folder / TAR, -1), {(TAR, "")}, NONE),
    "tar missing": (remove(TAR), {(TAR, "")}, {(TAR, "")}),
    "tar empty": (write(TAR, b""), {(TAR, ""), *samples_from(0)}, {(TAR, ""), *samples_from(0)}),
    "tar without its last block": (
        lambda folder: (folder / TAR).write_bytes((folder / TAR).read_bytes()[:-512]),
        {(TAR, "")},
        {(TAR, "")},
    ),
    "tar cut": (cut(10), {(TAR, ""), *samples_from(10)}, {(TAR, ""), *samples_from(10)}),
    "member at the end": (add_member(20_000), {(TAR, "")}, {(TAR, "")}),
    "member before sample 5": (insert_member, {(TAR, ""), *samples_from(5)}, {(TAR, "")}),
    "tar of nobody": (
        lambda folder: shutil.copy(folder / TAR, folder / "train-000009.tar"),
        {("train-000009.tar", "")},
        {("train-000009.tar", "")},
    ),
    "idx missing": (remove(IDX), {(IDX, "")}, {(IDX, "")}),
    "idx empty": (write(IDX, b""), {(IDX, "")}, {(IDX, "")}),
    "idx garbage": (write(IDX, b"v1.2 \xff\0"), {(IDX, "")}, {(IDX, "")}),
    "idx, lines in reverse": (  # the middle one stays
        in_idx(lambda lines: lines.__setitem__(slice(1, 16), lines[15:0:-1])),
        {(IDX, sample) for sample in range(SAMPLES) if sample != 7},
        {(IDX, sample) for sample in range(SAMPLES) if sample != 7},
    ),
    "idx, first line": (in_idx(lambda lines: lines.__setitem__(0, "v1.2 16")), {(IDX, "")}, {(IDX, "")}),
    "idx, a line less": (in_idx(lambda lines: lines.pop(4)), {(IDX, ""), (IDX, 3)}, {(IDX, ""), (IDX, 3)}),
    "idx, two lines in one": (
        in_idx(lambda lines: lines.insert(4, lines.pop(4) + "\x0b" + lines.pop(4))),
        {(IDX, ""), (IDX, 3), (IDX, 4)},
        {(IDX, ""), (IDX, 3), (IDX, 4)},
    ),
    **{
        f"idx, {name}": (in_line(word, text), {(IDX, 3)}, {(IDX, 3)})
        for name, word, text in [
            ("cls", 0, "cms"),
            ("label's offset", 1, "512"),
            ("label's size", 2, "2"),
            ("label's name", 3, "n01_ball/x.cls"),
            ("jpg", 4, "npg"),
            ("image's offset", 5, "99999999999999999999999999"),
            ("image's size", 6, "7"),
            ("image's name", 7, "n01_ball/\xff.jpg"),
        ]
    },
    "idx, another key": (
        in_idx(lambda lines: lines.__setitem__(4, lines[4].replace("/", "/x"))),
        {(IDX, 3)},
        NONE,  # the rows have no keys
    ),
    "row, shard": (in_row("shard", lambda shard: 0), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, shard that is not": (in_row("shard", lambda shard: 77), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, offset": (in_row("offset", lambda offset: offset + 512), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, offset beyond": (in_row("offset", lambda offset: 2**64 - 1), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, size": (in_row("size", lambda size: size - 1), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, label": (in_row("label", lambda label: (label + 1) % 3), {(INDEX, ""), (INDEX, 3)}, {(INDEX, "")}),
    "row, label of no class": (in_row("label", lambda label: 3), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, label below all": (in_row("label", lambda label: -2), {(INDEX, 3)}, {(INDEX, 3)}),
    "row, crc32": (in_row("crc32", lambda crc32: crc32 ^ 1), {(INDEX, 3)}, NONE),
    "rows exchanged": (
        in_rows(lambda index: index[[*range(18), 19, 18, *range(20, 60)]]),
        {(INDEX, 3), (INDEX, 4)},
        {(INDEX, 3), (INDEX, 4)},
    ),
    "a row less": (
        in_rows(lambda index: np.delete(index, FIRST + 3)),
        {(INDEX, ""), (INDEX, 3)},
        {(INDEX, ""), (INDEX, 3)},
    ),
    "index missing": (remove(INDEX), {(INDEX, "")}, {(INDEX, "")}),
    "index garbage": (write(INDEX, b"\x93NUMPY garbage"), {(INDEX, "")}, {(INDEX, "")}),
    "index, number of rows": (
        lambda folder: (folder / INDEX).write_bytes((folder / INDEX).read_bytes().replace(b"(60,)", b"(20,)")),
        {(INDEX, "")},
        {(INDEX, "")},
    ),
    "index of something else": (in_rows(lambda index: np.arange(60)), {(INDEX, "")}, {(INDEX, "")}),
    "manifest, counts": (change_counts, {(MANIFEST, "")}, {(MANIFEST, "")}),
    "manifest, samples": (in_manifest("samples", lambda count: count - 1), {(MANIFEST, "")}, {(MANIFEST, "")}),
    "manifest, bytes": (in_manifest("bytes", lambda count: count + 1), {(MANIFEST, "")}, {(MANIFEST, "")}),
    "manifest, sha256": (in_manifest("sha256", lambda sha256: "0" * 64), {(MANIFEST, "")}, {(SUMS, "")}),
    "side files": (
        both(write("_info.json", b"{}"), write("val.wids.json", b"")),
        {("_info.json", ""), ("val.wids.json", "")},
        {("_info.json", ""), ("val.wids.json", "")},
    ),
    # two at once
    "idx missing, label's header": (both(in_tar("label", -512), remove(IDX)), {*IN_3, (IDX, "")}, {(IDX, "")}),
    "index missing, image's header": (both(in_tar("image", -512), remove(INDEX)), {*IN_3, (INDEX, "")}, {(INDEX, "")}),
    "both indexes missing, image's header": (
        both(in_tar("image", -512), remove(INDEX), remove(IDX)),
        {*IN_3, (INDEX, ""), (IDX, "")},
        {(TAR, 3), (INDEX, ""), (IDX, "")},
    ),
    "idx missing, a row less": (
        both(remove(IDX), in_rows(lambda index: np.delete(index, FIRST + 3))),
        {(IDX, ""), (INDEX, ""), (INDEX, 3)},
        {(IDX, ""), (INDEX, ""), (INDEX, 3)},
    ),
    "image and row's label of no class": (
        both(in_tar("image", 900), in_row("label", lambda label: 3)),
        {*IN_3, (INDEX, 3)},
        {(INDEX, 3)},
    ),
    "row's and image's size": (
        both(in_tar("image", 900), in_row("size", lambda size: size + 512)),
        {*IN_3, (INDEX, 3)},
        {(INDEX, 3)},
    ),
}


@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_corrupt_is_named_and_nothing_else(name: str, quick: bool, copy: Path) -> None:
    damage, *expected = DAMAGE[name]
    numbers: dict[str, str | int] = {key(copy, sample): sample for sample in range(SAMPLES)} | {"": ""}
    damage(copy)
    found = check(copy, quick=quick)
    assert {(one.file, numbers.get(one.sample, one.sample)) for one in found} == expected[quick], found


@pytest.mark.parametrize("shards", ["jpeg_shards", "raw_shards"])
@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_set_is_whole(shards: str, quick: bool, request: pytest.FixtureRequest) -> None:
    counted: list[int] = []
    assert verify(request.getfixturevalue(shards), quick, 2, counted.append) == []
    assert sum(counted) == 78


def test_exchanged_labels_are_named_where_they_are(copy: Path) -> None:
    good, index = (copy / TAR).read_bytes(), np.load(copy / INDEX)
    labels = index["label"][FIRST : FIRST + SAMPLES]
    other = int(np.flatnonzero(labels != labels[0])[0])
    keys = {key(copy, 0), key(copy, other)}
    for sample in (0, other):
        change_byte(copy / TAR, int(words(copy, sample)[1]), int(labels[0] ^ labels[other]))
    assert {(one.file, one.sample) for one in check(copy)} == {(TAR, ""), *((TAR, one) for one in keys)}
    (copy / TAR).write_bytes(good)
    labels[[0, other]] = labels[[other, 0]]
    np.save(copy / INDEX, index)
    assert {(one.file, one.sample) for one in check(copy)} == {(INDEX, one) for one in keys}


def rewrite(folder: Path, image: bytes) -> None:
    """TAR with one sample alone, of which every sum is right."""
    with tarfile.open(folder / TAR, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("k/1.cls", b"0"), ("k/1.jpg", image)]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / IDX).write_text(f"v1.2 1\ncls 512 1 k/1.cls jpg 1536 {len(image)} k/1.jpg\n")
    index = np.load(folder / INDEX)
    row = np.array([(1, 1536, len(image), 0, zlib.crc32(image))], INDEX_DTYPE)
    np.save(folder / INDEX, np.concatenate([index[index["shard"] < 1], row, index[index["shard"] > 1]]))


def jpeg(height: int = 96, width: int = 96, mode: str = "RGB", subsampling: int = 2) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.resize(picture(1), (height, width, 3))).convert(mode)
    image.save(file, "JPEG", subsampling=subsampling)
    return file.getvalue()


def pillow_lets_it_pass() -> bytes:
    """A corrupt JPEG that Pillow decodes in silence."""
    good = jpeg()
    for at in range(len(good) - 300, len(good)):
        data = good[:at] + bytes([good[at] ^ 0x40]) + good[at + 1 :]
        try:
            Image.open(io.BytesIO(data)).load()
            simplejpeg.decode_jpeg(data)
        except OSError:
            continue
        except ValueError:
            return data
    raise AssertionError("Pillow found all of them")


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (jpeg()[:400], "does not decode"),
        (pillow_lets_it_pass(), "does not decode"),
        (jpeg(mode="CMYK"), "does not decode"),
        (jpeg(90, 90), "is 90 x 90"),
        (jpeg(96, 80), "is 96 x 80"),
        (jpeg(), ""),
        (jpeg(subsampling=0), ""),
        (jpeg(mode="L"), ""),
    ],
)
def test_an_image_with_right_sums_must_still_decode_to_the_size(image: bytes, problem: str, copy: Path) -> None:
    rewrite(copy, image)
    of_sample = [damage.problem for damage in check(copy) if damage.sample == "k/1"]
    assert len(of_sample) == bool(problem)
    assert all(found.startswith(problem) for found in of_sample)


def sample_at(folder: Path, name: str, at: int) -> str:
    """The key of the sample that byte `at` of a file belongs to; empty for none."""
    idx = "\n".join(path.read_text() for path in sorted(folder.glob(name.split(".")[0] + "*.idx")))
    lines = [line for line in idx.splitlines() if line.startswith("cls ")]
    if name.endswith(".tar"):
        ends = [int(line.split(" ")[5]) + -(-int(line.split(" ")[6]) // 512) * 512 for line in lines]
    elif name.endswith(".idx"):
        ends = [idx.index(line) + len(line) for line in lines]
        at = at if at > idx.index("\n") else ends[-1]
    elif name.endswith(".npy"):
        head = (folder / name).stat().st_size - 24 * len(lines)
        ends = [head + 24 * (row + 1) for row in range(len(lines))]
        at = at if at >= head else ends[-1]
    else:
        return ""
    return next((line.split(" ")[3][:-4] for line, end in zip(lines, ends, strict=True) if at < end), "")


def test_any_flipped_bit_is_blamed_on_its_file_and_sample(jpeg_shards: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    small = [path for path in sorted(jpeg_shards.iterdir()) if path.name != MANIFEST]
    copy = shutil.copytree(jpeg_shards, tmp_path / "copy")
    for _ in range(80):
        path = copy / draw.choice(small).name
        good = path.read_bytes()
        at = draw.randrange(len(good))
        expected = sample_at(copy, path.name, at)
        change_byte(path, at, 1 << draw.randrange(8))
        found = check(copy)
        assert {one.file for one in found} == {path.name}, found
        assert expected in {one.sample for one in found}, (path.name, at, found)
        if good[at : at + 1] != b"\n":
            assert {one.sample for one in found} <= {expected, ""}, (path.name, at, found)
        path.write_bytes(good)
    assert check(copy) == []


def test_a_flipped_bit_of_the_manifest_is_refused_or_found_or_harmless(jpeg_shards: Path, tmp_path: Path) -> None:
    """Harmless: white space, and texts that nothing else repeats, such as a class name or a statistic."""
    draw = random.Random(0)
    copy = shutil.copytree(jpeg_shards, tmp_path / "copy")
    path = copy / MANIFEST
    good = path.read_bytes()
    for _ in range(60):
        change_byte(path, draw.randrange(len(good)), 1 << draw.randrange(8))
        try:
            check(copy, quick=True)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        path.write_bytes(good)
    assert ShardSet(copy).manifest.splits


def test_a_mixed_set_is_whole(mixed_shards: Path) -> None:
    assert 0 < ShardSet(mixed_shards).split("train").raw.mean() < 1
    assert verify(mixed_shards, False, 1, lambda images: None) == []
