"""Steps replayed as CUDA graphs, whose part a recording of the CPU's operations takes; on a GPU: tests/test_gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.batch import Batch
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import optim, replay, trainer
from alexnet_fast.training.settings import replays_steps
from tests import tape

ALONE = Topology(0, 1, torch.device("cpu"))
GPU = torch.device("cuda", 0)
SMALL: dict[str, Any] = {"precision": "fp32", "hidden": 16, "batch": 8, "crop": 64, "threads": 1, "log_every": 1}
SMALL |= {"lr": 0.03}
CASES: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper", "conv1_slow": 0.3, "conv1_freeze": 0.6, "schedule": "steps"},
    "caffe in parts": {"recipe": "paper", "arch": "caffe", "accumulate": 2, "patience": 1},
    "fast": {"recipe": "fast", "dropout": 0.3, "dropout_from": 0.0},
    "layer scales": {"recipe": "fast", "optimizer": "sgd", "layer_scales": True, "log_every": 6},
    "growing": {"recipe": "fast", "optimizer": "sgd", "crop": 80, "grow_from": 0.8, "grow_until": 0.3},
    "late dropout": {"recipe": "fast", "optimizer": "sgd", "dropout_from": 1.0},
}


class Clock:
    """Events for GPUs' timing, on the time `now`, in ms; they are known to have happened once `are_known`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.are_known = 0.0, True
        clock = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = clock.now

            def query(self) -> bool:
                return clock.are_known

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)

    def lengthened(self, form: Callable[..., replay.Results], milliseconds: float) -> Callable[..., replay.Results]:
        """`form`, which takes so long."""

        def longer(*args: Any) -> replay.Results:
            self.now += milliseconds
            return form(*args)

        return longer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Of each recording, the times that it was replayed. The tape takes the place of CUDA's graphs."""
    counts: list[list[str]] = []

    def record(work: Callable[[], replay.Results], pool: Any) -> tuple[Callable[[], None], replay.Results]:
        assert pool == "pool"
        again, results = tape.record(work, pool)
        count: list[str] = []
        counts.append(count)

        def counted() -> None:
            count.append("replayed")
            again()

        return counted, results

    monkeypatch.setattr(replay, "record", record)
    monkeypatch.setattr(replay, "pool", lambda: "pool")
    return counts


def trained(config: TrainConfig, folder: Path) -> tuple[list[str], dict[str, Tensor], list[Tensor]]:
    """The log's lines without what is about time, and the last weights and momenta."""
    folder.mkdir()
    run = trainer.Trainer(ALONE, config, ShardSet.of(config), folder, None)
    lines: list[str] = []
    read = run.meter.read

    def noted(stop: bool) -> tuple[dict[str, float], bool]:
        line, stopped = read(stop)
        lines.append(f"{line['loss']!r} {line['top1']!r} {run.scales.read()}")
        return line, stopped

    run.meter.read = noted  # type: ignore[method-assign]
    assert run.run().finished
    momenta = [state["momentum_buffer"] for state in run.state.optimizer.state.values()]
    return lines, run.state.model.state_dict(), momenta


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_same_with_and_without(
    case: str,
    raw_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
    replays: list[list[str]],
) -> None:
    """Bit by bit, while the rates change, conv1 is frozen, dropout draws, and an epoch has steps of 7 and 8 images.
    Rates are float32's, as on a GPU."""

    def set_rates(optimizer: torch.optim.Optimizer, *others: Any) -> None:
        optim.set_learning_rates(optimizer, *others)
        for group in optimizer.param_groups:
            group["lr"] = float(np.float32(group["lr"]))

    monkeypatch.setattr(trainer, "set_learning_rates", set_rates)
    config = make_config(shards=str(raw_shards), epochs=3, **{**SMALL, **CASES[case]})
    expected = trained(config, tmp_path / "without")
    assert replays == []
    monkeypatch.setattr(trainer.Trainer, "_update", clock.lengthened(trainer.Trainer._update, 3.0))
    monkeypatch.setattr(replay._Graph, "replay", clock.lengthened(replay._Graph.replay, 2.0))
    monkeypatch.setattr(replay, "TURNS", 2)
    monkeypatch.setattr(trainer, "replays_steps", lambda *_: True)
    result = trained(config, tmp_path / "with")
    assert [len(count) >= 3 for count in replays[-2:]] == [True, True]
    # a recording for each number of images, and again for another side and with dropout
    assert len(replays) == (4 if case in ("growing", "late dropout") else 2)
    assert result[0] == expected[0]
    for ours, theirs in zip((*result[1].values(), *result[2]), (*expected[1].values(), *expected[2]), strict=True):
        assert torch.equal(ours, theirs)


