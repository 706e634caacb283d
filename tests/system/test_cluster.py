"""One shard set, whoever writes it: a Dask cluster, a batch array, an object store. Real servers on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.sharding.output import open_output
from tests.conftest import SIZE, files
from tests.waiting import wait_for

pytest.importorskip("distributed")
fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto")


@contextmanager
def server(*command: str | Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def shard(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexnet_fast", "shard", "--size", str(SIZE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_dask_workers_write_the_same_bytes(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    local = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file)
    workers = ("--nworkers", "2", "--nthreads", "1", "--memory-limit", "0", "--local-directory", tmp_path)
    with server("-m", "distributed.cli.dask_scheduler", *local, "--port", "0") as scheduler:
        wait_for(lambda: file.exists() and bool(file.read_text()), scheduler)
        address = json.loads(file.read_text())["address"]
        with server("-m", "distributed.cli.dask_worker", *local, *workers):
            result = shard("--src", image_folder, "--out", tmp_path / "out", "--scheduler", address, "--json", "-")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 78
    assert files(tmp_path / "out") == files(jpeg_shards)


def test_no_dask_scheduler_is_an_error(image_folder: Path, tmp_path: Path) -> None:
    result = shard("--src", image_folder, "--out", tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9")
    assert result.returncode == 2
    assert "Error: no Dask scheduler with workers answers at tcp://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_batch_array_writes_the_same_bytes(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    """Four parts at once, as four machines would; --finish afterwards has nothing left to do."""
    start = [sys.executable, "-m", "alexnet_fast", "shard", "--size", str(SIZE), "--workers", "1"]
    parts = [
        subprocess.Popen([*start, "--src", image_folder, "--out", tmp_path / "out", "--part", f"{index}/4"])
        for index in (1, 2, 3, 4)
    ]
    assert [part.wait() for part in parts] == [0, 0, 0, 0]
    assert files(tmp_path / "out") == files(jpeg_shards)
    finish = [*start[:4], "--out", str(tmp_path / "out"), "--finish", "--json", "-"]
    result = subprocess.run(finish, capture_output=True, text=True, check=False)
    assert (result.returncode, json.loads(result.stdout)["images"]) == (0, 78)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A file system with an empty bucket `shards`, and the environment that finds its server."""
    port_file = tmp_path / "port"
    code = (
        "import signal, sys; from moto.server import ThreadedMotoServer; from pathlib import Path\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False); server.start()\n"
        "Path(sys.argv[1]).write_text(str(server.get_host_and_port()[1])); signal.pause()"
    )
    with server("-c", code, port_file) as process:
        wait_for(lambda: port_file.exists() and bool(port_file.read_text()), process)
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port_file.read_text()}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
        filesystem = fsspec.filesystem(
            "s3", key="test", secret="test", endpoint_url=environment["AWS_ENDPOINT_URL"], skip_instance_cache=True
        )
        filesystem.mkdir("shards")
        yield filesystem, environment


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_object_store_gets_the_same_bytes(
    bucket: tuple[Any, dict[str, str]], image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    store, environment = bucket
    arguments = ("--src", image_folder, "--out", "s3://shards/deep/set", "--workers", "1")
    first = shard(*arguments, "--part", "1/2", **environment)
    assert first.returncode == 0, first.stderr
    assert not store.exists("shards/deep/set/manifest.json")
    second = shard(*arguments, **environment)
    assert second.returncode == 0, second.stderr
    assert "going on: 3 of 6 tars are there already" in second.stderr
    store.invalidate_cache()
    store.get("shards/deep/set/", str(tmp_path / "copy") + "/", recursive=True)
    assert files(tmp_path / "copy") == files(jpeg_shards)
    third = shard(*arguments, "--seed", "5", **environment)
    assert third.returncode == 2
    assert third.stderr.endswith(
        "s3://shards/deep/set already holds a shard set. Choose another --out, or delete that one first.\n"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_object_store_keeps_the_first_of_two_plans(
    bucket: tuple[Any, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket[1].items():
        monkeypatch.setenv(name, value)
    output = open_output(["s3://shards/set"])
    assert output.create(".work/plan.json", b"first")
    assert not output.create(".work/plan.json", b"second")
    assert output.read(".work/plan.json") == b"first"


def test_an_object_store_that_does_not_answer_is_an_error(image_folder: Path) -> None:
    environment = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    result = shard("--src", image_folder, "--out", "s3://shards/set", **environment)
    assert result.returncode == 2
    assert "Error: --out s3://shards/set cannot be " in result.stderr
    assert "Traceback" not in result.stderr
    unknown = shard("--src", image_folder, "--out", "nonsense://shards/set")
    assert unknown.returncode == 2
    assert "Error: --out nonsense://shards/set cannot be used: " in unknown.stderr
