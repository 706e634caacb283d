"""A shard set behind a URL gives the samples of the local one, whatever the network does. Servers on loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from alexnet_fast.cli import main
from alexnet_fast.errors import InputError
from alexnet_fast.loading import remote
from alexnet_fast.sharding.images import Source
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shardset import INDEX_DTYPE, MANIFEST, ShardSet, Split
from tests.conftest import SIZE, write
from tests.test_cluster import bucket  # noqa: F401 (a fixture)

pytest.importorskip("aiohttp")

Fault = Callable[[str, int], str]
"""File name and number of the request for it, from 0 -> what goes wrong: drop, truncate, silent, stall, 503, or ''."""


class Server(ThreadingHTTPServer):
    """Serves a folder, with ranges; counts the requests for each file, and fails as it is told."""

    daemon_threads = True
    ranges = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.fault: Fault = lambda name, number: ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client went away: it had waited long enough


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = Path(self.path).name
        fault = self.server.fault(name, self.server.requests[name])
        self.server.requests[name] += 1
        if fault == "stall":
            time.sleep(1)
        if fault in ("drop", "stall"):
            return
        path = Path(self.translate_path(self.path))
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data = path.read_bytes()
        if self.server.ranges and (wanted := self.headers["Range"]):
            first, last = wanted.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                self.send_error(416)
                return
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if self.server.ranges else 200)
        if fault != "silent":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        data = data[: len(data) // 2] if fault in ("truncate", "silent") else data
        self.server.bytes[name] += len(data)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK", 20_000)
    monkeypatch.setattr(remote, "SMALLEST_BLOCK", 5_000)
    monkeypatch.setattr(remote, "STALL_SECONDS", 0.3)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(remote, "_say", texts.append)
    monkeypatch.setattr(remote, "_say_once", texts.append)
    return texts


def samples(split: Split, numbers: list[int] | None = None) -> list[bytes]:
    return [view.tobytes() for view in split.read(np.array(numbers or range(len(split))))]


def tar_by_tar(split: Split) -> list[bytes]:
    """In stored order, the next tar expected while one is read."""
    parts = np.split(np.arange(len(split)), np.flatnonzero(np.diff(split.index["shard"])) + 1)
    got = []
    split.expect(parts[0])
    for part, following in zip(parts, [*parts[1:], parts[0][:0]], strict=True):
        split.expect(following)
        got += samples(split, part.tolist())
    return got


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


def tars(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.tar*") if path.exists()}


def sizes(folder: Path, split: str = "train") -> list[int]:
    return [tar.bytes for tar in ShardSet(folder).manifest.splits[split]]


def test_a_set_behind_a_url_is_the_local_set(
    serve: Callable[[Path], Server], jpeg_shards: Path, raw_shards: Path, tmp_path: Path
) -> None:
    for folder in (jpeg_shards, raw_shards):
        local, server = ShardSet(folder), serve(folder)
        for _ in range(2):
            shards = ShardSet(f"{server.url}/", cache=tmp_path / "cache")
            assert shards.manifest == local.manifest
            for name in local.manifest.splits:
                split = shards.split(name)
                assert (split.index == local.split(name).index).all()
                assert samples(split) == samples(local.split(name))
        files = {tar.file for tars in local.manifest.splits.values() for tar in tars}
        indexes = {f"{name}.index.npy" for name in local.manifest.splits}
        assert server.requests == dict.fromkeys(files | indexes, 1) | {MANIFEST: 2}  # the second time from the cache
        for name in {MANIFEST} | files | indexes:
            assert (shards.folder / name).read_bytes() == (folder / name).read_bytes()


def test_only_what_is_read_or_expected_is_fetched(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)
    split = ShardSet(server.url, cache=tmp_path).split("train")
    place = {int(shard): number for number, shard in enumerate(split.index["shard"])}
    samples(split, [place[1]])
    assert [name for name in server.requests if name.endswith(".tar")] == ["train-000001.tar"]
    split.expect(np.array([place[0]]))
    deadline = time.monotonic() + 10
    while not server.requests["train-000000.tar"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not server.requests["train-000002.tar"]


def test_a_flaky_network_only_slows_it_down(
    serve: Callable[[Path], Server], small_blocks: None, said: list[str], jpeg_shards: Path, tmp_path: Path
) -> None:
    """Three of four requests fail, each in another way; and a block that came is not asked for again."""
    server = serve(jpeg_shards)
    faults = ["drop", "truncate", "503", "stall", "", "429", "truncate", "500", "drop", ""]
    server.fault = lambda name, number: faults[(number + len(name)) % len(faults)]
    split = ShardSet(server.url, cache=tmp_path).split("train")
    assert samples(split) == samples(ShardSet(jpeg_shards).split("train"))
    size = (jpeg_shards / "train-000000.tar").stat().st_size
    assert size < server.bytes["train-000000.tar"] < 2.5 * size
    assert len(said) == 1
    assert said[0].startswith(f"{server.url}/{MANIFEST} does not come (")


def test_a_server_that_cuts_answers_short_without_a_word(
    serve: Callable[[Path], Server], small_blocks: None, jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)
    server.fault = lambda name, number: "silent" if name.endswith(".tar") and number % 2 else ""
    assert samples(ShardSet(server.url, cache=tmp_path).split("val")) == samples(ShardSet(jpeg_shards).split("val"))


@pytest.mark.usefixtures("small_blocks")
def test_a_server_without_ranges(serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path) -> None:
    server = serve(jpeg_shards)
    server.ranges = False
    assert samples(ShardSet(server.url, cache=tmp_path).split("train")) == samples(ShardSet(jpeg_shards).split("train"))
    assert set(server.requests.values()) == {1}


def test_a_network_that_does_not_come_back_is_an_error(
    serve: Callable[[Path], Server], said: list[str], jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "OUTAGE_SECONDS", 0.3)
    server = serve(jpeg_shards)
    split = ShardSet(server.url, cache=tmp_path).split("train")
    server.fault = lambda name, number: "503"
    message = refusal(lambda: samples(split))
    assert message.startswith(f"nothing came from {server.url}/train-00000")
    assert "Check the network; what has been fetched is kept" in message
    server.fault = lambda name, number: ""
    assert len(samples(ShardSet(server.url, cache=tmp_path).split("train"))) == 60  # and it can be tried again
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["train", "--gpus", "0", "--shards", "http://127.0.0.1:9/set"])
    assert (result.exit_code, "Error: nothing came from http://127.0.0.1:9/set/manifest.json" in result.output) == (
        2,
        True,
    )


def test_a_host_that_nobody_knows_is_an_error_at_once(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only from the start: later it is an outage, as is a name server that does not answer."""
    server = serve(jpeg_shards)
    url = f"http://sets.example:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "*")
    errors = [socket.gaierror(socket.EAI_NONAME, "not known"), socket.gaierror(socket.EAI_AGAIN, "no answer")]
    look_up = socket.getaddrinfo

    def answer(host: str, *about: Any, **more: Any) -> Any:
        if host == "sets.example" and errors:
            raise errors.pop(0)
        return look_up("127.0.0.1" if host == "sets.example" else host, *about, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    text = refusal(lambda: ShardSet(url, cache=tmp_path))
    assert text.startswith(f"{url}/{MANIFEST} is on no host that is known (")
    assert (len(errors), server.requests.total()) == (1, 0)
    assert samples(ShardSet(url, cache=tmp_path).split("val")) == samples(ShardSet(jpeg_shards).split("val"))
    assert not errors

    far = remote.Remote(server.url)
    manifest = b"".join(far.blocks(MANIFEST))
    read = far._range
    fails = [OSError("cannot connect")]
    fails[0].__cause__ = socket.gaierror(socket.EAI_NONAME, "not known")

    def fail_once(*range: Any) -> Any:
        if fails:
            raise fails.pop()
        return read(*range)

    monkeypatch.setattr(far, "_range", fail_once)
    assert b"".join(far.blocks(MANIFEST)) == manifest
    assert not fails


def test_what_may_not_be_read_is_an_error_at_once(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    server = serve(copy)
    ask = " Check the address and your access to it."
    opened = partial(ShardSet, server.url + "/nothing", cache=tmp_path / "cache")
    assert refusal(opened) == (f"{server.url}/nothing/{MANIFEST} is not there ({server.url}/nothing/{MANIFEST}).{ask}")
    server.fault = lambda name, number: "403"
    message = refusal(lambda: ShardSet(server.url, cache=tmp_path / "cache"))
    assert message.startswith(f"{server.url}/{MANIFEST} cannot be read (403")
    server.fault = lambda name, number: ""
    (copy / "train-000001.tar").unlink()
    split = ShardSet(server.url, cache=tmp_path / "cache").split("train")
    assert refusal(lambda: samples(split)).startswith(f"{server.url}/train-000001.tar is not there (")
    (copy / MANIFEST).write_text("{}")
    message = refusal(lambda: ShardSet(server.url, cache=tmp_path / "cache"))
    assert message.startswith(f"{server.url}/{MANIFEST} cannot be read as a manifest (")
    assert "nonsense://set cannot be used (" in refusal(lambda: ShardSet("nonsense://set"))
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.s3", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert "pip install '.[s3]'" in refusal(lambda: ShardSet("s3://bucket/set", cache=tmp_path / "cache"))


def test_other_bytes_than_the_manifest_says_are_an_error(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(jpeg_shards, tmp_path / "copy"))
    server = serve(copy)
    tar = copy / "val-000000.tar"
    data = tar.read_bytes()
    for changed, says in (
        (data[:1000] + b"x" + data[1001:], "is not the file that its manifest describes: fetched twice, it differed."),
        (data[:-512], "is shorter than its manifest says"),
    ):
        tar.write_bytes(changed)
        shards = ShardSet(server.url, cache=tmp_path / "cache")
        assert f"{server.url}/val-000000.tar {says}" in refusal(lambda: samples(shards.split("val")))  # noqa: B023
        assert tars(shards.folder).keys().isdisjoint({"val-000000.tar", "val-000000.tar.part"})
    tar.write_bytes(data)
    cached = shards.folder / "val-000000.tar"
    for damaged in (data[:-512], data + b"x"):  # by a full disk, say: seen by its size
        cached.write_bytes(damaged)
        split = ShardSet(server.url, cache=tmp_path / "cache").split("val")
        assert samples(split) == samples(ShardSet(jpeg_shards).split("val"))
        assert cached.read_bytes() == data


def test_a_small_cache_makes_room_and_touches_nothing_else(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server, limit = serve(jpeg_shards), 2 * max(sizes(jpeg_shards))
    shards = ShardSet(server.url, cache=tmp_path, cache_bytes=limit)
    foreign = {shards.folder / "notes.tar": 3 * limit, shards.folder / "x.part": 1, tmp_path / "train-000000.tar": 1}
    for path, size in foreign.items():
        path.write_bytes(bytes(size))
    split = shards.split("train")
    most, running = 0, True

    def watch() -> None:
        nonlocal most
        while running:
            with suppress(FileNotFoundError):
                own = [path.stat() for path in shards.folder.glob("train*.tar*")]
                most = max(most, sum({stat.st_ino: stat.st_size for stat in own}.values()))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    views = split.read(np.arange(5))
    before = [view.tobytes() for view in views]
    for _ in range(2):
        assert tar_by_tar(split) == samples(ShardSet(jpeg_shards).split("train"))
    running = False
    watcher.join()
    assert 0 < most <= limit
    assert [view.tobytes() for view in views] == before  # their tar was deleted meanwhile
    assert max(server.requests.values()) == 2
    assert {path: path.stat().st_size for path in foreign} == foreign
    needs = f"the split train needs {-(-sum(sizes(jpeg_shards)) // 10**7) / 100:.2f} GB with the random order"
    for call in (split.hold_all, lambda: samples(split)):
        assert refusal(call).startswith(needs)


def test_a_damaged_tar_of_the_cache_is_named(
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
            split.expect(numbers)
            right.append(samples(split, numbers.tolist()) == samples(local, numbers.tolist()))

    threads = [threading.Thread(target=read, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert right == [True] * 60


def test_more_tars_than_a_process_may_open_files(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    """Python keeps the file of a mapped tar open; ImageNet has 1,332 tars, and 1,024 files is a common limit."""
    code = (
        "import os, resource, sys, numpy as np; from alexnet_fast.shardset import ShardSet\n"
        "shards = ShardSet(sys.argv[1], cache=sys.argv[2])\n"
        "used = len(os.listdir('/proc/self/fd')) + 12  # fetching opens a few\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used, 4096))\n"
        "kept = [shards.split('train') for _ in range(20)]\n"
        "print(sum(len(split.read(np.arange(60))) for split in kept))"
    )
    for location in (str(jpeg_shards), serve(jpeg_shards).url):
        command = [sys.executable, "-c", code, location, str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.stdout, result.stderr) == ("1200\n", "")


def test_what_a_killed_process_left_is_cleared(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)
    shards = ShardSet(server.url, cache=tmp_path, cache_bytes=2 * max(sizes(jpeg_shards)))
    for name in ("train-000000.tar.part", "train-000001.tar.part", "train-000002.tar.part"):
        (shards.folder / name).write_bytes(bytes(2 * max(sizes(jpeg_shards))))
    assert tar_by_tar(shards.split("train")) == samples(ShardSet(jpeg_shards).split("train"))
    assert not [name for name in tars(shards.folder) if name.endswith(".part")]


def test_processes_that_share_a_cache_fetch_each_tar_once(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)

    def slowly(name: str, number: int) -> str:
        time.sleep(0.2)
        return ""

    server.fault = slowly
    code = (
        "import sys, hashlib, numpy as np; from alexnet_fast.shardset import ShardSet\n"
        "split = ShardSet(sys.argv[1], cache=sys.argv[2]).split('train')\n"
        "views = split.read(np.arange(len(split)))\n"
        "print(hashlib.sha256(b''.join(view.tobytes() for view in views)).hexdigest())"
    )
    command = [sys.executable, "-c", code, server.url, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1
    assert server.requests == dict.fromkeys(
        [*(tar.file for tar in ShardSet(jpeg_shards).manifest.splits["train"]), "train.index.npy"], 1
    ) | {MANIFEST: 2}


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
    assert remote.cache_folder(None) == no_home
    assert said == [f"the home folder is not known: tars are kept in {no_home}. --cache chooses another folder."]
    assert list(Path().iterdir()) == []
    assert no_home.stat().st_mode & 0o777 == 0o700
    assert remote.cache_folder(None) == no_home  # and again, now that it is there


def test_a_spare_folder_that_is_not_ours(no_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written there, nor where a link leads."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = time.time_ns() - 10**10
    os.utime(elsewhere, ns=(made, made))

    def refused(folder: Path, why: str) -> None:
        expected = f"the home folder is not known, and no cache in {folder} ({why}) can be written. Choose a --cache."
        assert refusal(lambda: remote.cache_folder(None)) == expected

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


class Endless(BaseHTTPRequestHandler):
    """Answers any request with zeros without end, though at most MOST; `server.sent` counts what the network took."""

    MOST = 300 << 20
    timeout = 5
    """Seconds until it leaves a client that neither reads nor hangs up."""
    server: Any

    def do_GET(self) -> None:
        data = self.server.files.get(Path(self.path).name)
        self.send_response(self.server.status if data is None else 200)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.server.begin if data is None else data)
            while data is None and self.server.sent < self.MOST:
                self.wfile.write(bytes(1 << 18))
                self.server.sent += 1 << 18

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[200, 206])
def endless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that is Endless, except for `files`; it says that it knows ranges (206), or that it does not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(remote, "OUTAGE_SECONDS", 5)
    monkeypatch.setattr(remote, "BLOCK", 200_000)
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = False  # closing it waits for their ends
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.status, server.sent, server.begin, server.files = request.param, 0, b"", {}
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


BUFFERS = 40 << 20
"""That the system takes on loopback before anybody has read it, for the few connections of a test."""


def sent(server: Any) -> int:
    """Bytes that it got rid of, once every client has left it."""
    server.shutdown()
    server.server_close()
    count: int = server.sent
    return count


def peak(call: Callable[[], object]) -> int:
    """Most bytes that Python held meanwhile."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_manifest_without_end(endless: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 1 << 20
    monkeypatch.setattr(remote.Remote.blocks, "__defaults__", (None, limit))
    texts: list[str] = []
    most = peak(lambda: texts.append(refusal(lambda: ShardSet(endless.url, cache=tmp_path))))
    assert texts == [
        f"{endless.url}/{MANIFEST} does not end after 1,048,576 bytes, the most that it can have. Check the address: "
        "something else answers there."
    ]
    assert sent(endless) < BUFFERS
    assert most < 8 * limit


def test_an_index_and_a_tar_without_end(endless: Any, jpeg_shards: Path, tmp_path: Path) -> None:
    """What an index may have is known from the manifest, as is the size of a tar: of that, no more is asked for."""
    endless.files[MANIFEST] = (jpeg_shards / MANIFEST).read_bytes()
    shards = ShardSet(endless.url, cache=tmp_path)
    most = 60 * INDEX_DTYPE.itemsize + 10 + 2**16
    texts: list[str] = []
    held = peak(lambda: texts.append(refusal(lambda: shards.split("train"))))
    assert texts == [
        f"{endless.url}/train.index.npy does not end after {most:,} bytes, the most that it can have. Check the "
        "address: something else answers there."
    ]
    endless.files["val.index.npy"] = (jpeg_shards / "val.index.npy").read_bytes()
    split = shards.split("val")
    held = max(held, peak(lambda: texts.append(refusal(lambda: samples(split)))))
    assert "is not the file that its manifest describes: fetched twice, it differed." in texts[1]
    endless.begin = (jpeg_shards / "val-000000.tar").read_bytes()  # the right bytes, and then more
    first = np.flatnonzero(split.index["shard"] == 0).tolist()
    split = ShardSet(endless.url, cache=tmp_path).split("val")
    got: list[bytes] = []
    held = max(held, peak(lambda: got.extend(samples(split, first))))
    assert got == samples(ShardSet(jpeg_shards).split("val"), first)
    assert sent(endless) < BUFFERS
    assert held < 4 << 20


@pytest.mark.usefixtures("small_blocks")
def test_a_server_without_ranges_that_fails(serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path) -> None:
    """What came before it broke off is kept: of the next answer the rest alone. Also where a block is the whole."""
    server = serve(jpeg_shards)
    server.ranges = False
    server.fault = lambda name, number: "truncate" if number % 2 == 0 else ""
    local = ShardSet(jpeg_shards)
    assert samples(ShardSet(server.url, cache=tmp_path).split("train")) == samples(local.split("train"))
    far = remote.Remote(server.url)
    server.fault = lambda name, number: ""
    manifest = (jpeg_shards / MANIFEST).read_bytes()
    for size in (len(manifest), len(manifest) + 1, len(manifest) - 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(remote, "BLOCK", size)
            assert b"".join(far.blocks(MANIFEST)) == manifest
            assert b"".join(far.blocks(MANIFEST, most=len(manifest))) == manifest
            with pytest.raises(InputError, match="does not end after"):
                list(far.blocks(MANIFEST, most=len(manifest) - 1))


def test_an_object_store(
    request: pytest.FixtureRequest, jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, environment = request.getfixturevalue("bucket")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "BLOCK", 20_000)
    store.put(f"{jpeg_shards}/", "shards/deep/set/", recursive=True)
    shards = ShardSet("s3://shards/deep/set", cache=tmp_path)
    for name in ("train", "val"):
        assert samples(shards.split(name)) == samples(ShardSet(jpeg_shards).split(name))
    for url, says in (
        ("s3://shards/other", "is not there"),
        ("s3://nobody/set", "is not there"),
        ("s3://no bucket/set", "cannot be read"),
    ):
        assert refusal(partial(ShardSet, url, cache=tmp_path)).startswith(f"{url}/{MANIFEST} {says} (")


def test_training_from_a_url(
    serve: Callable[[Path], Server], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same losses as from the local set; the cache may move when the run is gone on with."""
    source: Source = find_images(image_folder)
    write(source, tmp_path / "set", Options("jpeg", size=SIZE))
    server = serve(tmp_path / "set")

    def run(*arguments: str | Path) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    settings = ("--batch", "20", "--epochs", "1", "--precision", "fp32", "--threads", "1", "--arch", "bn")
    tiny = ("--set", "hidden=8", "--set", "log_every=1", *settings)
    run("train", "--gpus", "0", "--shards", tmp_path / "set", "--run", tmp_path / "local", *tiny)
    cache = ("--cache", tmp_path / "cache", "--cache-size", "1GB")
    run("train", "--gpus", "0", "--shards", server.url, *cache, "--run", tmp_path / "remote", *tiny)
    logs = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("local", "remote")
    ]
    assert len(logs[0]) >= 3
    assert logs[0] == logs[1]
    other = ("--cache", tmp_path / "other")
    scores = [
        json.loads(run("eval", tmp_path / "remote", *more, "--json", "-").splitlines()[-1])
        for more in (other, ("--shards", tmp_path / "set"))
    ]
    assert (scores[0]["top1"], scores[0]["images"]) == (scores[1]["top1"], 18)
    assert len(list((tmp_path / "other").glob("*/val-*.tar"))) == len(sizes(tmp_path / "set", "val"))
    too_small = ("--cache-size", "100KB", "--run", tmp_path / "third")
    result = CliRunner().invoke(main, ["train", "--gpus", "0", "--shards", server.url, *map(str, (*other, *too_small))])
    assert result.exit_code == 2
    assert "Error: the split train needs 0.0" in result.output
    assert "Raise --cache-size, or use --order window." in result.output
    run("train", "--gpus", "0", "--resume", "--run", tmp_path / "remote", *other)
    verify = CliRunner().invoke(main, ["verify", server.url])
    assert (verify.exit_code, "Error: verify reads a folder" in verify.output) == (2, True)
