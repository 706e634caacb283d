"""A shard set behind a URL gives the samples of the local one, whatever the network does. Servers on loopback."""

import shutil
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError
from alexnet_fast.shards import fetch
from alexnet_fast.shards.format import INDEX_DTYPE, MANIFEST
from alexnet_fast.shards.reader import ShardSet
from tests.shards.servers import Endless, Server, refusal, samples, tars
from tests.waiting import wait_for

pytest.importorskip("aiohttp")


def test_a_set_behind_a_url_is_the_local_set(
    serve: Callable[[Path], Server], jpeg_shards: Path, raw_shards: Path, full_raw_shards: Path, tmp_path: Path
) -> None:
    for folder in (jpeg_shards, raw_shards, full_raw_shards):
        local, server = ShardSet(folder), serve(folder)
        for _ in range(2):
            shards = ShardSet(f"{server.url}/", cache=tmp_path / "cache")
            assert shards.manifest == local.manifest
            for name in local.manifest.splits:
                split = shards.split(name)
                assert (split.index == local.split(name).index).all()
                assert (split.sizes == local.split(name).sizes).all()
                assert samples(split) == samples(local.split(name))
        files = {tar.file for tars in local.manifest.splits.values() for tar in tars}
        indexes = {f"{name}.index.npy" for name in local.manifest.splits}
        assert server.requests == dict.fromkeys(files | indexes, 1) | {MANIFEST: 2}  # the second time from the cache
        for name in {MANIFEST} | files | indexes:
            assert (shards.folder / name).read_bytes() == (folder / name).read_bytes()


def test_only_what_is_read_or_leased_is_fetched(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)
    split = ShardSet(server.url, cache=tmp_path).split("train")
    place = {int(shard): number for number, shard in enumerate(split.index["shard"])}
    samples(split, [place[1]])
    assert [name for name in server.requests if name.endswith(".tar")] == ["train-000001.tar"]
    split.lease(np.array([place[0]]))
    wait_for(lambda: server.requests["train-000000.tar"] > 0, seconds=10)
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
    monkeypatch.setattr(fetch, "OUTAGE_SECONDS", 0.3)
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

    far = fetch.Remote(server.url)
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
    assert install_command("s3") in refusal(lambda: ShardSet("s3://bucket/set", cache=tmp_path / "cache"))


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


@pytest.fixture(params=[200, 206])
def endless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that is Endless, except for `files`; it says that it knows ranges (206), or that it does not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fetch, "OUTAGE_SECONDS", 5)
    monkeypatch.setattr(fetch, "BLOCK", 200_000)
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
    monkeypatch.setattr(fetch.Remote.blocks, "__defaults__", (None, limit))
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
    far = fetch.Remote(server.url)
    server.fault = lambda name, number: ""
    manifest = (jpeg_shards / MANIFEST).read_bytes()
    for size in (len(manifest), len(manifest) + 1, len(manifest) - 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetch, "BLOCK", size)
            assert b"".join(far.blocks(MANIFEST)) == manifest
            assert b"".join(far.blocks(MANIFEST, most=len(manifest))) == manifest
            with pytest.raises(InputError, match="does not end after"):
                list(far.blocks(MANIFEST, most=len(manifest) - 1))
