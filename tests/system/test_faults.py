"""What a machine does to a program: folders that may not be written, files that go, clocks that jump."""

import ctypes
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.recipes import make_config
from alexnet_fast.report.record import read_run as read_record
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import checkpoint, run_folder, trainer
from alexnet_fast.training.start import train
from alexnet_fast.training.step import train_step
from tests.conftest import CLASSES

CPU = Topology(0, 1, torch.device("cpu"))


@contextmanager
def modes_count() -> Iterator[None]:
    """Root is let in everywhere by two capabilities, which are put down meanwhile (capabilities(7))."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


def refused(*arguments: str | Path) -> str:
    """The error in a line of a command that ends with 2."""
    with modes_count():
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    last = result.output.splitlines()[-1]
    assert last.startswith("Error: ")
    return last


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that may be read, not written."""
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_a_folder_that_may_not_be_written(closed: Path, image_folder: Path, jpeg_shards: Path) -> None:
    fsspec.filesystem("memory").pipe({f"/set/{path.name}": path.read_bytes() for path in jpeg_shards.iterdir()})
    for place in (closed, closed / "new"):
        for arguments in (
            ("shard", "--src", image_folder, "--out", place),
            ("demo", "--out", place),
            ("train", "--gpus", "0", "--shards", jpeg_shards, "--run", place),
            ("train", "--gpus", "0", "--shards", "memory://set", "--cache", place, "--run", closed.parent / "run"),
        ):
            assert str(place) in refused(*arguments)
            assert list(closed.iterdir()) == []


def test_a_run_folder_that_may_no_longer_be_written(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For a while it costs the saves of that while, as on a full disk; at the end it is an error, and `resume` repeats
    what was lost."""
    small = {"epochs": 1, "batch": 16, "hidden": 32, "precision": "fp32", "log_every": 1, "save_every": 1, "threads": 1}
    given = make_config("fast", shards=str(raw_shards), **small).as_dict()
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(CPU, whole, given, resume=False)

    def with_modes(modes: dict[int, int]) -> None:
        """Trains; before the steps numbered `modes` the folder gets these."""
        calls = 0

        def step(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            run.chmod(modes.get(calls, run.stat().st_mode))
            return train_step(*args)

        monkeypatch.setattr(trainer, "train_step", step)
        with modes_count():
            train(CPU, run, given, resume=True)

    with_modes({2: 0o555, 4: 0o755})
    printed = capsys.readouterr().err
    assert printed.count("last.pt could not be saved: Permission denied. What was saved before is kept") == 1
    assert printed.count("last.pt is saved again.") == 1
    same = partial(torch.testing.assert_close, rtol=0, atol=0)
    same(checkpoint.load(run / "last.pt")["model"], checkpoint.load(whole / "last.pt")["model"])

    shutil.rmtree(run)
    with pytest.raises(TrainingError, match=r"^last\.pt could not be saved: Permission denied"):
        with_modes({3: 0o555})
    run.chmod(0o755)
    assert checkpoint.load(run / "last.pt")["step"] == 2
    with_modes({})
    same(checkpoint.load(run / "last.pt")["model"], checkpoint.load(whole / "last.pt")["model"])


@pytest.mark.parametrize("name", ["manifest.json", "train.index.npy", "train-000000.tar"])
def test_a_file_that_may_not_be_read(name: str, jpeg_shards: Path, tmp_path: Path) -> None:
    shutil.copytree(jpeg_shards, tmp_path / "set")
    (tmp_path / "set" / name).chmod(0)
    run = tmp_path / "run"
    assert str(tmp_path / "set" / name) in refused("train", "--gpus", "0", "--shards", tmp_path / "set", "--run", run)
    assert not (run / "last.pt").exists()


def test_a_class_folder_that_may_not_be_read(image_folder: Path, tmp_path: Path) -> None:
    """The source is refused as a whole: a class is not to go missing quietly."""
    shutil.copytree(image_folder / "val", tmp_path / "source")
    (tmp_path / "source" / CLASSES[1]).chmod(0)
    assert CLASSES[1] in refused("shard", "--src", tmp_path / "source", "--out", tmp_path / "out")
    (tmp_path / "source" / CLASSES[1]).chmod(0o755)
    assert not (tmp_path / "out").exists()


def test_a_class_folder_that_vanishes_while_it_is_listed(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(image_folder / "val", tmp_path / "source")
    scandir = os.scandir

    def one_goes(folder: Any) -> Any:
        if Path(folder).name == CLASSES[1]:
            monkeypatch.undo()  # rmtree takes it too
            shutil.rmtree(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", one_goes)
    assert CLASSES[1] in refused("shard", "--src", source, "--out", tmp_path / "out")


@pytest.mark.parametrize("jump", [timedelta(days=-9000), timedelta(days=9000)])
def test_a_clock_that_jumps(jump: timedelta, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back and forth at every look: throughput, shares and times are those of a clock that only goes on."""
    looks = 0
    real = time.time

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return real() + (looks % 2) * jump.total_seconds()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(jumping())

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(run_folder, "datetime", Clock)
    assert run_folder.default_folder("fast").name.startswith("fast-")
    config = make_config("fast", shards=str(raw_shards), epochs=1, batch=16, hidden=32, precision="fp32", log_every=1)
    result = train(CPU, tmp_path / "run", config.as_dict(), resume=False)
    assert 0 < result.seconds < 600
    assert 0 <= result.data_wait <= 1
    assert result.images_per_second > 0
    record = read_record(tmp_path / "run")
    assert (record.column("images_per_second") > 0).all()
    assert ((record.column("data_wait") >= 0) & (record.column("data_wait") <= 1)).all()


@pytest.mark.parametrize("stamp", [0, 2**33], ids=["1970", "2242"])
def test_a_cache_whose_files_are_of_another_time(stamp: int, jpeg_shards: Path, tmp_path: Path) -> None:
    """The oldest go first: where a clock has jumped that may be the wrong ones, never too few or too many."""
    fsspec.filesystem("memory").pipe({f"/set/{path.name}": path.read_bytes() for path in jpeg_shards.iterdir()})
    limit = 2 * max(path.stat().st_size for path in jpeg_shards.glob("*.tar"))
    shards = ShardSet("memory://set", cache=tmp_path, cache_bytes=limit)
    split, local = shards.split("train"), ShardSet(jpeg_shards).split("train")
    for sample in range(0, len(split), 5):
        assert bytes(split.read(np.array([sample]))[0]) == bytes(local.read(np.array([sample]))[0])
        cached = list(shards.folder.glob("*.tar"))
        assert 0 < sum(path.stat().st_size for path in cached) <= limit
        os.utime(cached[sample % len(cached)], (stamp, stamp))
