"""What goes wrong in a training is named: a loader that stalls, numbers that are not finite."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed import stalls
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.evaluation import scoring
from alexnet_fast.loading.loader import Loader
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet, Split
from alexnet_fast.training import checkpoint, finite, start, trainer
from alexnet_fast.training.state import State, initial_state
from alexnet_fast.training.step import train_step

ALONE = Topology(0, 1, torch.device("cpu"))


def settings(shards: Path, **overrides: Any) -> TrainConfig:
    common = {"epochs": 2, "batch": 16, "precision": "fp32", "hidden": 32, "crop": 64, "threads": 1}
    return make_config("paper", **{"shards": str(shards), **common, **overrides})


def spoil(state: State, layer: str, where: str) -> None:
    """From now on the layer's output, or the gradient of it, holds a NaN."""

    def forward(module: Any, inputs: Any, output: Tensor) -> Tensor:
        if where == "gradient":
            output.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
            return output
        return output + torch.nan

    state.model.layers()[layer].register_forward_hook(forward)


@contextmanager
def step_spoilt(monkeypatch: pytest.MonkeyPatch, number: int, change: Callable[[State], None]) -> Iterator[None]:
    taken = 0

    def step(model: Any, state: State, *others: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == number:
            change(state)
        return train_step(model, state, *others)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", step)
        yield


@pytest.mark.parametrize(
    ("layer", "where", "message"),
    [
        ("conv3", "output", r"the loss is not finite \(step 6\), first the output of conv3\. "),
        ("conv3", "gradient", r"the gradient is not finite \(step 6\), first that of conv3\. "),
        ("conv4", "weights", r"the loss is not finite \(step 6\), first the weights of conv4\. "),
    ],
)
def test_the_step_and_layer_that_are_not_finite_are_named(
    layer: str, where: str, message: str, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 6 is the second of an epoch of 4 and not logged; what was saved before is whole."""

    def change(state: State) -> None:
        if where == "weights":
            state.model.layers()[layer].weight.data[0, 0, 0, 0] = torch.inf
        else:
            spoil(state, layer, where)

    config = settings(raw_shards, log_every=100)
    with step_spoilt(monkeypatch, 6, change), pytest.raises(TrainingError, match="^" + message + "Most often"):
        start.train(ALONE, tmp_path / "run", config.as_dict(), resume=False)
    for name in ("last.pt", "best.pt"):
        saved = checkpoint.load(tmp_path / "run" / name)
        assert saved["epoch"] == 1
        assert all(values.isfinite().all() for values in saved["model"].values())


def test_a_step_that_is_not_finite_changes_no_weight(raw_shards: Path) -> None:
    split = ShardSet(raw_shards).split("train")
    config = settings(raw_shards, optimizer="sgd")
    state = initial_state(config, 3, ALONE.device)
    watch = finite.FiniteCheck(state.model, state.optimizer, config, is_local=True)
    batches = iter(Loader.training(split, batch=16, crop=64, threads=1))
    batch = next(batches)
    loss, _ = train_step(state.model, state, batch, config, 1.0)
    watch.add(loss, watch.of_update(), 1, batch)
    before = {name: values.clone() for name, values in state.model.state_dict().items()}
    spoil(state, "fc7", "gradient")
    loss, _ = train_step(state.model, state, batch, config, 1.0)
    with pytest.raises(TrainingError, match=r"step 2\), first that of fc7"):
        watch.add(loss, watch.of_update(), 2, batch)
    assert all(torch.equal(before[name], values) for name, values in state.model.state_dict().items())


def test_nothing_is_saved_of_weights_that_are_not_finite(
    raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where no loss shows it."""
    config = settings(raw_shards, epochs=1)

    def evaluate_and_spoil(member: Any, *others: Any, **named: Any) -> Any:
        accuracy = scoring.evaluate(member, *others, **named)
        member.model.layers()["fc8"].weight.data[1, 1] = torch.nan
        return accuracy

    monkeypatch.setattr(trainer, "evaluate", evaluate_and_spoil)
    with pytest.raises(TrainingError, match=r"^classifier\.fc8\.weight is not finite, so nothing is saved\."):
        start.train(ALONE, tmp_path / "run", config.as_dict(), resume=False)
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_stalled_loader_is_named(
    is_gone: bool,
    raw_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its bytes do not come: of a tar that does not answer, as a pipe without a writer does not; or for no reason."""
    monkeypatch.setattr(stalls, "STALL", 0.3)
    monkeypatch.setattr("alexnet_fast.shards.local.READ_TIMEOUT", 0.3)
    come = Event()

    class Stalling(Split):
        def read(self, samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
            come.wait(20)
            return super().read(samples)

    for file in raw_shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    split = Stalling(tmp_path, "train", ShardSet(tmp_path).manifest)
    tars = sorted(tmp_path.glob("train-*.tar"))
    if is_gone:
        for tar in tars:
            tar.unlink()
            os.mkfifo(tar)
    Timer(2.0, come.set).start()
    batches = list(stalls.watched(Loader.training(split, batch=16, crop=64, threads=1), Topology(1, 2, ALONE.device)))
    assert sum(len(batch.labels) for batch in batches) == 60
    lines = capsys.readouterr().err.splitlines()
    files = f"{lines[0].split('; ')[1].removesuffix(' does not come')}"
    assert lines[0].startswith("rank 1: no batch for 0 s: the loader is reading 15 images; ")
    assert Path(files) in tars if is_gone else files == "all their files can be read"
    assert lines[1:] == ["rank 1: a batch came after 2 s"]


def test_the_url_of_a_tar_that_does_not_come_is_named(raw_shards: Path, tmp_path: Path) -> None:
    """Before anything was fetched; after all of it was."""
    pytest.importorskip("fsspec")
    shards = ShardSet(f"local://{raw_shards}", tmp_path)
    split = shards.split("train")
    samples = np.arange(len(split))
    first = shards.manifest.splits["train"][0].file
    assert split.missing(samples) == f"local://{raw_shards}/{first}"
    split.read(samples)
    assert split.missing(samples) == ""
