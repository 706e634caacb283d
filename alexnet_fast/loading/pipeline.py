"""Rows of the plan in, batches on the training device out."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast import native
from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.checks import check_dali, needs_dali
from alexnet_fast.loading.corruption import CorruptionFilter
from alexnet_fast.loading.cpu import KINDS, CropReader, Cut
from alexnet_fast.loading.effects import augmented
from alexnet_fast.loading.handover import arranged, copied, joined
from alexnet_fast.loading.plan import Rows
from alexnet_fast.loading.prefetch import Prefetcher
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding.jpeg_header import check_stored_jpeg
from alexnet_fast.shards.reader import Split

if TYPE_CHECKING:
    from alexnet_fast.loading.dali import JpegDecoder

PREFETCH = 2
"""Batches under way besides the one in use."""


class Pipeline:
    """Reads, decodes and hands over the batches of `rows`, each of at most `max_batch` samples. It can be iterated over
    as often as `rows`. The other arguments are those of `Loader`'s constructors.

    `resized`: whether any of the rows' boxes may have another size than the crop.
    `strict`: a corrupt sample keeps its place with the label UNLABELLED; otherwise a neighbour takes its place.
    `whole_tars`: the rows are in a shuffle window's order, so tars are prefetched from end to end.
    `host_share`: of the JPEGs that train on a GPU, the share that the host's threads decode beside it, measured when
    iterating begins. The two decoders' pixels differ by a few grey levels: it is 0 in an evaluation, which is to give
    the same each time.
    `wait_seconds`: the time that the consumer has spent waiting in this iterator.
    """

    def __init__(
        self,
        split: Split,
        rows: Iterable[Rows],
        *,
        max_batch: int,
        crop: int,
        resized: bool = False,
        device: str | torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int = 2,
        mean: list[float] | None = None,
        strict: bool = False,
        whole_tars: bool = False,
    ) -> None:
        self.wait_seconds = 0.0
        self.host_share = 0.0
        self._split = split
        self._filter = CorruptionFilter(split, strict)
        self._strict = strict
        self._may_be_decoded = np.zeros(len(split), bool)
        self._coming = Prefetcher(split, rows, whole_tars=whole_tars)
        self._crop, self._resized = crop, resized
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._dtype = dtype
        self._threads = threads
        self._max_batch = max_batch
        self._mean = np.array(split.pixels.mean if mean is None else mean, np.float32)
        std = np.array(split.pixels.deviations)
        self._colour_axes = (std[:, None] * split.pixels.components).astype(np.float32)
        self._at = ("starting", np.zeros(0, np.int64))
        """The stage it is in, and the samples of that."""

    @property
    def corrupt(self) -> dict[int, str]:
        """The names of the corrupt samples met so far, by number."""
        return self._filter.found

    def waits_for(self) -> str:
        """Why no batch comes, in words, for another thread: the stage, and the file or URL that cannot be read."""
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
                resized=self._resized,
                max_batch=self._max_batch,
                threads=self._threads,
                gpu=self._device.index if self._device.type == "cuda" else None,
                prefetch=PREFETCH,
            )
        reader = CropReader(crop=self._crop, threads=self._threads, pinned=self._device.type == "cuda")
        leased = iter(self._coming)
        coming: Iterator[Rows] = leased
        if decoder and native.decoder() != "none" and not self._strict and (first := next(coming, None)):
            coming = chain([first], leased)
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
                if (rows := next(coming, None)) is not None:  # the threads work during the pass over the pixels
                    under_way.append(self._submit(rows, decoder, reader))
                self._at = "copying", work.rows.samples
                dtype = self._dtype if work.rows.effects is None else torch.uint8
                images = joined(work.rows, work.offset, jpegs, cut, dtype=dtype, device=self._device)
                batch = Batch(images, copied(work.labels, self._device), work.rows)
                if work.rows.effects is not None:
                    batch = augmented(batch, work.offset, self._mean, self._dtype, len(self._split.classes))
                self.wait_seconds += perf_counter() - started
                yield batch
        finally:
            if not process_ends():  # else the threads have ended, and what would end them is gone
                leased.close()
                reader.close()

    def _measured_share(self, rows: Rows, decoder: JpegDecoder, reader: CropReader) -> float:
        self._at = "reading", rows.samples
        intact, _ = self._filter.apply(rows)
        intact = intact.take(np.flatnonzero(~self._split.raw[intact.samples]))
        jpegs, sizes = self._split.read(intact.samples), self._split.sizes[intact.samples]
        with self._decoding():
            return decoder.host_share(jpegs, sizes, intact.crop, reader, self._device)

    def _submit(self, rows: Rows, decoder: JpegDecoder | None, reader: CropReader) -> _UnderWay:
        self._at = "reading", rows.samples
        rows, labels = self._filter.apply(rows)
        decoded = ~self._split.raw[rows.samples] if decoder else np.zeros(len(rows.samples), bool)
        decoded &= decoded.cumsum() > round(self.host_share * decoded.sum())
        order = arranged(rows, decoded)
        rows = rows.take(order)
        jpegs = int(decoded.sum())
        stored = self._split.read(rows.samples)
        offset = torch.from_numpy(self._mean - rows.colour @ self._colour_axes)
        sizes = self._split.sizes[rows.samples]
        if jpegs and decoder:
            self._check(rows.samples[:jpegs], stored[:jpegs])
            decoder.submit(stored[:jpegs], sizes[:jpegs], rows.crop[:jpegs])
        cut = None
        if jpegs < len(stored):
            is_final = self._device.type == "cpu" and self._dtype in KINDS and rows.effects is None
            dtype = self._dtype if is_final else torch.uint8
            upright = int((~rows.mirror[jpegs:]).sum())
            cut = reader.submit(stored[jpegs:], sizes[jpegs:], rows.crop[jpegs:], upright, offset[jpegs:], dtype)
        return _UnderWay(rows, torch.from_numpy(labels[order]), jpegs, offset, cut)

    def _check(self, samples: NDArray[np.int64], stored: list[NDArray[np.uint8]]) -> None:
        """Raises TrainingError where a JPEG cannot give the crop; once a sample, for DALI: crops.c does it itself."""
        for i in np.flatnonzero(~self._may_be_decoded[samples]).tolist():
            with self._decoding():
                height, width = self._split.sizes[samples[i]].tolist()
                crop = 1 if self._resized else self._crop
                check_stored_jpeg(stored[i].tobytes(), crop=crop, size=(height, width))
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


@dataclass(frozen=True)
class _UnderWay:
    """The first `jpegs` of `rows`, all of them JPEGs, are with DALI's decoder, the others with the reader."""

    rows: Rows
    labels: torch.Tensor
    jpegs: int
    offset: torch.Tensor
    cut: Cut | None
