"""The iterator: rows of the plan in, batches on the training device out."""

from __future__ import annotations

import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.errors import InputError, TrainingError
from alexnet_fast.loading.corruption import Sentry
from alexnet_fast.loading.cpu import KINDS, CropReader, Cut
from alexnet_fast.loading.pixels import centre, one_thread
from alexnet_fast.loading.plan import Rows, Window, evaluation_rows, training_rows
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding.jpeg_header import check_stored_jpeg
from alexnet_fast.shards.format import Pixels
from alexnet_fast.shards.reader import Split

if TYPE_CHECKING:
    from alexnet_fast.loading.dali import JpegDecoder

PREFETCH = 2
"""Batches under way besides the one in use."""
TARS_AHEAD = 64
"""Batches whose tars a remote set is told to fetch."""
SHARES = 8
"""The host's share of a GPU's JPEGs is measured in this many parts."""
PAGES_AHEAD = 4
"""Batches whose bytes the system is asked for before they are read: a disk then has a queue to work on."""


@dataclass(frozen=True)
class Batch:
    """`images` (n, 3, crop, crop) in channels-last memory, RGB 0-255 minus the mean; `labels` (n,) int64.

    The order inside a batch is the loader's: `rows` says which sample each image is.
    """

    images: torch.Tensor
    labels: torch.Tensor
    rows: Rows


