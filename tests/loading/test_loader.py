"""The loader's images against an independent Pillow and NumPy computation of the same row."""

import gc
import io
import mmap
import os
import re
import resource
import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import native
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading import cpu, decoders
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.handover import arranged, centre
from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.pipeline import Pipeline
from alexnet_fast.loading.plan import Rows, evaluation_rows, training_rows
from alexnet_fast.loading.prefetch import PageRequests, Prefetcher
from alexnet_fast.shards.format import Pixels
from alexnet_fast.shards.local import map_tar, prefetch
from alexnet_fast.shards.reader import ShardSet, Split
from tests.conftest import set_host_share, turn_native_off

CROP = 84


@pytest.fixture(params=["compiled", "DALI and NumPy"])
def decoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With cpu.c, and as where there is no compiler."""
    if request.param != "compiled":
        turn_native_off(monkeypatch)
    elif native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")


def load(
    shards: Path, rows: list[Rows], crop: int = CROP, dtype: torch.dtype = torch.float32, threads: int = 2
) -> list[Batch]:
    batches = Pipeline(
        ShardSet(shards).split("train"),
        rows,
        max_batch=max(len(r.samples) for r in rows),
        crop=crop,
        device=torch.device("cpu"),
        dtype=dtype,
        threads=threads,
    )
    return list(batches)


def some_rows(split: Split, batch: int = 16, epochs: int = 1, rank: int = 0, world_size: int = 1) -> list[Rows]:
    boxes = Boxes(split.size, CROP)
    rows = training_rows(
        len(split), batch, 0, boxes=boxes, colour_std=0.1, epochs=range(epochs), rank=rank, world_size=world_size
    )
    return list(rows)


def stored_image(split: Split, sample: int) -> NDArray[np.float64]:
    (data,) = split.read(np.array([sample]))
    if data.ndim == 3:
        return data.astype(np.float64)
    return np.asarray(Image.open(io.BytesIO(data.tobytes())), dtype=np.float64)


def expected_image(split: Split, pixels: Pixels, rows: Rows, i: int) -> NDArray[np.float64]:
    """Crop, flip, colour and mean of row i, (3, CROP, CROP), by the paper's formulas."""
    top, left, *_ = rows.crop[i].tolist()
    image = stored_image(split, int(rows.samples[i]))[top : top + CROP, left : left + CROP]
    if rows.mirror[i]:
        image = image[:, ::-1]
    colour = sum(
        float(alpha) * deviation * np.array(component)
        for alpha, deviation, component in zip(rows.colour[i], pixels.deviations, pixels.components, strict=True)
    )
    expected: NDArray[np.float64] = (image + colour - np.array(pixels.mean)).transpose(2, 0, 1)
    return expected


@pytest.fixture
def beside_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where DALI and the host's threads decode: both on the CPU."""
    if native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")
    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)


@pytest.mark.usefixtures("beside_dali")
@pytest.mark.parametrize("share", [0.0, 0.375, 1.0])
@pytest.mark.parametrize("encoding", ["jpeg", "mixed"])
def test_the_host_decodes_its_share(
    encoding: str,
    share: float,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    fed_to_dali: list[int],
) -> None:
    shards = request.getfixturevalue(f"{encoding}_shards")
    split = ShardSet(shards).split("train")
    rows = some_rows(split)
    set_host_share(monkeypatch, share)
    batches = load(shards, rows)
    jpegs = [int((~split.raw[row.samples]).sum()) for row in rows]
    assert fed_to_dali == [left for count in jpegs if (left := count - round(share * count))]
    pixels = ShardSet(shards).manifest.pixels
    for batch in batches:
        for i in range(len(batch.labels)):
            np.testing.assert_allclose(batch.images[i], expected_image(split, pixels, batch.rows, i), atol=4)


