"""Checkpoints: damage, foreign files, full disks, what is kept; runs resumed bit for bit."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.evaluation import scoring as evaluation
from alexnet_fast.inference.networks import open_network
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import checkpoint, placement, run_folder, start, trainer
from alexnet_fast.training.log import Log
from alexnet_fast.training.step import train_step
from alexnet_fast.training.trainer import Result
from tests.conftest import Payload, interrupted

CPU = Topology(0, 1, torch.device("cpu"))
STEPS = 8
"""Of each whole run: 2 epochs of 60 images in steps of 15."""


def settings(shards: Path, **overrides: Any) -> TrainConfig:
    """With dropout, momentum, batch norm and a log line that stops in the middle between two."""
    small = {
        "epochs": 2,
        "batch": 16,
        "precision": "fp32",
        "hidden": 16,
        "crop": 64,
        "log_every": 3,
        "threads": 1,
        "lr": 0.02,
        "optimizer": "sgd",  # with Muon: test_optimizers.py
        "nesterov": False,
        "weight_decay": 5e-4,
        "dropout_from": 0.0,
    }
    return make_config("fast", **{"shards": str(shards), **small, **overrides})


def begin(config: TrainConfig, run: Path) -> Result:
    return start.train(CPU, run, config.as_dict(), resume=False)


def resume(run: Path, **given: Any) -> Result:
    return start.train(CPU, run, given, resume=True)


def resume_after(run: Path, steps: int) -> None:
    """Trains the finished run, of which each step was saved, again from so many steps to its end."""
    os.replace(run / f"step-{steps:08d}.pt", run / "last.pt")
    for path in checkpoint.kept(run).values():
        path.unlink()
    assert resume(run, save_every=0).finished


@pytest.fixture(scope="module")
def whole(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped. Not to be changed: copy it."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    begin(settings(raw_shards), run)
    return run


@pytest.fixture(scope="module")
def every_step(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, with a checkpoint of each step. Not to be changed: copy it."""
    run = tmp_path_factory.mktemp("runs") / "every_step"
    begin(settings(raw_shards, save_every=1, keep=100), run)
    return run


def log(run: Path) -> list[dict[str, Any]]:
    """Without what depends on the clock and the machine."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        {key: line[key] for key in line if key not in ("images_per_second", "data_wait", "peak_gib", "time")}
        for line in lines
    ]


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same(run: Path, other: Path) -> None:
    """Weights, batch norm's statistics, momentum, top-1s and log, bit for bit."""
    ours, theirs = checkpoint.load(run / "last.pt"), checkpoint.load(other / "last.pt")
    for part in ("model", "optimizer", "epoch", "step", "top1s", "sums"):
        assert same(ours[part], theirs[part]), part
    assert same(checkpoint.load(run / "best.pt")["model"], checkpoint.load(other / "best.pt")["model"])
    assert log(run) == log(other)


# --- corrupt and foreign files


def test_damage_anywhere_is_found(whole: Path, tmp_path: Path) -> None:
    """Whatever byte is another one, and wherever the file ends: what is read is what was written, or nothing."""
    content = (whole / "last.pt").read_bytes()
    expected = checkpoint.load(whole / "last.pt")
    path = tmp_path / "last.pt"
    random = np.random.default_rng(0)
    edges = [0, 5, 30, 100, len(content) - 1, len(content) - 10, len(content) - 22, len(content) - 200]
    found = 0
    for at in [*edges, *random.integers(0, len(content), 12)]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            assert same(checkpoint.load(path), expected), at
        except checkpoint.CorruptError:
            found += 1
    assert found >= 15
    for end in [*edges, *random.integers(0, len(content), 4)]:
        path.write_bytes(content[:end])
        with pytest.raises(checkpoint.CorruptError, match="it is corrupt or another program's"):
            checkpoint.load(path)


def test_foreign_files_are_refused_and_never_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "x.pt", tmp_path / "executed"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Payload(marker))),
        lambda: torch.save({"alexnet_fast": checkpoint.VERSION, "model": Payload(marker)}, path),
        lambda: torch.save(Payload(marker), path, _use_new_zipfile_serialization=False),
        lambda: zipfile.ZipFile(path, "w").close(),
        lambda: path.write_text("no checkpoint"),
    ):
        write()
        with pytest.raises(InputError, match=r"x\.pt cannot be read as a checkpoint: it is corrupt or another"):
            checkpoint.load(path)
    for foreign, message in (
        ({"weight": torch.zeros(3)}, r"x\.pt is another program's\. .* alexnet-fast import "),
        ([1, 2], r"x\.pt is another program's\."),
        (
            {"alexnet_fast": checkpoint.VERSION + 1},
            r"x\.pt is a checkpoint of version 4; .* reads version 3",
        ),
    ):
        torch.save(foreign, path)
        with pytest.raises(InputError, match=message):
            checkpoint.load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # it would have


