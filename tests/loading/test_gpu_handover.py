"""The loader's way to a GPU, on stand-ins for its streams and memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn

from alexnet_fast.loading import dali, decoders, effects, handover
from alexnet_fast.loading.augment import Augmentation, ColourJitter, CutMix, Erasing, MixUp
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.handover import copied
from alexnet_fast.loading.pipeline import Pipeline
from alexnet_fast.loading.plan import training_rows
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import set_host_share
from tests.cuda_stand_ins import Gpu, Stream, dali_for_gpu, gpu

__all__ = ["dali_for_gpu", "gpu"]
CROP = 84
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def own_copy_stream() -> Iterator[None]:
    handover._copy_stream.cache_clear()
    yield
    handover._copy_stream.cache_clear()


def pipeline(
    shards: Path,
    device: torch.device,
    dtype: torch.dtype,
    scale: tuple[float, float] | None = None,
    augment: Sequence[Augmentation] = (),
) -> Pipeline:
    split = ShardSet(shards).split("train")
    boxes = Boxes(split.size, CROP, scale)
    rows = training_rows(len(split), 16, 0, boxes=boxes, colour_std=0.1, augment=augment, epochs=range(2))
    resized = scale is not None
    return Pipeline(split, rows, max_batch=16, crop=CROP, resized=resized, device=device, dtype=dtype, threads=2)


def used_on_gpu(batches: Pipeline, gpu: Gpu) -> list[Batch]:
    """The batches, each used by a step; nothing waits meanwhile."""
    used: list[Batch] = []
    for batch in batches:
        for tensor in batch.tensors.values():
            gpu.check(tensor)
        gpu.steps.work(0.1)
        used.append(batch)
        assert gpu.waits == 0
    return used


def assert_same(batches: list[Batch], expected: Pipeline, names: set[str]) -> None:
    """Samples and tensors, which have these names, bit by bit."""
    for one, other in zip(batches, expected, strict=True):
        assert np.array_equal(one.rows.samples, other.rows.samples)
        assert one.tensors.keys() == other.tensors.keys() == names
        for name in names:
            assert torch.equal(one.tensors[name], other.tensors[name])


def given_to_gpu(
    shards: Path, share: float, dtype: torch.dtype, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> tuple[list[Batch], Pipeline]:
    """The batches given to the GPU while the host decodes its share, and those of the same decoders on the CPU."""
    set_host_share(monkeypatch, share)
    on_gpu = used_on_gpu(pipeline(shards, GPU, dtype, **how), gpu)
    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    return on_gpu, pipeline(shards, torch.device("cpu"), dtype, **how)


@pytest.mark.usefixtures("native_decoder", "dali_for_gpu")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("encoding", ["jpeg", "mixed"])
def test_a_batch_is_used_after_its_copies_and_never_waited_for(
    encoding: str,
    share: float,
    dtype: torch.dtype,
    gpu: Gpu,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every use of a copy is checked by the stand-ins. The pixels are those of the same decoders on the CPU."""
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    on_gpu, on_cpu = given_to_gpu(shards, share, dtype, gpu, monkeypatch)
    assert gpu.waits == (share < 1)  # at the end, before DALI's memory is given back
    assert gpu.freed == [True] * (9 if share < 1 else 0)  # DALI's first run makes one more
    assert_same(on_gpu, on_cpu, {"images", "labels"})