@pytest.mark.parametrize("text", ["nvImageCodec failure: '#3'", "two lines\nof it"])
def test_what_dali_says_is_wrong_is_in_the_error(text: str, jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In DALI's words it comes after the place in our code."""
    from alexnet_fast.loading.dali import JpegDecoder

    turn_native_off(monkeypatch)
    where = "Error in CPU operator `image_crop`,\nwhich was used with the following traceback:\n\n  File a.py, line 2"
    message = f"Critical error in pipeline:\n{where}\n\nencountered:\n\n{text}\nThe pipeline is no longer valid."

    def fail(self: JpegDecoder) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(JpegDecoder, "result", fail)
    with pytest.raises(TrainingError, match=re.escape(f"({text.splitlines()[0]}). alexnet-fast verify")):
        load(jpeg_shards, some_rows(ShardSet(jpeg_shards).split("train")))


def test_a_split_s_evaluations_share_one_dali_pipeline(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same images; and only after one that came to its end, since DALI still has the batches of others."""
    from alexnet_fast.loading.dali import JpegDecoder

    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    made: list[weakref.ref[JpegDecoder]] = []
    init = JpegDecoder.__init__

    def note(self: JpegDecoder, **about: Any) -> None:
        made.append(weakref.ref(self))
        init(self, **about)

    monkeypatch.setattr(JpegDecoder, "__init__", note)
    split = ShardSet(jpeg_shards).split("train")

    def evaluated(split: Split, crop: int = CROP, batches: int = 9) -> list[Batch]:
        return list(islice(Loader.evaluation(split, batch=16, crop=crop), batches))

    first = evaluated(split)
    for _ in range(2):
        for one, other in zip(first, evaluated(split), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
    assert len(made) == 1
    assert len(evaluated(split, crop=64)) == len(evaluated(split, crop=64)) == 4
    assert len(made) == 2
    evaluated(split, crop=64, batches=1)
    assert torch.equal(evaluated(split, crop=64)[0].images, evaluated(split, crop=64)[0].images)
    assert len(made) == 3
    del first, one, other, split
    gc.collect()
    assert [ref() for ref in made] == [None] * 3


@pytest.mark.usefixtures("decoding")
@pytest.mark.parametrize("encoding", ["jpeg", "raw", "mixed"])
def test_images_equal_pillow_s(encoding: str, request: pytest.FixtureRequest) -> None:
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    shard_set = ShardSet(shards)
    split = shard_set.split("train")
    seen_mirrored = 0
    for batch in load(shards, some_rows(split)):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for i in range(len(batch.labels)):
            difference = batch.images[i].numpy() - expected_image(split, shard_set.manifest.pixels, batch.rows, i)
            # raw: float32 rounding alone; JPEG: both decoders are libjpeg-turbo, give or take a grey level
            is_raw = split.raw[batch.rows.samples[i]]
            assert np.abs(difference).max() < (1e-3 if is_raw else 2.01)
            assert np.abs(difference).mean() < (1e-4 if is_raw else 0.1)
            assert batch.labels[i] == split.labels[batch.rows.samples[i]]
            seen_mirrored += bool(batch.rows.mirror[i])
    assert 0 < seen_mirrored < len(split)


def test_every_sample_once_for_one_and_two_ranks(jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")
    for world in (1, 2):
        seen = [
            batch.rows.samples
            for rank in range(world)
            for batch in load(jpeg_shards, some_rows(split, rank=rank, world_size=world))
        ]
        assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(len(split)))


@pytest.mark.usefixtures("decoding")
def test_pixels_do_not_depend_on_threads_batches_or_ranks(jpeg_shards: Path) -> None:
    split = ShardSet(jpeg_shards).split("train")

    def by_sample(batches: list[Batch]) -> dict[int, torch.Tensor]:
        return {
            int(sample): image
            for batch in batches
            for sample, image in zip(batch.rows.samples, batch.images, strict=True)
        }

    reference = by_sample(load(jpeg_shards, some_rows(split), threads=1))
    others = [
        by_sample(load(jpeg_shards, some_rows(split, batch=7), threads=3)),
        by_sample([b for r in (0, 1) for b in load(jpeg_shards, some_rows(split, rank=r, world_size=2))]),
    ]
    for other in others:
        assert other.keys() == reference.keys()
        assert all(torch.equal(other[sample], image) for sample, image in reference.items())


def test_stream_runs_on_over_epochs(jpeg_shards: Path) -> None:
    rows = some_rows(ShardSet(jpeg_shards).split("train"), epochs=3)
    batches = load(jpeg_shards, rows)
    assert [(b.rows.epoch, b.rows.step) for b in batches] == [(r.epoch, r.step) for r in rows]


def test_evaluation_order_and_centre_crop(raw_shards: Path) -> None:
    shard_set = ShardSet(raw_shards)
    split, mean = shard_set.split("train"), np.array(shard_set.manifest.pixels.mean)
    batches = load(raw_shards, list(evaluation_rows(len(split), 7, boxes=Boxes(split.size, CROP))))
    assert np.array_equal(np.concatenate([b.rows.samples for b in batches]), np.arange(len(split)))
    edge = (split.size - CROP) // 2
    centre_crop = stored_image(split, 0)[edge : edge + CROP, edge : edge + CROP]
    assert np.allclose(batches[0].images[0].numpy(), (centre_crop - mean).transpose(2, 0, 1), atol=1e-3)


def test_whole_stored_image(raw_shards: Path) -> None:
    split = ShardSet(raw_shards).split("train")
    (batch, *_) = load(
        raw_shards, list(evaluation_rows(len(split), 4, boxes=Boxes(split.size, split.size))), crop=split.size
    )
    assert batch.images.shape == (4, 3, split.size, split.size)


@pytest.mark.usefixtures("decoding")
def test_mirroring_whole_stored_images_leaves_the_tar_alone(raw_shards: Path) -> None:
    """Mirroring is in place: it must not reach the mapped file, even where nothing is cropped."""
    split = ShardSet(raw_shards).split("train")
    before = stored_image(split, 0)
    rows = list(training_rows(len(split), 16, 0, boxes=Boxes(split.size, split.size), colour_std=0.1))
    assert any(r.mirror.any() for r in rows)
    load(raw_shards, rows, crop=split.size)
    assert np.array_equal(stored_image(split, 0), before)


def test_jpegs_come_first_and_of_each_kind_the_mirrored_last() -> None:
    (rows,) = training_rows(40, 40, 0, boxes=Boxes(96, 64), colour_std=0.1)
    decoded = np.arange(40) % 3 != 0
    order = arranged(rows, decoded)
    assert np.array_equal(np.sort(order), np.arange(40))
    kinds = [(not decoded[i], bool(rows.mirror[i])) for i in order]
    assert kinds == sorted(kinds)
    assert len(set(kinds)) == 4


@pytest.mark.parametrize("upright", [0, 11, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_centre_by_hand(upright: int, dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (40, 5, 6, 3), dtype=torch.uint8)
    offset = torch.rand(40, 3) * 200
    expected = pixels.permute(0, 3, 1, 2).float() - offset[:, :, None, None]
    expected[upright:] = expected[upright:].flip(3)
    unchanged = (expected + offset[:, :, None, None]).round().byte()
    copy = pixels.clone()
    centre(copy, upright, offset, copy)
    assert torch.equal(copy.permute(0, 3, 1, 2), unchanged)
    out = torch.empty(pixels.shape, dtype=dtype)
    centre(pixels, upright, offset, out)
    torch.testing.assert_close(out.permute(0, 3, 1, 2), expected.to(dtype))


def test_the_next_batch_is_begun_before_this_one_is_waited_for(
    raw_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first, which waits for no other; and it is decoded while this one is used."""
    split = ShardSet(raw_shards).split("train")
    begun: list[cpu.Cut] = []
    events: list[tuple[str, int]] = []
    submit, result = cpu.CropReader.submit, cpu.Cut.result

    def begin(*arguments: Any) -> cpu.Cut:
        events.append(("begin", len(begun)))
        begun.append(submit(*arguments))
        return begun[-1]

    def wait(cut: cpu.Cut) -> torch.Tensor:
        events.append(("wait", [one is cut for one in begun].index(True)))
        return result(cut)

    monkeypatch.setattr(cpu.CropReader, "submit", begin)
    monkeypatch.setattr(cpu.Cut, "result", wait)
    for number, _ in enumerate(Loader.training(split, batch=12, crop=CROP)):
        events.append(("use", number))
    when = {event: place for place, event in enumerate(events)}
    assert len(when) == 3 * 5
    assert when["wait", 0] < when["begin", 1] < when["use", 0]
    for number in (1, 2, 3):
        assert when["begin", number + 1] < when["wait", number] < when["use", number]


def test_pages_are_prefetched_once_until_one_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = 3
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_majflt=waits))
    requests = PageRequests(9)
    assert [requests.new(np.array(samples)).tolist() for samples in ([5, 3], [3, 7], [7, 5])] == [[5, 3], [7], []]
    waits += 1
    assert requests.new(np.array([7, 8])).tolist() == [7, 8]


