"""Our loader beside stock DALI and plain JPEG decoding, on the same shards, in turns.

    python tools/peers.py SHARDS [--turns 5] [--threads 2] [--batch 256] [--out tools/records/DATE_loader_HARDWARE]

SHARDS: a JPEG shard set. Every case decodes the whole training split once a turn; pipelines are built and warmed up
by one batch before the clock starts. Prints images/s (median, low, high) and the ratio to stock DALI of the same type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np
import simplejpeg
import torch
from nvidia.dali import fn, pipeline_def, types

from alexnet_fast.loading.loader import Loader
from alexnet_fast.loading.memory import keep_freed_memory
from alexnet_fast.loading.plan import training_rows
from alexnet_fast.shardset import ShardSet
from alexnet_fast.training.metrics import environment

Case = Callable[[ShardSet, int, int], Iterator[int]]
"""(shards, batch, threads) -> yields the number of images of each batch, the first one to warm up."""


def ours(dtype: torch.dtype) -> Case:
    def run(shards: ShardSet, batch: int, threads: int) -> Iterator[int]:
        split = shards.split("train")
        crop = split.size * 7 // 8
        rows = training_rows(len(split), batch, 0, margin=split.size - crop, colour_std=0.1, epochs=range(2))
        loader = Loader(
            split,
            shards.manifest.pixels,
            rows,
            max_batch=batch,
            crop=crop,
            device=torch.device("cpu"),
            dtype=dtype,
            threads=threads,
        )
        for item in loader:
            yield len(item.labels)

    return run


def stock_dali(dtype: torch.dtype) -> Case:
    """readers.webdataset with index -> decoders.image -> crop_mirror_normalize, handed to torch without a copy."""

    def run(shards: ShardSet, batch: int, threads: int) -> Iterator[int]:
        tars = [shards.folder / tar.file for tar in shards.manifest.splits["train"]]
        crop = shards.manifest.size * 7 // 8

        @pipeline_def(batch_size=batch, num_threads=threads, device_id=None)  # type: ignore[untyped-decorator]
        def graph() -> Any:
            images, labels = fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
                ext=["jpg", "cls"],
                random_shuffle=True,
                missing_component_behavior="error",
            )
            kind = {"dtype": types.UINT8, "output_layout": "HWC"}
            if dtype == torch.float32:
                mean = shards.manifest.pixels.mean
                kind = {"dtype": types.FLOAT, "output_layout": "CHW", "mean": mean, "std": [1.0, 1.0, 1.0]}
            pixels = fn.crop_mirror_normalize(
                fn.decoders.image(images),
                crop=(crop, crop),
                crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
                crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
                mirror=fn.random.coin_flip(),
                **kind,
            )
            return pixels, labels

        pipeline = graph()
        pipeline.build()
        while True:
            pixels, _ = pipeline.run()
            yield len(torch.from_dlpack(pixels.as_tensor()))

    return run


def decode_only(shards: ShardSet, batch: int, threads: int) -> Iterator[int]:
    """libjpeg-turbo alone: whole images to RGB, nothing after it."""
    split = shards.split("train")
    order = np.random.default_rng(0).permutation(len(split))
    with ThreadPoolExecutor(threads) as pool:
        while True:
            for start in range(0, len(order), batch):
                samples = order[start : start + batch]
                parts = [split.read(part) for part in np.array_split(samples, threads)]
                list(pool.map(lambda part: [simplejpeg.decode_jpeg(jpeg) for jpeg in part], parts))
                yield len(samples)


CASES: dict[str, Case] = {
    "simplejpeg, decode only": decode_only,
    "stock DALI, uint8": stock_dali(torch.uint8),
    "ours, uint8": ours(torch.uint8),
    "stock DALI, float32": stock_dali(torch.float32),
    "ours, float32, PCA colour": ours(torch.float32),
    "ours, bfloat16, PCA colour": ours(torch.bfloat16),
}


def rate(case: Case, shards: ShardSet, batch: int, threads: int, images: int) -> float:
    """Images a second over `images` of them, after one batch."""
    batches = case(shards, batch, threads)
    next(batches)
    done, started = 0, perf_counter()
    while done < images:
        done += next(batches)
    return done / (perf_counter() - started)


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(shards: Path, turns: int, threads: int, batch: int, out: Path | None) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()  # our loader does; so every case has it
    shard_set = ShardSet(shards)
    images = len(shard_set.split("train")) - batch
    results: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(turns):
        for name, case in CASES.items():
            results[name].append(rate(case, shard_set, batch, threads, images))
    rows = {name: {"median": median(r), "low": min(r), "high": max(r), "turns": r} for name, r in results.items()}
    for name, row in rows.items():
        peer = "stock DALI, uint8" if "uint8" in name else "stock DALI, float32"
        ratio = median([a / b for a, b in zip(results[name], results[peer], strict=True)])
        rows[name]["ratio_to_stock_dali"] = ratio
        print(f"{name:28s} {row['median']:7,.0f} images/s  [{row['low']:,.0f}-{row['high']:,.0f}]  x{ratio:.2f}")
    if out:
        out.mkdir(parents=True)
        about = {"shards": shards.name, "images": images, "batch": batch, "threads": threads, **environment()}
        (out / "numbers.json").write_text(json.dumps({**about, "images_per_second": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
