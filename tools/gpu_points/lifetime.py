"""Point 3: no batch's memory is used again before the GPU has read it, however far the host is ahead."""

from __future__ import annotations

import torch

from tools.gpu_points.batches import fix_share, loader
from tools.gpu_points.setup import Results, Setup
from tools.gpu_points.timing import finish, milliseconds

QUEUED_MS = 50
"""Work that is queued before a batch is read: by the time it ends, the host has taken several more batches."""
SHARES = 0.0, 0.5, 1.0
"""Of the JPEGs, decoded by the host."""


def run(setup: Setup, results: Results) -> None:
    """Raises AssertionError where a batch that is read late differs from the same one read at once, twice."""
    square = torch.randn((4096, 4096) if setup.on_gpu else (64, 64), device=setup.device).bfloat16()
    once = milliseconds(lambda: square @ square, setup)["median"]
    times = max(round(QUEUED_MS / once), 1) if setup.on_gpu else 1
    results.put("queued before each batch, ms", times * once)
    counts: dict[str, dict[str, int]] = {}
    for encoding, share in [*(("jpeg", share) for share in SHARES), ("raw", 0.0)]:
        at_once, again, late = (sums(setup, encoding, share, square, queued) for queued in (0, 0, times))
        assert len(set(at_once)) > 1, "all batches have one checksum"
        same = [late[i] == at_once[i] for i in range(len(late)) if at_once[i] == again[i]]
        unstable = len(late) - len(same)  # of a decoder that does not give the same pixels each time
        counts[f"{encoding}, host share {share:g}"] = {
            "batches": len(late),
            "differ late": same.count(False),
            "differ at once": unstable,
        }
        results.put("checksums", counts)
    assert not any(one["differ late"] for one in counts.values()), f"batches differ: {counts}"


def sums(setup: Setup, encoding: str, share: float, square: torch.Tensor, queued: int) -> list[int]:
    """A checksum of each batch, computed on the device: behind `queued` products of `square`, or with none, waited
    for before the next batch is taken."""
    count, batch = (50, 256) if setup.on_gpu else (3, 8)
    source = loader(setup, encoding, batch)
    fix_share(source, share)
    batches = iter(source)
    weights = torch.arange(setup.crop * setup.crop * 3, device=setup.device) % 8191 + 1
    found = []
    for _ in range(count):
        for _ in range(queued):
            torch.mm(square, square)
        item = next(batches)
        # Exact and in no order: the bits of each number as an integer, times its place.
        bits = item.images.permute(0, 2, 3, 1).reshape(len(item.labels), -1).view(torch.int16).long()
        found.append((bits * weights).sum() + 7 * item.labels.sum())
        del item, bits
        if not queued:
            finish(setup)
    checksums: list[int] = torch.stack(found).tolist()
    return checksums