@pytest.mark.usefixtures("native_decoder", "dali_for_gpu")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("encoding", ["jpeg", "mixed", "raw"])
def test_resized_and_augmented_batches_too(
    encoding: str,
    share: float,
    dtype: torch.dtype,
    gpu: Gpu,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    how: dict[str, Any] = {"scale": (0.2, 1.0), "augment": [ColourJitter(0.4, 0.4, 0.4), Erasing(), CutMix(), MixUp()]}
    on_gpu, on_cpu = given_to_gpu(shards, share, dtype, gpu, monkeypatch, **how)
    assert all(gpu.freed)
    assert_same(on_gpu, on_cpu, {"images", "labels", "other_labels", "weights"})


def test_augmenting_copies_only_what_is_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has no numbers to read: what is there is not copied, nor asked for a number."""

    def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert tensor.device.type == "cpu"
        return tensor.to(device)

    monkeypatch.setattr(effects, "copied", copied)
    meta = torch.device("meta")
    augment: list[Augmentation] = [ColourJitter(0.4, 0.4, 0.4), Erasing(), CutMix(), MixUp()]
    (rows,) = training_rows(6, 6, 0, boxes=Boxes(96, CROP), colour_std=0.1, augment=augment)
    pixels = torch.empty(6, CROP, CROP, 3, dtype=torch.uint8, device=meta).permute(0, 3, 1, 2)
    batch = Batch(pixels, torch.empty(6, dtype=torch.int64, device=meta), rows)
    offset, mean = torch.empty(6, 3, device=meta), np.zeros(3, np.float32)
    for dtype in (torch.uint8, torch.bfloat16):
        made = effects.augmented(batch, offset, mean, dtype, 10)
        assert (made.images.dtype, made.targets.shape) == (dtype, (6, 10))
        assert {tensor.device for tensor in (*made.tensors.values(), made.targets)} == {meta}
        assert made.images.is_contiguous(memory_format=torch.channels_last)


def test_what_the_stand_ins_notice(gpu: Gpu) -> None:
    """A stream that does not wait, a missing `record_stream`, a copy that the host waits for."""
    on_copy_stream_alone = Stream(gpu)
    pinned = torch.zeros(3).pin_memory()
    with gpu.using(on_copy_stream_alone):
        copy = pinned.to(GPU, non_blocking=True)
    with pytest.raises(AssertionError, match="does not wait"):
        copy.sum()
    gpu.steps.wait_stream(on_copy_stream_alone)
    with pytest.raises(AssertionError, match="no record_stream"):
        copy.sum()
    with pytest.raises(AssertionError, match="would wait for this copy"):
        torch.zeros(3).to(GPU, non_blocking=True)
    assert copied(torch.arange(3), GPU).sum() == 3


@pytest.mark.usefixtures("dali_for_gpu")
def test_dali_s_memory_is_kept_until_it_is_copied(jpeg_shards: Path, gpu: Gpu) -> None:
    """However far the host is ahead of the device."""
    split = ShardSet(jpeg_shards).split("train")
    decoder = dali.JpegDecoder(side=split.size, crop=CROP, resized=False, max_batch=4, threads=1, gpu=0, prefetch=2)
    boxes = Boxes(split.size, CROP)
    given = split.read(np.arange(4)), split.sizes[:4], boxes.completed(boxes.central(np.arange(4)))
    decoder.submit(*given)
    gpu.freed.clear()
    for _ in range(5):
        decoder.submit(*given)
        decoder.result()
    assert gpu.freed == []
    gpu.now = 1.0
    decoder.submit(*given)
    decoder.result()
    assert gpu.freed == [True] * 5
    assert gpu.waits == 0
    decoder.finish()
    assert (gpu.freed, gpu.waits) == ([True] * 6, 1)
    assert decoder._alive  # a batch is under way, which DALI reads where it was given
    decoder.result()
    decoder.finish()
    assert not decoder._alive


@pytest.mark.parametrize("resized", [False, True])
def test_nvjpeg_has_memory_for_the_set_s_images_not_for_any(resized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 MiB of the GPU's and twice 8 MiB of the host's memory a thread otherwise. DALI itself checks the names."""
    given: dict[str, Any] = {}
    name = "image_slice" if resized else "image_crop"
    decode_box = getattr(fn.decoders, name)

    def decode(*stored: Any, **about: Any) -> Any:
        given.update(about)
        return decode_box(*stored, **about)

    monkeypatch.setattr(fn.decoders, name, decode)
    monkeypatch.setattr("nvidia.dali.Pipeline.build", lambda self: None)  # it needs a GPU
    dali.JpegDecoder(side=256, crop=224, resized=resized, max_batch=4, threads=2, gpu=0, prefetch=2)
    assert (given["device"], given["device_memory_padding"], given["host_memory_padding"]) == ("mixed", 2**20, 2**20)
    assert (given["preallocate_width_hint"], given["preallocate_height_hint"]) == (256, 256)
