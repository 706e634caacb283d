"""A shard set behind a URL, read by processes of their own, from an object store and by a training."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards import fetch
from alexnet_fast.shards.format import MANIFEST
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import SIZE, write
from tests.shards.servers import Server, refusal, samples, sizes
from tests.system.test_cluster import bucket  # noqa: F401 (a fixture)

pytest.importorskip("aiohttp")


def test_more_tars_than_a_process_may_open_files(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    """Python keeps the file of a mapped tar open; ImageNet has 1,332 tars, and 1,024 files is a common limit."""
    code = (
        "import os, resource, sys, numpy as np; from alexnet_fast.shards.reader import ShardSet\n"
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


def test_processes_that_share_a_cache_fetch_each_tar_once(
    serve: Callable[[Path], Server], jpeg_shards: Path, tmp_path: Path
) -> None:
    server = serve(jpeg_shards)

    def slowly(name: str, number: int) -> str:
        time.sleep(0.2)
        return ""

    server.fault = slowly
    code = (
        "import sys, hashlib, numpy as np; from alexnet_fast.shards.reader import ShardSet\n"
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


def test_an_object_store(
    request: pytest.FixtureRequest, jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, environment = request.getfixturevalue("bucket")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fetch, "BLOCK", 20_000)
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
    assert "Error: the split train needs 0." in result.output
    assert "Raise --cache-size, or use --order window." in result.output
    run("train", "--gpus", "0", "--resume", "--run", tmp_path / "remote", *other)
    verify = CliRunner().invoke(main, ["verify", server.url])
    assert (verify.exit_code, "Error: verify reads a folder" in verify.output) == (2, True)
