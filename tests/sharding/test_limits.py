"""Files that are no images of a sane size, or no files at all: left out or refused before they fill memory or block."""

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from alexnet_fast.errors import InputError
from alexnet_fast.inference.images import ImageFiles
from alexnet_fast.sharding import limits, reading
from alexnet_fast.sharding.listing import Image
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.reading import read_images
from alexnet_fast.sharding.rule import DEFAULT
from alexnet_fast.sharding.selection import read_class_file
from alexnet_fast.sharding.sources import devkit, find_images, parquet
from alexnet_fast.shards.format import MANIFEST
from tests.conftest import SIZE, write

HUGE = 12 << 30
REASON = "12,884,901,888 bytes, more than the limit of 268,435,456"
IRREGULAR = "not a regular file: a pipe, a socket or a device"


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def sparse(path: Path, size: int = HUGE) -> Path:
    """A file of zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def class_folder(root: Path) -> Path:
    (root / "train/a").mkdir(parents=True)
    for number in range(3):
        (root / f"train/a/{number}.png").write_bytes(png(number))
    return root


def rejected(out: Path) -> dict[str, str]:
    rows = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    return {row["path"]: row["reason"] for row in rows}


def in_time(call: Callable[[], Any]) -> Any:
    """What `call` returns; fails where it waits for something that does not come."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(20)
    assert results, "it waits, or failed"
    return results[0]


def refusal(call: Callable[[], object]) -> str:
    def message() -> str:
        with pytest.raises(InputError) as error:
            call()
        return str(error.value)

    text: str = in_time(message)
    return text


@pytest.mark.parametrize(
    "options", [Options("jpeg", size=SIZE), Options("mixed", size=SIZE, budget=200_000)], ids=["jpeg", "mixed"]
)
def test_a_huge_file_is_left_out(options: Options, tmp_path: Path) -> None:
    """With a budget, too, for which images are looked at before any is written."""
    sparse(class_folder(tmp_path / "in") / "train/a/huge.jpg")
    summary = write(find_images(tmp_path / "in"), tmp_path / "out", options)
    assert (summary.images, summary.rejected) == (3, 1)
    assert rejected(tmp_path / "out") == {"train/a/huge.jpg": REASON}


def test_a_huge_member_of_an_archive_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    huge = tarfile.TarInfo("huge.jpg")
    huge.size = HUGE
    good = tarfile.TarInfo("good.png")
    good.size = len(png())
    path = tmp_path / "in/n01440764.tar"
    with path.open("wb") as file:
        file.write(huge.tobuf(tarfile.GNU_FORMAT))
        file.seek(HUGE, 1)
        file.write(good.tobuf(tarfile.GNU_FORMAT) + png() + bytes(-len(png()) % 512 + 1024))
    summary = write(find_images(tmp_path / "in"), tmp_path / "out", Options("jpeg", size=SIZE))
    assert (summary.images, summary.rejected) == (1, 1)
    assert rejected(tmp_path / "out") == {"n01440764.tar/huge.jpg": REASON}


def test_a_file_of_the_very_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 70_000, 300_000):
        path.write_bytes(data := np.random.default_rng(size).bytes(size))
        assert limits.read_file(path, size) == data
        if size:
            with pytest.raises(limits.UnfitFileError, match=f"{size:,} bytes, more than the limit of {size - 1:,}"):
                limits.read_file(path, size - 1)
    monkeypatch.setattr(reading, "MOST_IMAGE_BYTES", 300_000)
    ((_, found),) = read_images(tmp_path, [Image("", "a")])
    assert found == data


def test_a_file_that_grows_while_it_is_read(tmp_path: Path) -> None:
    """Or whose size is not known before, as under /proc: counted while it is read."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)

    class Growing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            with path.open("ab") as more:
                more.write(b"x" * 1000)
            return super().read(size) or b""

    with Growing(path) as file, pytest.raises(limits.UnfitFileError, match="more bytes than the limit of 5,000"):
        limits.read_open(file, 5000, path)
    with pytest.raises(limits.UnfitFileError, match="more bytes than the limit of 10"):
        limits.read_file(Path("/proc/self/status"), 10)
    assert limits.read_file(Path("/proc/self/cmdline"), 1 << 20) == Path("/proc/self/cmdline").read_bytes()


def test_what_is_no_regular_file_does_not_block(tmp_path: Path) -> None:
    """As it may be put there after the listing, which leaves such files out."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        (tmp_path / "folder").mkdir()
        (tmp_path / "file").write_bytes(b"bytes")
        names = ["pipe", "device", "socket", "folder", "gone", "file"]
        found = in_time(lambda: [data for _, data in read_images(tmp_path, [Image("", name) for name in names])])
    assert [str(error) for error in found[:5]] == [
        *[IRREGULAR] * 3,
        "Is a directory",
        "No such file or directory",
    ]
    assert found[5] == b"bytes"


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    sparse(tmp_path / "huge")
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        in_time(lambda: list(read_images(tmp_path, [Image("", "pipe"), Image("", "huge")])))
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("name", ["n01440764.tar", "train.tar", "train.parquet"])
def test_an_archive_that_is_a_pipe_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    message = refusal(lambda: find_images(tmp_path))
    assert message.startswith(f"{tmp_path / name} ")
    assert IRREGULAR in message


