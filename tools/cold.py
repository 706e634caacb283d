"""One epoch from a cold page cache: ours in random order, ours in window order, stock DALI's sequential reader.

    PYTHONPATH=. python tools/cold.py SHARDS [--turns 5] [--threads 2] [--batch 256] [--window 16]
                                      [--out tools/records/DATE_cold_HARDWARE]

Before every measurement, a process of its own (tools/peer_loaders.py), the tars of the split `train` are dropped from
the page cache, and mincore says how much of them is left. Nobody else may have them mapped: such pages stay. The
clock runs from after the first batch nearly to the end of the epoch, never into the next one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np

from alexnet_fast.environment import environment
from alexnet_fast.files import write_json
from alexnet_fast.shards.reader import ShardSet
from tools.peer_loaders import Job, run, summary

DROPPED = 0.01
"""No more of the tars than this may be left in the page cache, else it was not cold."""
PEER = "stock DALI, sequential"


def drop(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(paths: list[Path]) -> float:
    """The part of the files that is in the page cache, by mincore."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = here = 0
    for path in paths:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            flags = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
            arguments = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)))
            if libc.mincore(*arguments, ctypes.c_void_p(flags.ctypes.data)):
                raise OSError(ctypes.get_errno(), "mincore")
            del view
            pages, here = pages + len(flags), here + int((flags & 1).sum())
    return here / pages


def reading(paths: list[Path]) -> float:
    """MB/s of plain sequential reading."""
    started = perf_counter()
    size = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while block := file.read(1 << 22):
                size += len(block)
    return size / 1e6 / (perf_counter() - started)


def best_variant(encoding: str) -> str:
    """Of stock DALI; on a disk the choice hardly matters."""
    return "DALI image_crop, HWC" if encoding == "jpeg" else "DALI numpy, HWC"


def measure(jobs: dict[str, Job], tars: list[Path], turns: int) -> tuple[dict[str, list[float]], list[float]]:
    """Images a second by case, and what was left in the page cache before each measurement."""
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    left = []
    for turn in range(turns):
        for name, job in jobs.items():
            drop(tars)
            left.append(resident(tars))
            rates[name].append(run("rate", job)["images_per_second"])
            print(f"turn {turn + 1}: {name:24s} {rates[name][-1]:8,.0f} images/s, {left[-1]:.1%} was warm", flush=True)
    return rates, left


def disk(tars: list[Path]) -> dict[str, float]:
    """Plain reading, cold and again: where both are alike, another cache below this system's has the files."""
    drop(tars)
    return {"cold": reading(tars), "warm": reading(tars)}


def report(record: dict[str, Any]) -> str:
    speed, left = record["plain_reading_mb_per_second"], record["left_in_page_cache"]
    lines = [
        f"{record['samples']:,} images in {record['tars']} tars, {record['bytes'] / 1e6:,.0f} MB, "
        f"{record['encoding']} -> uint8, {record['threads']} threads, batch {record['batch']}; {record['turns']} "
        "turns, the cases in turn. "
        f"{record['processor']}, {record['date']}.",
        "",
        f"| one cold epoch | images/s | ratio to {PEER} |",
        "|---|---|---|",
    ]
    for name, row in record["images_per_second"].items():
        spread = f"{row['median']:,.0f} [{row['low']:,.0f}-{row['high']:,.0f}]"
        lines.append(f"| {name} | {spread} | x{row['ratio_to_stock_dali']:.2f} |")
    state = "was dropped" if max(left) <= DROPPED else "COULD NOT BE DROPPED, these are no cold numbers"
    lines += [
        "",
        f"The page cache {state}: at most {max(left):.1%} of the tars was left in it. Plain reading: "
        f"{speed['cold']:,.0f} MB/s after dropping, {speed['warm']:,.0f} MB/s again.",
    ]
    if record["tars"] <= record["window"]:
        lines.append(f"With no more than {record['window']} tars the window order is the global shuffle.")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--window", default=16, show_default=True, help="Tars open at a time in the window order.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(shards: Path, turns: int, threads: int, batch: int, window: int, out: Path | None) -> None:
    manifest = ShardSet(shards).manifest
    listed = manifest.splits["train"]
    tars = [(shards / tar.file).resolve() for tar in listed]
    samples = sum(tar.samples for tar in listed)
    images = samples - (threads + 1) * batch  # the first batch, and the clock stops up to `threads` batches later
    how: dict[str, Any] = {"threads": threads, "batch": batch, "images": images, "window": window}
    dali = best_variant(manifest.encoding)
    jobs = {
        "ours, random": Job("ours", "uint8", str(shards), order="random", **how),
        "ours, window": Job("ours", "uint8", str(shards), order="window", **how),
        PEER: Job(dali, "uint8", str(shards), order="sequential", **how),
    }
    speed = disk(tars)
    rates, left = measure(jobs, tars, turns)
    rows = {
        name: {
            **summary(r),
            "ratio_to_stock_dali": median([a / b for a, b in zip(r, rates[PEER], strict=True)]),
        }
        for name, r in rates.items()
    }
    record = {
        "date": str(date.today()),
        "shards": shards.name,
        "encoding": manifest.encoding,
        "samples": samples,
        "tars": len(tars),
        "bytes": sum(tar.bytes for tar in listed),
        "turns": turns,
        **how,
        **environment(),
        "stock_dali": dali,
        "plain_reading_mb_per_second": speed,
        "left_in_page_cache": left,
        "images_per_second": rows,
    }
    text = report(record)
    print(text)
    if out:
        out.mkdir(parents=True)
        write_json(out / "numbers.json", record)
        (out / "README.md").write_text(f"# One epoch from a cold page cache\n\n{text}")


if __name__ == "__main__":
    main()
