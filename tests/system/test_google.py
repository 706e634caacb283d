"""gs://, on an emulator of Google's object store on loopback. Not in the `test` extra, which would grow by 25 packages:

pip install gcsfs gcp-storage-emulator
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.shards import fetch
from alexnet_fast.shards.format import MANIFEST
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import files
from tests.shards.servers import samples
from tests.system.test_cluster import server, shard
from tests.waiting import wait_for

pytest.importorskip("gcsfs")
pytest.importorskip("gcp_storage_emulator")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket. Its server answers one connection after the other: who is done has to leave."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # else Google's library asks the network whether this is its machine
    monkeypatch.setattr(fetch, "BLOCK", 20_000)
    command = ("start", "--host", "127.0.0.1", "--port", port, "--in-memory", "--default-bucket", "shards")

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(port))) == 0

    with server("-m", "gcp_storage_emulator", *command):
        wait_for(answers)
        yield "gs://shards"


def test_a_set_goes_there_and_comes_back(bucket: str, image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    arguments = ("--src", image_folder, "--out", f"{bucket}/deep/set", "--workers", "1")
    first = shard(*arguments, "--part", "1/2")
    assert first.returncode == 0, first.stderr
    assert "other parts are to come" in first.stdout
    second = shard(*arguments)
    assert second.returncode == 0, second.stderr
    assert "going on: 3 of 6 tars are there already" in second.stderr

    shards, local = ShardSet(f"{bucket}/deep/set", cache=tmp_path), ShardSet(jpeg_shards)
    for name in ("train", "val"):
        assert samples(shards.split(name)) == samples(local.split(name))
    fetched = {name: digest for name, digest in files(shards.folder).items() if not name.startswith(".")}
    assert len(fetched) == 3 + len(list(jpeg_shards.glob("*.tar")))  # manifest, two indexes
    assert fetched.items() <= files(jpeg_shards).items()
    for url in (f"{bucket}/other", "gs://nobody/set"):
        with pytest.raises(InputError, match=f"{url}/{MANIFEST} is not there"):
            ShardSet(url, cache=tmp_path)
