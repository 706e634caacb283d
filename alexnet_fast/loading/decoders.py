"""DALI's decoder and the host's threads, and which of them decodes how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from alexnet_fast import native
from alexnet_fast.loading.checks import check_dali, needs_dali
from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.loading.share import ShareTrials, host_threads
from alexnet_fast.shards.format import SQUARE
from alexnet_fast.shards.reader import Split

if TYPE_CHECKING:
    from alexnet_fast.loading.dali import JpegDecoder

PREFETCH = 2
"""Batches under way besides the one in use."""


@dataclass
class Decoder:
    """`share`: of the JPEGs, what `reader` on the host decodes; `dali` decodes the others. `batches`: under way."""

    share: float
    reader: CropReader
    dali: JpegDecoder | None
    batches: int = 0

    def close(self) -> None:
        self.reader.close()
        if self.dali:
            self.dali.finish()


class Decoders:
    """The decoder of the next batch: another one when the share changes. Of training on a GPU that is tried out,
    `trials`; of the evaluations, which are to give the same each time, it is 0, since the two decoders' pixels differ
    by a few grey levels. DALI's threads and ours are together no more than `threads`, where that is 2 or more.

    `strict`: an evaluation, whose DALI pipeline is kept for the next one of the split. Raises InputError where DALI is
    needed and not there.
    """

    def __init__(
        self,
        split: Split,
        *,
        crop: int,
        resized: bool,
        max_batch: int,
        device: torch.device,
        threads: int,
        strict: bool,
    ) -> None:
        self.trials: ShareTrials | None = None
        self._split, self._crop, self._threads, self._strict = split, crop, threads, strict
        self._gpu = device.index if device.type == "cuda" else None
        self._raw = float(split.raw.sum() / max(len(split), 1))
        self._has_dali = self._raw < 1 and needs_dali(device)
        if self._has_dali:
            check_dali()
            if native.decoder() != "none" and not strict:
                self.trials = ShareTrials()
        side = split.size if split.shape == SQUARE else None
        self._arguments: dict[str, Any] = {"side": side, "crop": crop, "resized": resized, "max_batch": max_batch}
        self._arguments |= {"gpu": self._gpu, "prefetch": PREFETCH}
        """Of DALI's decoder; `threads` are added."""
        self._open: list[Decoder] = []
        """The newest last."""

    @property
    def share(self) -> float:
        """Of the next batch's JPEGs, 0 to 1: what the host decodes."""
        return self.trials.share if self.trials else float(not self._has_dali)

    def next(self) -> Decoder:
        """Returns the decoder of the next batch, at whose end `finish` is to be called."""
        if not self._open or self._open[-1].share != self.share:
            self._open.append(self._made(self.share))
            self._close_unused()
        self._open[-1].batches += 1
        return self._open[-1]

    def finish(self, decoder: Decoder) -> None:
        """Notes that a batch of the decoder is done; after its last batch it is closed."""
        decoder.batches -= 1
        self._close_unused()

    def close(self, *, at_end: bool) -> None:
        """`at_end`: all batches are done, and none has failed."""
        for decoder in self._open:
            if self._strict and at_end and decoder.dali:
                decoder.dali.finish()
                _KEPT[self._split], decoder.dali = (self._arguments, decoder.dali), None
            decoder.close()
        self._open = []

    def _close_unused(self) -> None:
        for decoder in [one for one in self._open[:-1] if not one.batches]:
            self._open.remove(decoder)
            decoder.close()

    def _made(self, share: float) -> Decoder:
        ours = host_threads(self._threads, share, self._raw) if self._has_dali else self._threads
        on_gpu = self._gpu is not None
        reader = CropReader(crop=self._crop, threads=max(ours, 1), pinned=on_gpu)
        return Decoder(share, reader, self._made_dali(max(self._threads - ours, 1)) if share < 1 else None)

    def _made_dali(self, threads: int) -> JpegDecoder:
        from alexnet_fast.loading.dali import JpegDecoder  # DALI takes a second to import

        self._arguments["threads"] = threads
        kept = _KEPT.pop(self._split, None) if self._strict else None
        return kept[1] if kept and kept[0] == self._arguments else JpegDecoder(**self._arguments)


_KEPT: WeakKeyDictionary[Split, tuple[dict[str, Any], JpegDecoder]] = WeakKeyDictionary()
"""Of each split the DALI pipeline of its last evaluation, and its arguments: to build one takes a second or more."""
