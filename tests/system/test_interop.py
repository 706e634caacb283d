"""Other tools that read a shard set in processes of their own."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shards.test_interop import SHARD_SETS, by_tarfile


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webloader(jpeg_shards: Path) -> None:
    """In processes of torch's DataLoader; the order is the workers', so it is the set that counts."""
    import webdataset

    tars = sorted(str(path) for path in jpeg_shards.glob("train-*.tar"))
    stages = webdataset.WebDataset(tars, shardshuffle=False).to_tuple("__key__", "cls", "jpg").batched(7)
    loader = webdataset.WebLoader(stages, batch_size=None, num_workers=2, multiprocessing_context="forkserver")
    found = [(key, int(label), data) for batch in loader for key, label, data in zip(*batch, strict=True)]
    assert sorted(found) == sorted(by_tarfile(jpeg_shards, "train", "jpg"))


@pytest.mark.parametrize("shards", ["jpeg_shards", "odd_shards"])
def test_hugging_face_datasets(shards: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In a process of its own: it reads its settings (offline, the cache) when it is imported."""
    code = (
        "import sys, json, base64, datasets\n"
        "found = {}\n"
        "files = {split: f'{sys.argv[1]}/{split}-*.tar' for split in ('train', 'val')}\n"
        "sets = datasets.load_dataset('webdataset', data_files=files)\n"
        "for split, data in sets.items():\n"
        "    data = data.cast_column('jpg', datasets.Image(decode=False))\n"
        "    found[split] = [\n"
        "        (row['__key__'], int(row['cls']), base64.b64encode(row['jpg']['bytes']).decode()) for row in data\n"
        "    ]\n"
        "print(json.dumps(found))"
    )
    folder: Path = request.getfixturevalue(shards)
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code, folder],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    for split, rows in json.loads(result.stdout.splitlines()[-1]).items():
        found = [(key, label, base64.b64decode(data)) for key, label, data in rows]
        assert found == by_tarfile(folder, split, "jpg")


@SHARD_SETS
def test_our_index_is_what_dalis_tool_writes(
    shards: str, extension: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("wds2idx")  # a module that DALI installs
    folder: Path = request.getfixturevalue(shards)
    for tar in sorted(folder.glob("*.tar")):
        subprocess.run([sys.executable, "-m", "wds2idx", tar, tmp_path / "idx"], check=True, capture_output=True)
        assert tar.with_suffix(".idx").read_bytes() == (tmp_path / "idx").read_bytes()
