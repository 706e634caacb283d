"""One network over several gloo processes: the losses, weights and checkpoints of one process."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed import topology as processes
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.inference.networks import open_networks
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.recipes import make_config
from alexnet_fast.training import checkpoint, start, trainer
from alexnet_fast.training.step import train_step
from tests.conftest import interrupted
from tools import parallel_bytes

ALONE = Topology(0, 1, torch.device("cpu"))
STEPS = 4
"""Of an epoch: 60 images in steps of 15, which 2 processes share as 7 and 8."""
SETTINGS = {"epochs": 2, "batch": 16, "lr": 0.001, "precision": "fp32", "hidden": 66, "crop": 64}
SETTINGS |= {"log_every": 1, "layer_scales": True}


def settings(shards: Path, **overrides: Any) -> TrainConfig:
    return make_config("paper", **{"shards": str(shards), **SETTINGS, **overrides})


def train(topology: Topology, config: dict[str, Any], run: str, stop_after: int = 0) -> None:
    """Resumes a run that is there; stops itself, as by Ctrl-C, after some steps."""
    trainer.train_step = interrupted(train_step, stop_after)  # type: ignore[attr-defined]
    try:
        start.train(topology, Path(run), config, resume=True)
    finally:
        trainer.train_step = train_step  # type: ignore[attr-defined]


def train_each(topology: Topology, cases: list[dict[str, Any]]) -> None:
    for case in cases:
        train(topology, **case)
        processes.barrier(topology)


def measure_bytes(topology: Topology, out: str) -> None:
    """Of a step of each --parallel, the first process'."""
    results = {}
    for parallel in ("data", "towers", "hybrid"):
        config = make_config("paper", parallel=parallel, batch=8, precision="fp32", crop=84, hidden=512)
        results[parallel] = parallel_bytes.measure(topology, config, 100, turns=1)
    if topology.first:
        Path(out).write_text(json.dumps(results))