def test_the_loaders_of_a_split_prefetch_a_page_once(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_majflt=3))
    split = ShardSet(jpeg_shards).split("train")
    offsets: list[int] = []
    monkeypatch.setattr(split._tars, "prefetch", lambda ranges: offsets.extend(ranges.offsets))
    for epoch in range(2):
        list(Loader.training(split, batch=16, epoch=epoch, crop=CROP))
        assert sorted(offsets) == sorted(split.index["offset"].tolist())


def test_leases_are_given_back(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a loop that is left early: all of the batches that were announced."""
    split = ShardSet(jpeg_shards).split("train")
    given_back: list[list[int]] = []

    def lease(samples: NDArray[np.int64]) -> ExitStack:
        lease = ExitStack()
        lease.callback(given_back.append, samples.tolist())
        return lease

    monkeypatch.setattr(split, "lease", lease)
    rows = [row.samples.tolist() for row in some_rows(split, batch=6)]
    prefetcher = iter(Prefetcher(split, some_rows(split, batch=6), whole_tars=False))
    for step in range(4):
        next(prefetcher)
        assert given_back == rows[:step]  # the one in use is still held
    prefetcher.close()
    assert given_back == rows
    given_back.clear()
    for _ in Loader.training(split, batch=6, crop=CROP):
        break
    assert sorted(given_back) == sorted(rows)


def test_bytes_are_prefetched_batches_before_they_are_read(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = ShardSet(jpeg_shards).split("train")
    rows = some_rows(split, batch=6)
    read, asked, asked_before = split.read, list[NDArray[np.int64]](), list[int]()

    def note_read(samples: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
        asked_before.append(len(asked))
        return read(samples)

    monkeypatch.setattr(split, "read", note_read)
    monkeypatch.setattr(split, "prefetch", asked.append)
    assert len(list(Pipeline(split, rows, max_batch=6, crop=CROP, device=torch.device("cpu")))) == 10
    assert asked_before == [5, 6, 7, 8, 9, 10, 10, 10, 10, 10]
    assert all(np.array_equal(samples, row.samples) for samples, row in zip(asked, rows, strict=True))


def test_in_a_window_s_order_whole_tars_are_prefetched(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once an epoch, when its first sample comes up."""
    split = ShardSet(jpeg_shards).split("train")
    opened: list[int] = []
    monkeypatch.setattr(split, "prefetch_tars", opened.extend)
    monkeypatch.setattr(split, "prefetch", None)
    for epoch in range(2):
        opened.clear()
        for step, batch in enumerate(Loader.training(split, batch=1, epoch=epoch, crop=CROP, window=2)):
            assert {*split.index["shard"][batch.rows.samples].tolist()} <= {*opened}
            assert step or len(opened) < 4
        assert sorted(opened) == [0, 1, 2, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's count of a thread's page faults")
def test_a_tar_that_was_prefetched_is_not_waited_for(tmp_path: Path) -> None:
    """To the end: of one request for all of it Linux would read as much as it reads ahead."""
    path, size = tmp_path / "a.tar", 32 << 20
    path.write_bytes(os.urandom(size))

    def waits(ask: Callable[[NDArray[np.uint8]], None]) -> int:
        """Page faults for which a disk was waited for, of a tar that is not in memory."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        tar = map_tar(path, size)
        ask(tar)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
        tar[:: mmap.PAGESIZE].sum()
        return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - before

    alone = waits(lambda tar: None)
    if not alone:
        pytest.skip("this file system is in memory")
    assert waits(prefetch) <= alone / 20  # a busy disk may turn a request down