def test_settings_of_a_newer_version_are_named(whole: Path, tmp_path: Path) -> None:
    state = checkpoint.load(whole / "last.pt")
    checkpoint.save(tmp_path / "a.pt", {**state, "config": {**state["config"], "whirl": 3}})
    with pytest.raises(InputError, match=r"a\.pt has settings that this version of .* does not know \(whirl\)"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_corrupt_last_checkpoint_gives_way_to_the_one_before(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:-1])
    assert resume(run).finished
    printed = capsys.readouterr().err
    assert f"resuming from {run / 'step-00000004.pt'}: epoch 2, 4 steps done; {run / 'last.pt'} is corrupt" in printed
    assert_same(run, whole)
    for name in ("last.pt", "step-00000004.pt"):
        (run / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"last\.pt cannot be read as a checkpoint"):
        resume(run)
    shutil.copy(run / "best.pt", run / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt holds a network but not all of a training's state \(no optimizer"):
        resume(run)


# --- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_the_previous_checkpoint(small_disk: Path) -> None:
    path = small_disk / "last.pt"
    checkpoint.save(path, {"model": torch.ones(200_000)})
    with pytest.raises(OSError, match=r"No space left on device \(the file takes 4\.0 MB\)") as caught:
        checkpoint.save(path, {"model": torch.zeros(1_000_000)})
    assert caught.value.errno == errno.ENOSPC
    assert [file.name for file in small_disk.iterdir()] == ["last.pt"]
    assert checkpoint.load(path)["model"].sum() == 200_000


def test_a_full_disk_holds_back_log_lines(small_disk: Path) -> None:
    printed: list[str] = []
    (small_disk / "filler").write_bytes(bytes(4 * 2**20 - 4096))
    written = Log(small_disk, 1, False, printed.append)
    for step in range(100):
        written.add({"step": step, "note": "x" * 100})
    text = (small_disk / "log.jsonl").read_text()
    lines = text.splitlines()
    assert 10 < len(lines) < 100
    assert text.endswith("}\n")
    assert len(printed) == 1
    assert "log.jsonl cannot be written: No space left on device" in printed[0]
    (small_disk / "filler").unlink()
    written.add({"step": 100})
    steps = [json.loads(line)["step"] for line in (small_disk / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(101))


def failing(first: int, last: int) -> Callable[..., None]:
    """`checkpoint.save`, whose calls number `first` to `last` find the disk full. Counted from 1, best.pt's too."""
    save, calls = checkpoint.save, 0

    def sometimes(path: Path, state: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if first <= calls <= last:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, state)

    return sometimes


def test_training_survives_a_full_disk(
    raw_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(raw_shards, save_every=1, keep=100)
    monkeypatch.setattr(checkpoint, "save", failing(2, 4))
    assert begin(config, tmp_path / "run").finished
    printed = capsys.readouterr().err
    assert printed.count("last.pt could not be saved: No space left on device. What was saved before is kept") == 1
    assert printed.count("last.pt is saved again.") == 1
    assert_same(tmp_path / "run", whole)


def test_a_stop_that_cannot_save_is_no_success(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 3))
    monkeypatch.setattr(checkpoint, "save", failing(2, 9))
    with pytest.raises(TrainingError, match=r"^last\.pt could not be saved: No space .*run holds what"):
        begin(settings(raw_shards, save_every=2), tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.pt")["step"] == 2


def test_a_network_is_gathered_once_for_all_that_looks_at_it(
    raw_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over processes that takes as long as sending it: an epoch's evaluation, best.pt and last.pt have the same one."""
    calls = 0

    def counting(*args: Any) -> Any:
        placed = placement.place(*args)

        def gathered() -> Any:
            nonlocal calls
            calls += 1
            return placed.whole()

        return replace(placed, whole=gathered)

    monkeypatch.setattr(trainer, "place", counting)
    begin(settings(raw_shards), tmp_path / "run")
    assert calls == 2  # epochs
    assert_same(tmp_path / "run", whole)


# --- what is kept, and going on from it


@pytest.mark.parametrize("links", [True, False])
def test_the_last_ones_are_kept(
    links: bool, whole: Path, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system has no hard links."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    run = tmp_path / "run"
    monkeypatch.setattr(trainer, "train_step", interrupted(train_step, 7))
    begin(settings(raw_shards, save_every=1, keep=2), run)
    assert checkpoint.kept(run).keys() == {5, 6}
    assert [checkpoint.load(run / f"step-{at:08d}.pt")["step"] for at in (5, 6)] == [1, 2]
    resume(run, keep=0)
    assert not checkpoint.kept(run)
    assert_same(run, whole)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_from_any_saved_step_a_run_is_resumed_exactly(at: int, whole: Path, every_step: Path, tmp_path: Path) -> None:
    """As after kill -9: the log has gone further. In mid-epoch and at its end, between two lines of the log."""
    run = shutil.copytree(every_step, tmp_path / "run")
    assert_same(run, whole)
    resume_after(run, at)
    assert_same(run, whole)


def test_before_anything_is_saved_a_run_begins_again(whole: Path, raw_shards: Path, tmp_path: Path) -> None:
    """With its own settings, by the command that began it."""
    run = tmp_path / "run"
    given = {
        name: value
        for name, value in settings(raw_shards).as_dict().items()
        if value != getattr(make_config("fast"), name)
    }
    given["recipe"] = "fast"
    run_folder.create(run, make_config(**given), ShardSet(raw_shards).manifest)
    (run / "log.jsonl").write_text('{"step": 3, "epoch": 0, "loss": 1}\n')
    for _ in range(2):
        assert start.train(CPU, run, given, resume=True).finished
        assert_same(run, whole)


def test_before_anything_is_saved_another_set_becomes_the_run_s(raw_shards: Path, tmp_path: Path) -> None:
    """config.json, which the report reads, names the set that it is trained on."""
    run, moved = tmp_path / "run", shutil.copytree(raw_shards, tmp_path / "moved")
    run_folder.create(run, settings(raw_shards, epochs=1), ShardSet(raw_shards).manifest)
    assert resume(run, shards=str(moved)).finished
    assert json.loads((run / "config.json").read_text())["shards"] == str(moved)
    assert checkpoint.load(run / "last.pt")["config"]["shards"] == str(moved)


def test_a_run_resumes_and_is_read_from_any_folder(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shard set given by a path from the folder that it began in."""
    shutil.copytree(raw_shards, tmp_path / "begun" / "set")
    monkeypatch.chdir(tmp_path / "begun")
    run = tmp_path / "begun" / "run"
    begin(settings(Path("set"), epochs=1), run)
    monkeypatch.chdir(tmp_path)
    assert open_network(run / "last.pt").config.shards == str(tmp_path / "begun" / "set")
    with pytest.raises(InputError, match=r"^set is not a shard set: there is no such folder\."):
        resume(run, shards="set")
    assert resume(run).finished
    (tmp_path / "begun" / "set").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"^set is not a shard set: .* Give another path \(--shards\)"):
        resume(run)


def test_resuming_refuses_other_settings_and_sets(
    whole: Path, raw_shards: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(InputError, match=r"begun with batch 16, recipe fast, .*: leave out batch, recipe, or choose"):
        start.train(CPU, run, {"batch": 8, "recipe": "paper", "epochs": 2}, resume=True)
    with pytest.raises(InputError, match=r"elsewhere holds no run to resume\. To begin one there"):
        start.train(CPU, tmp_path / "elsewhere", {"threads": 1}, resume=True)
    assert not (tmp_path / "elsewhere").exists()
    moved = shutil.copytree(raw_shards, tmp_path / "moved")
    assert start.train(CPU, run, {"shards": str(moved)}, resume=True).finished
    with pytest.raises(InputError, match=r"is not the shard set that .*last\.pt was trained on"):
        start.train(CPU, run, {"shards": str(jpeg_shards)}, resume=True)
    (run / "config.json").write_text('{"epochs": 2')
    with pytest.raises(InputError, match=r"config\.json is corrupt: it holds no settings"):
        start.train(CPU, run, {}, resume=True)


# --- stopping


def test_a_stop_in_the_evaluation_is_resumed_exactly(
    whole: Path, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGTERM, twice, as batch systems send it. The evaluation comes first thing when the run is resumed."""
    run = tmp_path / "run"
    evaluate = evaluation.evaluate
    monkeypatch.setattr("alexnet_fast.evaluation.scoring.BATCH", 6)

    def asked_to_stop(*args: Any, **options: Any) -> Any:
        def stopped() -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            result: bool = options["stopped"]()
            return result

        return evaluate(*args, **{**options, "stopped": stopped})

    monkeypatch.setattr(trainer, "evaluate", asked_to_stop)
    assert not begin(settings(raw_shards), run).finished
    assert not resume(run).finished  # in the same evaluation
    saved = checkpoint.load(run / "last.pt")
    assert (saved["epoch"], saved["step"], saved["top1s"]) == (0, 4, [])
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    assert resume(run).finished
    assert_same(run, whole)
