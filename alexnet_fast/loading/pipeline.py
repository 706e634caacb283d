"""Rows of the plan in, batches on the training device out."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_fast.errors import TrainingError
from alexnet_fast.loading.batch import Batch
from alexnet_fast.loading.corruption import CorruptionFilter
from alexnet_fast.loading.cpu import KINDS, Cut
from alexnet_fast.loading.decoders import PREFETCH, Decoder, Decoders
from alexnet_fast.loading.effects import augmented
from alexnet_fast.loading.handover import arranged, copied, joined
from alexnet_fast.loading.idle import IdleTime, moments
from alexnet_fast.loading.plan import Rows
from alexnet_fast.loading.prefetch import Prefetcher
from alexnet_fast.loading.share import ShareTrials
from alexnet_fast.memory import keep_freed_memory
from alexnet_fast.sharding.jpeg_header import check_stored_jpeg
from alexnet_fast.shards.reader import Split


class Pipeline:
    """Reads, decodes and hands over the batches of `rows`, each of at most `max_batch` samples. It can be iterated over
    as often as `rows`. The other arguments are those of `Loader`'s constructors.

    `resized`: whether any of the rows' boxes may have another size than the crop.
    `strict`: a corrupt sample keeps its place with the label UNLABELLED; otherwise a neighbour takes its place.
    `whole_tars`: the rows are in a shuffle window's order, so tars are prefetched from end to end.
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
        self._split = split
        self._filter = CorruptionFilter(split, strict)
        self._strict = strict
        self._may_be_decoded = np.zeros(len(split), bool)
        self._coming = Prefetcher(split, rows, whole_tars=whole_tars)
        self._crop, self._resized = crop, resized
        self._idle = IdleTime()
        self._device = torch.device(device)
        if self._device.type == "cuda" and self._device.index is None:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._dtype = dtype
        self._decoders = Decoders(
            split,
            crop=crop,
            resized=resized,
            max_batch=max_batch,
            device=self._device,
            threads=threads,
            strict=strict,
        )
        self._mean = np.array(split.pixels.mean if mean is None else mean, np.float32)
        std = np.array(split.pixels.deviations)
        self._colour_axes = (std[:, None] * split.pixels.components).astype(np.float32)
        self._at = ("starting", np.zeros(0, np.int64))
        """The stage it is in, and the samples of that."""

    @property
    def corrupt(self) -> dict[int, str]:
        """The names of the corrupt samples met so far, by number."""
        return self._filter.found

    @property
    def wait_seconds(self) -> float:
        """The time that the device has had nothing to do because no batch was there, the first one left out: on a GPU
        up to the last batch that it has begun."""
        return self._idle.seconds

    @property
    def trials(self) -> ShareTrials | None:
        """Of the share of the JPEGs that the host decodes beside a GPU; None where nothing is to be tried."""
        return self._decoders.trials

    def waits_for(self) -> str:
        """Why no batch comes, in words, for another thread: the stage, and the file or URL that cannot be read."""
        stage, samples = self._at
        missing = self._split.missing(samples)
        files = f"{missing} does not come" if missing else "all their files can be read"
        return f"the loader is {stage} {len(samples):,} images; {files}"

    def __iter__(self) -> Iterator[Batch]:
        if self._device.type == "cpu":
            keep_freed_memory()
        leased = iter(self._coming)
        under_way: deque[_UnderWay] = deque()
        wanted = 1  # the first batch waits for no other
        now = moments(self._device)
        used: _UnderWay | None = None
        asked = now()
        at_end = False
        process_ends = sys.is_finalizing  # by then `sys` may have been cleared
        try:
            while True:
                before, asked = asked, now()
                # After an epoch's last batch there may be an evaluation
                if used and self.trials and under_way and under_way[0].rows.epoch == used.rows.epoch:
                    self.trials.used(used.decoder.share, len(used.labels), before, asked)
                while len(under_way) < wanted and (rows := next(leased, None)) is not None:
                    under_way.append(self._submit(rows))
                wanted = PREFETCH
                if not under_way:
                    at_end = True
                    return
                work = under_way.popleft()
                self._at = "decoding", work.rows.samples
                cut, jpegs = self._decoded(work)
                if (rows := next(leased, None)) is not None:  # the threads work during the pass over the pixels
                    under_way.append(self._submit(rows))
                self._at = "copying", work.rows.samples
                labels, offset = copied(work.labels, self._device), copied(work.offset, self._device)
                ready = now()
                dtype = self._dtype if work.rows.effects is None else torch.uint8
                images = joined(work.rows, offset, jpegs, cut, dtype=dtype, device=self._device)
                batch = Batch(images, labels, work.rows)
                if work.rows.effects is not None:
                    batch = augmented(batch, offset, self._mean, self._dtype, len(self._split.classes))
                if used:  # the pass over the pixels is the device's work, but on a CPU keeps it from the step
                    self._idle.add(asked, now() if self._device.type == "cpu" else ready)
                used = work
                yield batch
        finally:
            if not process_ends():  # else the threads have ended, and what would end them is gone
                leased.close()
                self._decoders.close(at_end=at_end)

    def _decoded(self, work: _UnderWay) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Returns the crops of the host and those of DALI, on the device."""
        with self._decoding():
            cut = copied(work.cut.result(), self._device) if work.cut else None  # first: its stream waits for DALI
            jpegs = work.decoder.dali.result() if work.jpegs and work.decoder.dali else None
        self._decoders.finish(work.decoder)
        return cut, jpegs

    def _submit(self, rows: Rows) -> _UnderWay:
        self._at = "reading", rows.samples
        rows, labels = self._filter.apply(rows)
        decoder = self._decoders.next()
        decoded = ~self._split.raw[rows.samples]
        decoded &= decoded.cumsum() > round(decoder.share * decoded.sum())
        order = arranged(rows, decoded)
        rows = rows.take(order)
        jpegs = int(decoded.sum())
        stored = self._split.read(rows.samples)
        offset = torch.from_numpy(self._mean - rows.colour @ self._colour_axes)
        sizes = self._split.sizes[rows.samples]
        if jpegs and decoder.dali:
            self._check(rows.samples[:jpegs], stored[:jpegs])
            decoder.dali.submit(stored[:jpegs], sizes[:jpegs], rows.crop[:jpegs])
        cut = None
        if jpegs < len(stored):
            is_final = self._device.type == "cpu" and self._dtype in KINDS and rows.effects is None
            dtype = self._dtype if is_final else torch.uint8
            upright = int((~rows.mirror[jpegs:]).sum())
            boxes, shift = rows.crop[jpegs:], offset[jpegs:]
            cut = decoder.reader.submit(stored[jpegs:], sizes[jpegs:], boxes, upright, shift, dtype)
        return _UnderWay(rows, torch.from_numpy(labels[order]), jpegs, offset, cut, decoder)

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
                f"({_reason(error)}). alexnet-fast verify names it; make the shard set again."
            ) from error


@dataclass(frozen=True)
class _UnderWay:
    """The first `jpegs` of `rows`, all of them JPEGs, are with DALI's decoder, the others with the reader."""

    rows: Rows
    labels: torch.Tensor
    jpegs: int
    offset: torch.Tensor
    cut: Cut | None
    decoder: Decoder


def _reason(error: Exception) -> str:
    """The line of an error that says what is wrong: DALI's follows where in our code, and "encountered:"."""
    text = str(error)
    return (text.partition("encountered:")[2] or text).strip().partition("\n")[0]
