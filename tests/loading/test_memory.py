"""Batches in memory that is used again; what opening a large set takes."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.loading.loader import Loader
from alexnet_fast.memory import Buffers
from alexnet_fast.shards.format import MANIFEST
from alexnet_fast.shards.reader import ShardSet

SHAPE = (4, 8, 8, 3)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take(SHAPE, torch.float32).fill_(1)
    view = first[1:].permute(0, 3, 1, 2)
    place = first.data_ptr()
    del first
    second = buffers.take(SHAPE, torch.float32).fill_(2)
    assert second.data_ptr() != place
    assert (view == 1).all()
    del view
    third = buffers.take(SHAPE, torch.float32)
    assert third.data_ptr() == place
    assert (second == 2).all()


def test_a_smaller_batch_fits_and_a_larger_one_gets_more() -> None:
    buffers = Buffers()
    place = buffers.take(SHAPE, torch.float32).data_ptr()
    smaller = buffers.take((3, *SHAPE[1:]), torch.bfloat16)
    assert smaller.data_ptr() == place
    assert smaller.shape == (3, *SHAPE[1:])
    assert smaller.is_contiguous()
    del smaller
    larger = buffers.take((5, *SHAPE[1:]), torch.float32)
    assert larger.data_ptr() != place
    assert larger.shape == (5, *SHAPE[1:])
    assert larger.data_ptr() % Buffers.ALIGNED == 0


def test_who_keeps_every_batch_has_them_all() -> None:
    buffers = Buffers()
    kept = [buffers.take(SHAPE, torch.uint8).fill_(i) for i in range(3 * Buffers.MOST)]
    assert len({one.data_ptr() for one in kept}) == len(kept)
    assert all((one == i).all() for i, one in enumerate(kept))


def test_gradients_may_flow_into_it() -> None:
    """A tensor made under inference mode could not be used in training."""
    reader = CropReader(crop=8, threads=1, pinned=False)
    stored = [np.full((8, 8, 3), 1, np.uint8)] * 4
    with torch.inference_mode():
        cut = reader.submit(
            stored, np.full((4, 2), 8), np.full((4, 4), (0, 0, 8, 8), np.uint16), 4, torch.zeros(4, 3), torch.float32
        )
    images = cut.result().requires_grad_()
    reader.close()
    (2 * images).sum().backward()
    assert images.grad is not None
    assert (images.grad == 2).all()


def test_a_large_set_is_opened_and_planned_in_few_bytes_a_sample(raw_shards: Path, tmp_path: Path) -> None:
    """A row of the index has 24 bytes, one of the plan 21: neither is held whole."""
    shutil.copytree(raw_shards, tmp_path / "set")
    path = tmp_path / "set" / "train.index.npy"
    times = 20_000
    index = np.tile(np.load(path), times)
    np.save(path, index)
    manifest = ShardSet(raw_shards).manifest
    tars = [replace(tar, samples=tar.samples * times) for tar in manifest.splits["train"]]
    larger = replace(manifest, splits={**manifest.splits, "train": tars})
    (tmp_path / "set" / MANIFEST).write_text(larger.to_json())

    tracemalloc.start()
    split = ShardSet(tmp_path / "set").split("train")
    batch = next(iter(Loader.training(split, batch=4, crop=8)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(split) == len(index) == 1_200_000
    assert np.array_equal(batch.labels, index["label"][batch.rows.samples])
    assert peak < 12 * len(split) + 8e6  # bytes: order 4, crop 4, mirror 1, what was seen 3; rows being checked
