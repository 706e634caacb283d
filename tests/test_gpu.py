"""What needs an NVIDIA GPU: `tools/test -m gpu -n 0`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import native
from alexnet_fast.distributed import topology
from alexnet_fast.loading.augment import Augmentation, ColourJitter, CutMix, Erasing, MixUp
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.loader import Loader
from alexnet_fast.recipes import make_config
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import replay, start
from alexnet_fast.training.replay import WARM_UP
from alexnet_fast.training.trainer import Trainer
from tests.conftest import set_host_share
from tests.cuda_stand_ins import no_waiting_for_the_gpu

pytestmark = pytest.mark.gpu


def batches(shards: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Batch]:
    split = ShardSet(shards).split("train")
    return list(Loader.training(split, batch=16, num_epochs=2, crop=84, device=device, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize(
    ("encoding", "share"), [("raw", 0.0), ("jpeg", 0.0), ("jpeg", 0.375), ("jpeg", 1.0), ("mixed", 0.0), ("mixed", 0.5)]
)
def test_gpu_images_equal_the_cpu_s(
    encoding: str,
    share: float,
    dtype: torch.dtype,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    fed_to_dali: list[int],
) -> None:
    """By sample: a batch has DALI's first. nvJPEG's inverse DCT and chroma upsampling differ from libjpeg-turbo's by
    a few grey levels on average; what the host decodes, and raw samples, are the same pixels."""
    if share and native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")
    set_host_share(monkeypatch, share)
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    raw = ShardSet(shards).split("train").raw
    on_cpu = batches(shards, torch.device("cpu"), dtype)
    fed_to_dali.clear()
    on_gpu = batches(shards, torch.device("cuda"), dtype)
    jpegs = [int((~raw[batch.rows.samples]).sum()) for batch in on_cpu]
    by_dali = [count - round(share * count) for count in jpegs]
    assert fed_to_dali == [count for count in by_dali if count]
    for cpu, gpu, count in zip(on_cpu, on_gpu, by_dali, strict=True):
        ours, theirs = np.argsort(cpu.rows.samples), np.argsort(gpu.rows.samples)
        assert np.array_equal(cpu.rows.samples[ours], gpu.rows.samples[theirs])
        assert torch.equal(cpu.labels[ours], gpu.labels.cpu()[theirs])
        assert gpu.images.dtype == dtype
        assert gpu.images.is_contiguous(memory_format=torch.channels_last)
        differences = (cpu.images[ours].float() - gpu.images.cpu()[theirs].float()).abs().mean((1, 2, 3))
        assert (differences > 1e-3).sum() <= count
        assert differences.mean() < 3


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_batches_are_whole_however_far_the_gpu_is_behind(
    share: float, jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DALI's memory is used again while its copies, and the steps that use them, are still queued."""
    set_host_share(monkeypatch, share)
    matrix = torch.randn(8192, 8192, device="cuda")

    def sums(products: int) -> torch.Tensor:
        """Of each batch's pixels, with so many matrix products queued before the next one."""
        found = []
        for batch in Loader.training(
            ShardSet(jpeg_shards).split("train"), batch=8, num_epochs=4, crop=84, device="cuda", dtype=torch.uint8
        ):
            for _ in range(products):
                matrix @ matrix
            if not products:
                torch.cuda.synchronize()
            found.append(batch.images.sum(dtype=torch.int64))
        return torch.stack(found).cpu()

    assert torch.equal(sums(0), sums(20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_gpu_augmentations_equal_the_cpu_s(dtype: torch.dtype, raw_shards: Path) -> None:
    augment: list[Augmentation] = [ColourJitter(0.4, 0.4, 0.4), Erasing(0.5), MixUp(0.8), CutMix(1.0)]
    split = ShardSet(raw_shards).split("train")
    loaders = [
        Loader.training(split, batch=22, crop=84, augment=augment, dtype=dtype, device=device)
        for device in ("cpu", "cuda")
    ]
    for cpu, gpu in zip(*loaders, strict=True):
        ours, theirs = np.argsort(cpu.rows.samples), np.argsort(gpu.rows.samples)
        assert gpu.images.dtype == dtype
        assert gpu.images.is_contiguous(memory_format=torch.channels_last)
        tolerance = 1 if dtype == torch.uint8 else 0.01  # a GPU's products and sums are fused
        torch.testing.assert_close(
            gpu.images.cpu()[theirs].float(), cpu.images[ours].float(), atol=tolerance, rtol=1e-5
        )
        torch.testing.assert_close(gpu.targets.cpu()[theirs], cpu.targets[ours])


def steps_without_waiting(topology: topology.Topology, shards: str, folder: str, settings: dict[str, Any]) -> bool:
    """Four steps, in which cuDNN, the optimizer and DDP settle and a graph is recorded; then three, loader and all, in
    which torch refuses to wait."""
    common: dict[str, Any] = {"precision": "bf16", "hidden": 256, "batch": 16, "crop": 84, "threads": 1}
    config = make_config(**{**settings, **common, "shards": shards, "log_every": 1})
    trainer = Trainer(topology, config, ShardSet.of(config), Path(folder), None)
    batches = iter(trainer.batches)
    for _ in range(WARM_UP + 1):
        trainer.step(next(batches))
    torch.cuda.synchronize()
    with no_waiting_for_the_gpu():
        for _ in range(3):
            trainer.step(next(batches))
    return trainer.meter.pending()[2] == 7 * 15  # 60 images in steps of 15


STEPS: list[tuple[int, dict[str, Any]]] = [(1, {"recipe": recipe}) for recipe in ("paper", "fast", "large")]
STEPS += [(1, {"recipe": "paper", "layer_scales": True}), (1, {"recipe": "paper", "mixup": 0.2, "brightness": 0.4})]
STEPS += [(1, {"recipe": "paper", "accumulate": 2}), (2, {"recipe": "paper"}), (2, {"recipe": "large"})]
STEPS += [(2, {"recipe": "paper", "parallel": "towers"}), (2, {"recipe": "paper", "accumulate": 2})]


@pytest.mark.parametrize(("gpus", "settings"), STEPS)
def test_the_step_never_waits_for_the_gpu(
    gpus: int, settings: dict[str, Any], jpeg_shards: Path, tmp_path: Path
) -> None:
    """`hybrid` does wait, for the other hosts, to know how many images they have."""
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    assert topology.run(steps_without_waiting, gpus, str(jpeg_shards), str(tmp_path), settings)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", ["paper", "fast"])
def test_replayed_steps_train_as_others_do(
    recipe: str, compiled: bool, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns with them to the end, in steps of 7 and 8 images, while rates change and dropout draws. In float32, to
    the rounding of sums that atomic additions leave open, as in the gradient of pools that overlap."""
    monkeypatch.setattr(replay, "TURNS", 10**6)
    common: dict[str, Any] = {"precision": "fp32", "hidden": 256, "batch": 8, "crop": 64, "threads": 1, "epochs": 3}
    config = make_config(recipe, shards=str(raw_shards), lr=0.003, conv1_freeze=0.7, compile=compiled, **common)
    weights, graphs = [], 0
    for cuda_graphs in (False, True):
        wanted = dataclasses.replace(config, cuda_graphs=cuda_graphs)
        folder = tmp_path / str(cuda_graphs)
        folder.mkdir()
        trainer = Trainer(topology.Topology(0, 1, torch.device("cuda", 0)), wanted, ShardSet.of(wanted), folder, None)
        assert trainer.run().finished
        graphs += len(trainer.replay._graphs) if trainer.replay else 0
        weights.append(trainer.state.model.state_dict())
    assert graphs == 2
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("gpus", [1, 2])
def test_training_on_gpus(gpus: int, jpeg_shards: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    config = make_config("fast", shards=str(jpeg_shards), epochs=4, batch=16, hidden=256, log_every=1)
    result = topology.run(start.train, gpus, tmp_path / "run", config.as_dict(), False)
    assert result.finished
    losses = [json.loads(line).get("loss") for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[-2] < losses[0]