def together(processes: int, job: list[dict[str, Any]] | str, file: Path) -> None:
    """Trains the cases one after the other, each in that many processes; or measures bytes, into the file named."""
    file.write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONWARNINGS": "error::FutureWarning",
    }
    done = subprocess.run([*command, __file__, str(file)], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


NETS: dict[str, dict[str, Any]] = {
    "paper": {"crops": False},
    "sixconv": {"arch": "sixconv", "bottleneck": 10},
    "onetower": {"arch": "onetower", "dropout": 0.0},
    "bn": {"arch": "bn", "dropout": 0.0, "sync_bn": True, "lr": 0.02},
}
"""Under hybrid not mirrored with dropout, whose masks the order of a batch's images decides."""
RUNS = [
    (2, "paper", "towers"),
    (2, "sixconv", "towers"),
    (2, "paper", "hybrid"),
    (2, "onetower", "hybrid"),
    (2, "bn", "data"),
    (2, "bn", "hybrid"),
    (3, "paper", "hybrid"),
]


@pytest.fixture(scope="module")
def folder(jpeg_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs NET-PARALLEL-PROCESSES of every net alone and of RUNS, of two epochs; all others are of one epoch.
    `A-then-B` began under A and ended under B."""
    folder = tmp_path_factory.mktemp("runs")

    def case(
        name: str, net: str = "paper", parallel: str = "data", stop_after: int = 0, **overrides: Any
    ) -> dict[str, Any]:
        config = asdict(settings(jpeg_shards, parallel=parallel, **NETS[net], **overrides))
        return {"config": config, "run": str(folder / name), "stop_after": stop_after}

    short = partial(case, epochs=1)

    for net in NETS:
        train(ALONE, **case(f"{net}-data-1", net))
    train(ALONE, **short("paper-short"))
    train(ALONE, **short("onetower-short", "onetower"))
    train(ALONE, **short("accumulated-1", accumulate=2))
    train(ALONE, **short("stopped", stop_after=3))
    for parallel in ("towers", "hybrid"):
        shutil.copytree(folder / "stopped", folder / f"one-then-{parallel}")
    train(ALONE, **short("one-then-two", "onetower", stop_after=3))
    pairs = [short("accumulated", "onetower", accumulate=2), short("one-then-two", "onetower")]
    own_statistics = {**case("", "bn")["config"], "sync_bn": False}
    pairs += [case(f"{net}-{parallel}-2", net, parallel) for world, net, parallel in RUNS if world == 2]
    pairs.append({**case("own-statistics", "bn"), "config": own_statistics})
    pairs.append(short("towers-accumulated", "paper", "towers", accumulate=2))
    pairs.append(short("hybrid-accumulated", "onetower", "hybrid", accumulate=2))
    for parallel in ("towers", "hybrid"):
        pairs.append(short(f"{parallel}-then-one", "paper", parallel, stop_after=2))
        pairs.append(short(f"one-then-{parallel}", "paper", parallel))
    together(2, pairs, folder / "pairs.json")
    together(3, [case("paper-hybrid-3", "paper", "hybrid")], folder / "three.json")
    for parallel in ("towers", "hybrid"):
        train(ALONE, **short(f"{parallel}-then-one"))
    return folder


def assert_same(run: Path, reference: Path) -> None:
    """Losses, layer scales, validation accuracy, then weights and momentum, to float tolerance."""
    (ours, ours_of), (theirs, theirs_of) = ((log(path), checkpoint.load(path / "last.pt")) for path in (run, reference))
    assert [line["loss"] for line in ours if "loss" in line] == pytest.approx(
        [line["loss"] for line in theirs if "loss" in line], rel=1e-4
    )
    assert len([line for line in ours if "loss" in line]) == STEPS * ours_of["config"]["epochs"]
    for kind in ("gradient_norm", "weight_norm", "update_ratio"):
        for line, other in zip(ours, theirs, strict=True):
            assert line.get(kind, {}) == pytest.approx(other.get(kind, {}), rel=1e-2)
    assert [line.get("val_top1") for line in ours] == [line.get("val_top1") for line in theirs]
    torch.testing.assert_close(ours_of["model"], theirs_of["model"], rtol=1e-3, atol=1e-5)
    ours_state, theirs_state = (state["optimizer"]["state"] for state in (ours_of, theirs_of))
    torch.testing.assert_close(ours_state, theirs_state, rtol=1e-2, atol=1e-3)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("world", "net", "parallel"), RUNS)
def test_a_split_network_trains_as_a_whole_one(world: int, net: str, parallel: str, folder: Path) -> None:
    """With momentum, weight decay and (but onetower) dropout 0.5; evaluated and saved as the whole network."""
    assert_same(folder / f"{net}-{parallel}-{world}", folder / f"{net}-data-1")


def test_without_sync_bn_batch_norm_sees_each_process_own_images(folder: Path) -> None:
    runs = ("own-statistics", "bn-data-1")
    own, whole = ([line["loss"] for line in log(folder / name) if "loss" in line] for name in runs)
    assert own != pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("parallel", ["towers", "hybrid"])
def test_a_checkpoint_goes_on_under_any_parallel(parallel: str, folder: Path) -> None:
    for name in (f"{parallel}-then-one", f"one-then-{parallel}"):
        assert_same(folder / name, folder / "paper-short")


@pytest.mark.parametrize("name", ["accumulated", "one-then-two"])
def test_two_processes_share_a_batch(name: str, folder: Path) -> None:
    """Each in two parts; and from the middle of an epoch on, where one process stopped."""
    assert_same(folder / name, folder / "onetower-short")


def test_a_split_network_accumulates(folder: Path) -> None:
    """Towers see the parts that one process would, and its dropout; hybrid's parts are others, of the same step."""
    assert_same(folder / "towers-accumulated", folder / "accumulated-1")
    assert_same(folder / "hybrid-accumulated", folder / "onetower-short")


def test_eval_reads_a_towers_run(folder: Path) -> None:
    """As a plain network; training's own evaluation, by two processes, counted each image once."""
    run = folder / "paper-towers-2"
    best = max(line["val_top1"] for line in log(run) if "val_top1" in line)
    accuracy = predict_split(open_networks([run], 0)).accuracy()
    assert accuracy is not None
    assert accuracy.top1 == pytest.approx(best, abs=1e-4)
    assert accuracy.images == 18


def test_the_kernel_counts_the_bytes_that_the_formulas_predict(tmp_path: Path) -> None:
    """Within a hundredth, which gloo's own headers take."""
    together(2, str(tmp_path / "bytes.json"), tmp_path / "job.json")
    for parallel, one in json.loads((tmp_path / "bytes.json").read_text()).items():
        assert one["bytes"] == [pytest.approx(one["predicted_bytes"], rel=0.01)], parallel


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text())
    processes.run(measure_bytes if isinstance(job, str) else train_each, 0, job)