class Weights:
    """Something to train: four weights, of whose product with a batch's images the mean is to fall."""

    def __init__(self) -> None:
        self.weights = torch.nn.Parameter(torch.ones(4))
        self.optimizer = torch.optim.SGD([self.weights], lr=0.5, momentum=0.5, fused=True)

    def update(self, batch: Batch) -> replay.Results:
        loss = (batch.images * self.weights).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), batch.labels.sum(), None


def batch_of(images: int) -> Batch:
    rows: Any = None
    return Batch(torch.rand(images, 4), torch.arange(images), rows)


@pytest.mark.parametrize(("called", "replayed", "rest"), [(3.0, 2.0, 5), (2.0, 2.5, 0)])
def test_the_faster_form_is_chosen(
    called: float, replayed: float, rest: int, monkeypatch: pytest.MonkeyPatch, clock: Clock, replays: list[list[str]]
) -> None:
    """After steps of both kinds in turns; later, where the GPU has not yet done them."""
    net = Weights()
    lines: list[str] = []
    steps = replay.Replay(clock.lengthened(net.update, called), net.optimizer, lines.append)
    monkeypatch.setattr(replay._Graph, "replay", clock.lengthened(replay._Graph.replay, replayed))
    clock.are_known = False
    for _ in range(replay.WARM_UP + 2 * replay.TURNS + 3):
        steps.step(batch_of(5))
    assert lines == []
    assert len(replays[0]) == replay.TURNS + 1
    clock.are_known = True
    for _ in range(6):
        steps.step(batch_of(5))
    (line,) = lines
    assert f"a step of 5 images takes the GPU {replayed:.2f} ms" in line
    assert f"{called:.2f} ms with them launched one by one" in line
    assert len(replays[0]) == replay.TURNS + 2 + rest


def test_a_step_that_reads_a_number_is_not_recorded(clock: Clock, replays: list[list[str]]) -> None:
    net = Weights()

    def update(batch: Batch) -> replay.Results:
        loss, correct, _ = net.update(batch)
        return loss * loss.item(), correct, None

    steps = replay.Replay(update, net.optimizer, print)
    for _ in range(replay.WARM_UP):
        steps.step(batch_of(2))
    rate = net.optimizer.param_groups[0]["lr"]
    with pytest.raises(TrainingError, match=r"capturing\nTrain without: --set cuda_graphs=false"):
        steps.step(batch_of(2))
    assert net.optimizer.param_groups[0]["lr"] == rate == 0.5


def test_which_runs_are_replayed() -> None:
    def of(recipe: str, images: int = 128, processes: int = 1, device: torch.device = GPU, **settings: Any) -> bool:
        config = make_config(recipe, **{"precision": "bf16", **settings})
        return replays_steps(config, Topology(0, processes, device), images)

    assert of("paper")
    assert of("fast", images=512, accumulate=2, compile=True)
    assert not of("fast", images=513)
    assert not of("paper", processes=2)
    assert not of("paper", device=ALONE.device)
    assert not of("paper", precision="fp16")
    assert not of("paper", cuda_graphs=False)
    assert not of("large")
