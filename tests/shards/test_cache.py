"""Tars of a set behind a URL kept on disk: what fits, what is cleared, and in which folder."""

import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from alexnet_fast import MapDataset
from alexnet_fast.shards import cache_folder
from alexnet_fast.shards.cache import RemoteTars
from alexnet_fast.shards.reader import ShardSet
from tests.shards.servers import Server, refusal, samples, sizes, tar_by_tar, tars

pytest.importorskip("aiohttp")


def test_a_small_cache_makes_room_and_touches_nothing_else(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server, limit = serve(jpeg_shards), 2 * max(sizes(jpeg_shards))
    shards = ShardSet(server.url, cache=tmp_path, cache_bytes=limit)
    foreign = {shards.folder / "notes.tar": 3 * limit, shards.folder / "x.part": 1, tmp_path / "train-000000.tar": 1}
    for path, size in foreign.items():
        path.write_bytes(bytes(size))
    split = shards.split("train")
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            with suppress(FileNotFoundError):
                own = [path.stat() for path in shards.folder.glob("train*.tar*")]
                most = max(most, sum({stat.st_ino: stat.st_size for stat in own}.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    views = split.read(np.arange(5))
    before = [view.tobytes() for view in views]
    for _ in range(2):
        assert tar_by_tar(split) == samples(ShardSet(jpeg_shards).split("train"))
    done.set()
    watcher.join()
    assert 0 < most <= limit
    assert [view.tobytes() for view in views] == before  # their tar was deleted meanwhile
    assert max(server.requests.values()) == 2
    assert {path: path.stat().st_size for path in foreign} == foreign
    needs = f"the split train needs {-(-sum(sizes(jpeg_shards)) // 10**4) / 100:.2f} MB with the random order"
    for call in (split.check_room, lambda: samples(split)):
        assert refusal(call).startswith(needs)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_processes_forked_while_tars_are_fetched_open_the_set_again(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    """torch's workers inherit locks, of threads that they do not have."""
    split = ShardSet(serve(jpeg_shards).url, cache=tmp_path).split("train")
    local = MapDataset(ShardSet(jpeg_shards).split("train"))
    remote = MapDataset(split)
    assert np.array_equal(pickle.loads(pickle.dumps(remote))[7][0], local[7][0])
    assert isinstance(split._tars, RemoteTars)
    with split._tars._cache._changed, split.lease(np.arange(60)):
        workers = DataLoader(remote, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
        seen = list(workers)
    assert all(np.array_equal(a, b) and x == y for (a, x), (b, y) in zip(seen, local, strict=True))  # type: ignore[call-overload]


def test_a_corrupt_tar_of_the_cache_is_named(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    """Deleted, as the line says, it comes whole again."""
    url = serve(jpeg_shards).url
    split = ShardSet(url, tmp_path).split("train")
    split.read(np.array([3]))
    (tar,) = tmp_path.rglob("train-000000.tar")
    at = int(split.index["offset"][3])
    with tar.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
    split = ShardSet(url, tmp_path).split("train")
    assert not split.intact(np.array([3]))[0]
    expected = f"sample 3 of train ({tar}, image at byte {at:,}; delete that file, and it is fetched again)"
    assert split.name_of(3) == expected
    tar.unlink()
    assert ShardSet(url, tmp_path).split("train").intact(np.array([3]))[0]


def test_threads_that_need_more_than_fits_at_once_take_turns(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    limit = 2 * max(sizes(jpeg_shards))
    split = ShardSet(serve(jpeg_shards).url, cache=tmp_path, cache_bytes=limit).split("train")
    local = ShardSet(jpeg_shards).split("train")
    right = []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(20):
            shards = random.choice(len(sizes(jpeg_shards)), 2, replace=False)
            numbers = np.flatnonzero(np.isin(local.index["shard"], shards))
            with closing(split.lease(numbers)):
                right.append(samples(split, numbers.tolist()) == samples(local, numbers.tolist()))

    threads = [threading.Thread(target=read, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert right == [True] * 60


def test_what_a_killed_process_left_is_cleared(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)
    shards = ShardSet(server.url, cache=tmp_path, cache_bytes=2 * max(sizes(jpeg_shards)))
    for name in ("train-000000.tar.part", "train-000001.tar.part", "train-000002.tar.part"):
        (shards.folder / name).write_bytes(bytes(2 * max(sizes(jpeg_shards))))
    assert tar_by_tar(shards.split("train")) == samples(ShardSet(jpeg_shards).split("train"))
    assert not [name for name in tars(shards.folder) if name.endswith(".part")]


def test_a_home_that_cannot_be_written(
    serve: Callable[[Path], Server],
    said: list[str],
    jpeg_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(jpeg_shards)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = tmp_path / "file"
    home.touch()
    monkeypatch.setenv("HOME", str(home))
    shards = ShardSet(server.url)
    spare = tmp_path / f"alexnet-fast-{os.getuid()}"
    assert shards.folder.parent == spare
    assert said == [
        f"{home}/.cache/alexnet-fast cannot be written (Not a directory): tars are kept in {spare}. "
        "--cache chooses another folder."
    ]
    assert samples(shards.split("val")) == samples(ShardSet(jpeg_shards).split("val"))
    assert refusal(lambda: ShardSet(server.url, cache=home / "cache")) == (
        f"the cache {home}/cache cannot be written (Not a directory). Choose another folder with --cache."
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert ShardSet(server.url).folder.parent == tmp_path / "xdg" / "alexnet-fast"


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The spare folder of a user whom the system does not know; the working folder is empty."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def unknown(number: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    return tmp_path / "temporary" / f"alexnet-fast-{os.getuid()}"


@pytest.mark.parametrize(
    "variables", [{}, {"HOME": "here"}, {"XDG_CACHE_HOME": "here"}, {"XDG_CACHE_HOME": "~/c", "HOME": "~"}], ids=str
)
def test_a_home_that_is_not_known(
    variables: dict[str, str], no_home: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder.cache_folder(None) == no_home
    assert said == [f"the home folder is not known: tars are kept in {no_home}. --cache chooses another folder."]
    assert list(Path().iterdir()) == []
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert cache_folder.cache_folder(None) == no_home  # and again, now that it is there


def test_a_spare_folder_that_is_not_ours(no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written there, nor where a link leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = time.time_ns() - 10**10
    os.utime(elsewhere, ns=(made, made))

    def refused(folder: Path, why: str) -> None:
        expected = f"the home folder is not known, and no cache in {folder} ({why}) can be written. Choose a --cache."
        assert refusal(lambda: cache_folder.cache_folder(None)) == expected

    for target in (elsewhere, tmp_path / "nowhere"):
        no_home.symlink_to(target)
        refused(no_home, "it is a link or a file, not a folder")
        no_home.unlink()
    assert not (tmp_path / "nowhere").exists()
    assert elsewhere.stat().st_mtime_ns == made  # not even a temporary file was there
    no_home.mkdir()
    no_home.chmod(0o777)
    refused(no_home, "other users may write to it")
    other = no_home.with_name("alexnet-fast-12345")
    other.mkdir(0o700)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    refused(other, "it belongs to another user")
