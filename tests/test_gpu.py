"""What needs an NVIDIA GPU: `tools/test -m gpu -n 0`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_fast.config import make_config
from alexnet_fast.loading.loader import Batch, Loader
from alexnet_fast.loading.plan import training_rows
from alexnet_fast.model.alexnet import bn
from alexnet_fast.shardset import ShardSet
from alexnet_fast.training import distributed, loop, runs
from alexnet_fast.training.finite import Finite
from alexnet_fast.training.metrics import Window
from alexnet_fast.training.optim import make_optimizer

pytestmark = pytest.mark.gpu


def batches(shards: Path, device: torch.device) -> list[Batch]:
    shard_set = ShardSet(shards)
    split = shard_set.split("train")
    rows = training_rows(len(split), 16, 0, margin=split.size - 84, colour_std=0.1, epochs=range(2))
    return list(Loader(split, shard_set.manifest.pixels, rows, max_batch=16, crop=84, device=device))


@pytest.mark.parametrize(("encoding", "tolerance"), [("raw", 1e-3), ("jpeg", 3.0)])
def test_gpu_images_equal_the_cpu_s(encoding: str, tolerance: float, jpeg_shards: Path, raw_shards: Path) -> None:
    """nvJPEG's inverse DCT and chroma upsampling differ from libjpeg-turbo's by a few grey levels on average."""
    shards = raw_shards if encoding == "raw" else jpeg_shards
    for cpu, gpu in zip(batches(shards, torch.device("cpu")), batches(shards, torch.device("cuda", 0)), strict=True):
        assert np.array_equal(cpu.rows.samples, gpu.rows.samples)
        assert torch.equal(cpu.labels, gpu.labels.cpu())
        assert gpu.images.is_contiguous(memory_format=torch.channels_last)
        assert (cpu.images - gpu.images.cpu()).abs().mean() < tolerance


def test_the_step_never_waits_for_the_gpu(jpeg_shards: Path) -> None:
    device = torch.device("cuda", 0)
    config = make_config("fast", precision="bf16", hidden=256)
    model = bn(3, config).on(device)
    state = loop.State(model, make_optimizer(model, config), torch.amp.GradScaler("cuda", enabled=False))
    first, second, *_ = batches(jpeg_shards, device)
    window = Window(distributed.Topology(0, 1, device), Loader.__new__(Loader))
    finite = Finite(model, state.optimizer, config, alone=True)
    loop.train_step(model, state, first, config, 1.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = loop.train_step(model, state, second, config, 1.0)
        finite.look(sums[0], 2, second)
        window.add(*sums, 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("gpus", [1, 2])
def test_training_on_gpus(gpus: int, jpeg_shards: Path, tmp_path: Path) -> None:
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs")
    config = make_config("fast", shards=str(jpeg_shards), epochs=4, batch=16, hidden=256, log_every=1)
    runs.create(tmp_path / "run", config)
    result = distributed.run(loop.train, gpus, config, tmp_path / "run", False)
    assert result.finished
    losses = [json.loads(line).get("loss") for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses[-2] < losses[0]