@pytest.mark.parametrize("kind", ["huge", "pipe"])
def test_a_kit_that_is_too_large_or_a_pipe(kind: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/meta.mat").touch()
    put: Callable[[Path], object] = sparse if kind == "huge" else os.mkfifo
    put(tmp_path / "data/ILSVRC2012_validation_ground_truth.txt")
    message = refusal(lambda: devkit.read(tmp_path))
    reason = REASON.replace("268,435,456", "67,108,864") if kind == "huge" else IRREGULAR
    assert message == (
        f"{tmp_path}/data/ILSVRC2012_validation_ground_truth.txt cannot be read ({reason}). Download it again."
    )


def test_lists_that_are_too_large(tmp_path: Path) -> None:
    """Without a single end of a line, all of it is one."""
    sparse(class_folder(tmp_path) / "words.txt")
    assert "words.txt cannot be read (" in (message := refusal(lambda: find_images(tmp_path)))
    assert "12,884,901,888 bytes, more than the limit of 67,108,864" in message
    assert "more than the limit of 67,108,864" in refusal(lambda: read_class_file(tmp_path / "words.txt"))
    kaggle = tmp_path / "kaggle/ILSVRC/Data/CLS-LOC"
    class_folder(kaggle)
    (kaggle / "val").mkdir()
    sparse(tmp_path / "kaggle/LOC_val_solution.csv")
    assert "LOC_val_solution.csv cannot be read (" in (message := refusal(lambda: find_images(tmp_path / "kaggle")))
    assert "more than the limit of 67,108,864" in message


def test_classes_may_come_from_a_pipe(tmp_path: Path) -> None:
    """As the shell's <(...) gives them."""
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_text, args=("n1 a\n# no\nn2\n",), daemon=True).start()
    assert in_time(lambda: read_class_file(tmp_path / "pipe")) == ["n1 a", "# no", "n2"]


def test_a_huge_manifest_beside_webdataset_tars_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, data in (("a.cls", b"0"), ("a.png", png())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sparse(tmp_path / MANIFEST)
    assert find_images(tmp_path).classes == ["0"]


def test_a_huge_row_of_a_table_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decoded, as the table does not say its size before; beside few others, and never copied."""
    limit = 1 << 20
    monkeypatch.setattr(parquet, "MOST_IMAGE_BYTES", limit)
    random = np.random.default_rng(0)
    images: list[bytes | None] = [random.bytes(limit + (number % 2)) for number in range(16)]
    images[6] = None
    rows = [{"bytes": data, "path": None} for data in images]
    types = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(rows, types), "label": pa.array([0] * 16)})
    pq.write_table(table, tmp_path / "a.parquet", write_batch_size=1, compression="none", use_dictionary=False)
    del table
    before, highest, found = pa.total_allocated_bytes(), 0, []
    for data in parquet.read_rows(tmp_path / "a.parquet", list(range(16))):
        highest = max(highest, pa.total_allocated_bytes() - before)
        found.append(data if isinstance(data, bytes) else str(data))
    reason = "1,048,577 bytes, more than the limit of 1,048,576"
    expected = [image if number % 2 == 0 else reason for number, image in enumerate(images)]
    expected[6] = "the row holds no image"
    assert found == expected
    assert 0 < highest < 6 * limit


def test_names_of_a_table_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MOST_LISTED", 1000)
    types = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = pa.array([{"bytes": png(), "path": "x" * 2000 + ".png"}], types)
    pq.write_table(pa.table({"image": rows, "label": pa.array([0])}), tmp_path / "train.parquet")
    assert "bytes, more than the limit of 1,000" in refusal(lambda: find_images(tmp_path))


def test_predict_reads_no_huge_file_and_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    sparse(tmp_path / "b.jpg")

    class Stored:
        stored, rule, device = SIZE, DEFAULT, "cpu"
        pixels = SimpleNamespace(mean=[0.0, 0.0, 0.0])

    files = ImageFiles(Stored(), [tmp_path])  # type: ignore[arg-type]
    assert in_time(lambda: list(files)) == []
    assert files.unread == [(tmp_path / "a.jpg", IRREGULAR), (tmp_path / "b.jpg", REASON)]


def test_the_images_of_all_threads_share_the_memory() -> None:
    """Two that each take more than half are decoded one after the other; a third small one need not wait."""
    most, inside, entered, leave = 0.6 * limits.MOST_DECODED_BYTES, list[str](), threading.Event(), threading.Event()

    def large(name: str) -> None:
        with limits.memory_for(most):
            inside.append(name)
            entered.set()
            leave.wait()
            inside.remove(name)

    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(large, name) for name in "ab"]
        entered.wait()
        with limits.memory_for(limits.MOST_DECODED_BYTES - most):
            assert len(inside) == 1
        assert len(inside) == 1
        leave.set()
        for future in both:
            future.result()
    with pytest.raises(ValueError, match="more than the limit"), limits.memory_for(limits.MOST_DECODED_BYTES + 1):
        raise AssertionError
    with limits.memory_for(limits.MOST_DECODED_BYTES):  # all of it is free again
        pass
