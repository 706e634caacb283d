"""Other tools that read a shard set in processes of their own."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import write
from tests.sharding.sources.layouts import BUILDERS, TEST_LABELS, TRAIN, VAL_LABELS, build, jpeg
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


HUGGING_FACE = """
import base64, datasets, json, pathlib, sys
for folder in map(pathlib.Path, sys.argv[1:]):
    splits = sorted({path.name.rpartition("-")[0] for path in folder.glob("*.tar")})
    files = {split: f"{folder}/{split}-*.tar" for split in splits}
    found = {}
    for split, data in datasets.load_dataset("webdataset", data_files=files).items():
        data = data.cast_column("jpg", datasets.Image(decode=False))
        found[split] = [
            (row["__key__"], int(row["cls"]), base64.b64encode(row["jpg"]["bytes"]).decode()) for row in data
        ]
    print(json.dumps(found))
"""


def test_hugging_face_datasets(jpeg_shards: Path, odd_shards: Path, full_shards: Path, tmp_path: Path) -> None:
    """In a process of its own, since it reads its settings (offline, the cache) when it is imported; also sets made
    from each layout."""
    photos = {name: jpeg(seed) for seed, name in enumerate([*TRAIN, *VAL_LABELS, *TEST_LABELS])}
    folders = [jpeg_shards, odd_shards, full_shards]
    for number, form in enumerate(BUILDERS):
        folders.append(tmp_path / f"set-{number}")
        write(find_images(build(form, tmp_path / f"source-{number}", photos)), folders[-1], Options("jpeg", size=16))
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", HUGGING_FACE, *folders],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    for folder, line in zip(folders, result.stdout.splitlines(), strict=True):
        splits = json.loads(line)
        assert splits.keys() == ShardSet(folder).manifest.splits.keys()
        for split, rows in splits.items():
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
