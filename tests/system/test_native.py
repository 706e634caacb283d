"""Commands and loaders in processes of their own, with the compiled code and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast import native
from tests.conftest import read_npz
from tests.native import jpegs
from tests.native.test_cases import GIVEN
from tests.native.test_native import built, ends_with_a_line


def test_sharding_refuses_a_wrong_variable_before_it_starts_processes(image_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_fast", "shard", "--src", str(image_folder), "--out", str(tmp_path / "set")],
        env={**os.environ, native.VARIABLE: "wrong"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    ends_with_a_line(done.returncode, done.stdout)
    assert not (tmp_path / "set").exists()


LOAD = """if True:
    import json, sys
    import numpy as np
    from alexnet_fast import Loader, ShardSet, native

    split = ShardSet(sys.argv[1]).split("train")
    images = np.zeros((len(split), 3, 84, 84), np.float32)
    for batch in Loader.training(split, batch=16, crop=84, seed=3):
        images[batch.rows.samples] = batch.images
    np.savez(sys.argv[2], images=images)
    print(json.dumps(native.description()))
"""


def images_of(decoder: str, shards: Path, folder: Path) -> Any:
    path = folder / f"{decoder}.npz"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(shards), str(path)],
        env={**os.environ, native.VARIABLE: decoder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["native"] == decoder
    return read_npz(path)["images"]


def test_all_ways_load_the_same_images(jpeg_shards: Path, tmp_path: Path) -> None:
    """DALI's may differ by a grey level, as in test_loader.py."""
    built()
    huffman, libjpeg, dali = (images_of(name, jpeg_shards, tmp_path) for name in native.DECODERS)
    assert huffman.std() > 10
    assert np.array_equal(huffman, libjpeg)
    assert np.abs(huffman - dali).max() < 2.01
    assert np.abs(huffman - dali).mean() < 0.1


def test_training_without_it(jpeg_shards: Path, tmp_path: Path) -> None:
    """By the command line, and by DALI; the run says so."""
    options = (
        "--gpus",
        "0",
        "--epochs",
        "1",
        "--batch",
        "30",
        "--arch",
        "bn",
        "--set",
        "hidden=32",
        "--set",
        "crop=84",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "alexnet_fast",
            "train",
            "--shards",
            str(jpeg_shards),
            "--run",
            str(tmp_path / "run"),
            *options,
        ],
        env={**os.environ, native.VARIABLE: "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "compiler" not in done.stderr
    body = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (body["native"], body["libjpeg"], body["instructions"]) == ("none", None, None)
    assert body["native_reason"] == "ALEXNET_FAST_NATIVE=none"
    losses = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses


# --- too much work

SPENT = """if True:
    import json, resource, sys
    from pathlib import Path
    from types import SimpleNamespace
    import torch
    from alexnet_fast.inference.images import ImageFiles
    from alexnet_fast.sharding.jpeg_header import check_stored_jpeg
    from alexnet_fast.sharding.rule import Rule
    from tests.native.results import crop_or_reason, square_or_reason

    def stored(data):
        try:
            check_stored_jpeg(data, crop=56, size=(64, 64))
        except ValueError as error:
            return str(error)

    def named(path):
        pixels = SimpleNamespace(mean=[0.0, 0.0, 0.0])
        network = SimpleNamespace(stored=256, device=torch.device("cpu"), pixels=pixels, rule=Rule())
        files = ImageFiles(network, [path])
        assert list(files) == []
        (_, reason), = files.unread
        return reason

    def spent():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime

    for path in map(Path, sys.argv[1:]):
        data = path.read_bytes()
        ways = {"square": lambda: square_or_reason(data, 256), "crop": lambda: crop_or_reason(data, crop=56, side=64),
                "DALI's": lambda: stored(data), "predict": lambda: named(path)}
        for way, find in ways.items():
            before = spent()
            reason = find()
            after = spent()
            print(json.dumps([path.name, way, reason, after[0] - before[0], after[1] - before[1]]))
"""


def test_thousands_of_scans_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    """13,000 x 13,000 pixels have 1 GB of coefficients, over which each scan passes: hours."""
    (tmp_path / "first").write_bytes(b"\xff\xd8\xff warms up")
    (tmp_path / "made").write_bytes(jpegs.scan_bomb())
    paths = [tmp_path / "first", tmp_path / "made", *GIVEN.glob("scan-bomb-*.jpg")]
    done = subprocess.run(
        [sys.executable, "-c", SPENT, *map(str, paths)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4 * len(paths)
    for name, way, reason, mebibytes, seconds in lines:
        if name != "first":
            assert reason == "a JPEG of 600 scans, more than the limit of 200", way
            assert mebibytes < 20, (way, mebibytes)
            assert seconds < 5, (way, seconds)  # of the processor's; decoding takes hours