class Loader:
    """Iterates once over `rows`; stateless otherwise, so a resumed run just passes the rows still to come.

    `pixels`: whose mean and colours to use. `max_batch`: the most rows one item holds. `crop`: side of the images,
    pixels. `dtype`: of the images; uint8 leaves out the mean and the colour. `threads`: that decode on the CPU.
    `strict`: a damaged image keeps its place with the label UNLABELLED, so that no prediction is right; otherwise
    a neighbour takes its place. `damaged` names them, by sample number.
    `host_share`: of the JPEGs that train on a GPU, the share that the host's threads decode beside it. Measured when
    iterating begins; the two decoders' pixels differ by a few grey levels. With `strict` it is 0: an evaluation gives
    the same each time.
    `whole_tars`: the rows are in a window's order, so each tar is read from end to end when its first sample comes up.
    `wait_seconds` sums the time the consumer spent waiting in this iterator.

    Iterating raises TrainingError when more than 0.1 % of the split are damaged, InputError where there are JPEGs
    and nothing to decode them.
    """

    def __init__(
        self,
        split: Split,
        pixels: Pixels,
        rows: Iterable[Rows],
        *,
        max_batch: int,
        crop: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
        strict: bool = False,
        whole_tars: bool = False,
    ) -> None:
        self.wait_seconds = 0.0
        self.host_share = 0.0
        self._split = split
        self._sentry = Sentry(split, strict)
        self._strict = strict
        self._may_be_decoded = np.zeros(len(split), bool)
        self._whole_tars = whole_tars
        self._rows = rows
        self._crop = crop
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._device = device
        self._dtype = dtype
        self._threads = threads
        self._max_batch = max_batch
        self._mean = np.array(pixels.mean, np.float32)
        self._colour_axes = (np.array(pixels.deviations)[:, None] * pixels.components).astype(np.float32)
        self._at = ("starting", np.zeros(0, np.int64))
        """The stage it is in, and the samples of that."""

    @classmethod
    def training(
        cls,
        split: Split,
        *,
        batch: int,
        epoch: int = 0,
        first_step: int = 0,
        crop: int = 224,
        seed: int = 0,
        colour_std: float = 0.1,
        window: int | None = None,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> Loader:
        """One epoch for a training loop of one's own: a pure function of (seed, epoch), from `first_step` on.

        `batch` counts the images of a step over all `world` ranks. `window`: tars open at a time, for disks that want
        sequential reads; None: a global shuffle. See `epoch_plan` for `colour_std`.
        """
        rows = training_rows(
            len(split),
            batch,
            seed,
            margin=split.size - crop,
            colour_std=colour_std,
            window=Window(split.index["shard"], window) if window else None,
            rank=rank,
            world=world,
            epochs=range(epoch, epoch + 1),
            first_step=first_step,
        )
        return cls(
            split,
            split.pixels,
            rows,
            max_batch=-(-batch // world),
            crop=crop,
            device=torch.device(device),
            dtype=dtype,
            threads=threads,
            whole_tars=bool(window),
        )

    @classmethod
    def evaluation(
        cls,
        split: Split,
        *,
        batch: int = 256,
        crop: int = 224,
        rank: int = 0,
        world: int = 1,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
    ) -> Loader:
        """Every image once in stored order, its central crop; `batch` is one rank's. Subtracts the split's own set's
        mean; a damaged image has the label -1."""
        rows = evaluation_rows(len(split), batch, margin=split.size - crop, rank=rank, world=world)
        return cls(
            split,
            split.pixels,
            rows,
            max_batch=batch,
            crop=crop,
            device=torch.device(device),
            dtype=dtype,
            threads=threads,
            strict=True,
        )

    @property
    def damaged(self) -> dict[int, str]:
        return self._sentry.found

    def waits_for(self) -> str:
        """In words, for another thread while no batch comes: the stage, and the file or URL that cannot be read."""
        stage, samples = self._at
        missing = self._split.missing(samples)
        files = f"{missing} does not come" if missing else "all their files can be read"
        return f"the loader is {stage} {len(samples):,} images; {files}"

    def __iter__(self) -> Iterator[Batch]:
        if self._device.type == "cpu":
            keep_freed_memory()
        decoder: JpegDecoder | None = None
        if not self._split.raw.all() and needs_dali(self._device):
            check_dali()
            from alexnet_fast.loading.dali import JpegDecoder  # DALI takes a second to import

            decoder = JpegDecoder(
                crop=self._crop,
                max_batch=self._max_batch,
                threads=self._threads,
                gpu=self._device.index if self._device.type == "cuda" else None,
                prefetch=PREFETCH,
            )
        reader = CropReader(
            side=self._split.size, crop=self._crop, threads=self._threads, pinned=self._device.type == "cuda"
        )
        coming = self._asked_ahead()
        if decoder and native.decoder() != "none" and not self._strict and (first := next(coming, None)):
            coming = chain([first], coming)
            self.host_share = self._measured_share(first, decoder, reader)
        under_way: deque[_UnderWay] = deque()
        wanted = 1  # the first batch waits for no other
        process_ends = sys.is_finalizing  # by then `sys` may have been cleared
        try:
            while True:
                started = perf_counter()
                while len(under_way) < wanted and (rows := next(coming, None)) is not None:
                    under_way.append(self._submit(rows, decoder, reader))
                wanted = PREFETCH
                if not under_way:
                    return
                work = under_way.popleft()
                self._at = "decoding", work.rows.samples
                with self._decoding():
                    jpegs = decoder.result() if work.jpegs and decoder else None
                    cut = work.cut.result() if work.cut else None
                if (rows := next(coming, None)) is not None:  # the threads go on during the pass over the pixels
                    under_way.append(self._submit(rows, decoder, reader))
                self._at = "copying", work.rows.samples
                images = self._joined(work, jpegs, cut)
                batch = Batch(images, self._on_device(work.labels), work.rows)
                self.wait_seconds += perf_counter() - started
                yield batch
        finally:
            if not process_ends():  # else the threads have ended, and what would end them is gone
                reader.close()

    def _asked_ahead(self) -> Iterator[Rows]:
        """The rows; tars and, nearer their use, pages are asked for ahead."""
        expected = _ahead(iter(self._rows), TARS_AHEAD, lambda rows: self._split.expect(rows.samples))
        if self._whole_tars:
            return _ahead(expected, PAGES_AHEAD, lambda rows: self._split.ask_for_tars(rows.samples, rows.epoch))
        return _ahead(expected, PAGES_AHEAD, lambda rows: self._split.ask_for(rows.samples))

    def _measured_share(self, rows: Rows, decoder: JpegDecoder, reader: CropReader) -> float:
        """By the time that each of the two takes for the same images."""
        self._at = "reading", rows.samples
        sound, _ = self._sentry.sound(rows)
        jpegs = [stored for stored in self._split.read(sound.samples) if stored.ndim == 1]
        n = len(jpegs)
        if not n:
            return 0.0

        def finish() -> None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        def on_device() -> None:
            decoder.submit(jpegs, np.zeros((n, 2), np.float32))
            decoder.result()
            finish()

        def on_host() -> None:
            cut = reader.submit(jpegs, np.zeros((n, 2), np.uint16), n, torch.zeros(n, 3), torch.uint8)
            self._on_device(cut.result())
            finish()

        with self._decoding():
            device_seconds, host_seconds = _seconds_of_second(on_device), _seconds_of_second(on_host)
        return round(SHARES * device_seconds / (device_seconds + host_seconds)) / SHARES

    def _submit(self, rows: Rows, decoder: JpegDecoder | None, reader: CropReader) -> _UnderWay:
        self._at = "reading", rows.samples
        rows, labels = self._sentry.sound(rows)
        decoded = ~self._split.raw[rows.samples] if decoder else np.zeros(len(rows.samples), bool)
        decoded &= decoded.cumsum() > round(self.host_share * decoded.sum())
        order = arranged(rows, decoded)
        rows = _taken(rows, order)
        jpegs = int(decoded.sum())
        stored = self._split.read(rows.samples)
        offset = torch.from_numpy(self._mean - rows.colour @ self._colour_axes)
        if jpegs and decoder:
            self._check(rows.samples[:jpegs], stored[:jpegs])
            margin = np.float32(max(self._split.size - self._crop, 1))
            decoder.submit(stored[:jpegs], rows.crop[:jpegs].astype(np.float32) / margin)
        cut = None
        if jpegs < len(stored):
            dtype = self._dtype if self._device.type == "cpu" and self._dtype in KINDS else torch.uint8
            upright = int((~rows.mirror[jpegs:]).sum())
            cut = reader.submit(stored[jpegs:], rows.crop[jpegs:], upright, offset[jpegs:], dtype)
        return _UnderWay(rows, torch.from_numpy(labels[order]), jpegs, offset, cut)

    def _check(self, samples: NDArray[np.int64], stored: list[NDArray[np.uint8]]) -> None:
        """What native/crops.c looks at before it decodes, for DALI, once a sample. Raises TrainingError."""
        for i in np.flatnonzero(~self._may_be_decoded[samples]).tolist():
            with self._decoding():
                check_stored_jpeg(stored[i].tobytes(), crop=self._crop, side=self._split.size)
        self._may_be_decoded[samples] = True

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"an image of the split {self._split.name} does not decode, though its bytes were what was written "
                f"({str(error).splitlines()[0]}). alexnet-fast verify names it; make the shard set again."
            ) from error

    def _joined(self, work: _UnderWay, jpegs: torch.Tensor | None, cut: torch.Tensor | None) -> torch.Tensor:
        """The batch in channels-last memory, (n, 3, crop, crop)."""
        cut = None if cut is None else self._on_device(cut)
        if jpegs is None and cut is not None and cut.dtype == self._dtype:
            return cut.permute(0, 3, 1, 2)
        upright, offset = int((~work.rows.mirror[: work.jpegs]).sum()), self._on_device(work.offset)
        with one_thread():
            if cut is None and jpegs is not None and self._dtype == torch.uint8:
                images = jpegs
                centre(jpegs, upright, offset, images)
            else:
                shape = (len(work.rows.samples), self._crop, self._crop, 3)
                images = torch.empty(shape, dtype=self._dtype, device=self._device)
                if jpegs is not None:
                    centre(jpegs, upright, offset[: work.jpegs], images[: work.jpegs])
                if cut is not None and cut.dtype == self._dtype:
                    images[work.jpegs :] = cut
                elif cut is not None:  # mirrored already
                    centre(cut, len(cut), offset[work.jpegs :], images[work.jpegs :])
        return images.permute(0, 3, 1, 2)

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy to a GPU goes by a stream of its own: beside the step under way, not behind it."""
        if self._device.type != "cuda":
            return tensor.to(self._device)
        copies, current = _copy_stream(self._device), torch.cuda.current_stream(self._device)
        with torch.cuda.stream(copies):  # torch notes it: page-locked memory is not used again before it is copied
            copy = tensor.to(self._device, non_blocking=True)
        current.wait_stream(copies)
        copy.record_stream(current)
        return copy


@dataclass(frozen=True)
class _UnderWay:
    """The first `jpegs` of `rows`, all of them JPEGs, are with DALI's decoder, the others with the reader."""

    rows: Rows
    labels: torch.Tensor
    jpegs: int
    offset: torch.Tensor
    cut: Cut | None


def needs_dali(device: torch.device) -> bool:
    """Whether DALI is what decodes JPEGs there: on a GPU, and on a CPU without a native decoder."""
    return device.type != "cpu" or native.decoder() == "none"


def check_dali() -> None:
    """Raises InputError where DALI is not installed."""
    if find_spec("nvidia") is None or find_spec("nvidia.dali") is None:  # nvidia: other wheels may bring it
        raise InputError(
            "DALI, which decodes the JPEGs of training on GPUs and where nothing was compiled, is not installed. "
            f"There are wheels for glibc's Linux on x86_64 and aarch64 (this is {platform.machine()}): pip install "
            "nvidia-dali-cuda120. Elsewhere use the Docker image, or shard with --encoding raw, which needs no decoder."
        )


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all loaders of a GPU: torch keeps freed memory for the stream that it was of."""
    return torch.cuda.Stream(device)


def _seconds_of_second(work: Callable[[], None]) -> float:
    """The first time prepares what is used again."""
    work()
    started = perf_counter()
    work()
    return perf_counter() - started


def arranged(rows: Rows, decoded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of the rows: those for DALI first, and of each kind the mirrored last: a slice to flip."""
    return np.lexsort((rows.mirror, ~decoded))


def _taken(rows: Rows, order: NDArray[np.int64]) -> Rows:
    columns = {name: getattr(rows, name)[order] for name in ("samples", "crop", "mirror", "colour")}
    return replace(rows, **columns)


def _ahead(rows: Iterator[Rows], batches: int, announce: Callable[[Rows], None]) -> Iterator[Rows]:
    """The rows; each was announced `batches` batches before."""
    waiting: deque[Rows] = deque()
    for one in rows:
        announce(one)
        waiting.append(one)
        if len(waiting) > batches:
            yield waiting.popleft()
    yield from waiting
