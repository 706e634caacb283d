"""Sharding beside plain Pillow pools, on the same photographs, in turns.

    python tools/shard_peers.py IMAGES [--repeat 20] [--turns 5] [--workers 2] [--out tools/records/DATE_shard_HARDWARE]

IMAGES: class folders of full-size JPEGs, each taken --repeat times through symbolic links. Ours is the whole
`alexnet-fast shard` command, start-up, indexes, sums and flushing to disk included; a peer is a process pool that
opens, resizes, crops, encodes and appends to a tar of its own. Prints images/s, the quality of what is written,
memory, where the time goes, and how long all of ImageNet would take.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from time import perf_counter, process_time, sleep

import click
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast.sharding import resize
from alexnet_fast.training.metrics import environment

SIZE, QUALITY = 256, 90
IMAGENET_1K, FALL_2011 = 1_281_167 + 50_000, 14_197_122
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "Lanczos": Image.Resampling.LANCZOS}


def with_pillow(path: Path, resampling: str, draft: bool) -> Image.Image:
    """Shorter side to SIZE, then the central square."""
    with Image.open(path) as image:
        if draft:
            image.draft("RGB", (2 * SIZE, 2 * SIZE))
        rgb = image.convert("RGB")
        scale = SIZE / min(rgb.size)
        width, height = (max(round(side * scale), SIZE) for side in rgb.size)
        left, top = (width - SIZE) // 2, (height - SIZE) // 2
        return rgb.resize((width, height), RESAMPLING[resampling]).crop((left, top, left + SIZE, top + SIZE))


def jpeg(image: Image.Image, quality: int = QUALITY) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_tar(paths: list[Path], tar: Path, resampling: str, draft: bool) -> None:
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for number, path in enumerate(paths):
            data = jpeg(with_pillow(path, resampling, draft))
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def peer(resampling: str, draft: bool, paths: list[Path], out: Path, workers: int) -> float:
    """Seconds; the pool is started before the clock."""
    chunks = [paths[start : start + 250] for start in range(0, len(paths), 250)]
    tars = [out / f"{number}.tar" for number in range(len(chunks))]
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        list(pool.map(sleep, [0.1] * workers))
        started = perf_counter()
        list(pool.map(partial(write_tar, resampling=resampling, draft=draft), chunks, tars))
        return perf_counter() - started


def ours(source: Path, out: Path, workers: int) -> tuple[float, float, int]:
    """Seconds by the command's own clock, CPU seconds of its processes, and the largest worker's memory in bytes."""
    command = [sys.executable, "-m", "alexnet_fast", "shard", "--src", str(source), "--out", str(out / "set")]
    process = psutil.Popen(
        [*command, "--workers", str(workers), "--json", "-"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    memory, cpu = 0, {}
    while process.poll() is None:
        for child in process.children(recursive=True):
            try:
                times = child.cpu_times()
                memory = max(memory, child.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            cpu[child.pid] = times.user + times.system
        sleep(0.05)
    assert process.stdout is not None
    seconds: float = json.loads(process.stdout.read())["seconds"]
    return seconds, sum(cpu.values()), memory


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def quality(paths: list[Path]) -> dict[str, dict[str, float]]:
    """PSNR against Pillow's Lanczos square before JPEG, and bytes: of ours, and of Pillow's bilinear at the same size.

    Pillow's PSNR at our number of bytes is interpolated between its JPEG qualities 86 and 94, image by image.
    """
    rows = []
    for path in paths:
        target = np.asarray(with_pillow(path, "Lanczos", False))
        square = with_pillow(path, "bilinear", False)
        pairs = []
        for one in (86, 94):
            data = jpeg(square, one)
            pairs.append((len(data), psnr(np.asarray(Image.open(io.BytesIO(data))), target)))
        _, stored = resize.convert(path.read_bytes(), size=SIZE, encoding="jpeg", quality=QUALITY, keep=False)
        written = psnr(np.asarray(Image.open(io.BytesIO(stored))), target)
        sizes, values = zip(*pairs, strict=True)
        at_our_size = np.interp(len(stored), sizes, values)
        rows.append((written, len(stored), float(at_our_size), len(jpeg(square))))
    columns = [mean(column) for column in zip(*rows, strict=True)]
    return {
        "ours": {"psnr": columns[0], "bytes": columns[1]},
        "Pillow bilinear": {"psnr_at_our_size": columns[2], "bytes_at_quality_90": columns[3]},
    }


def stage_seconds(paths: list[Path]) -> float:
    """CPU seconds of decode, resize and encode for one image, in one process."""
    torch.set_num_threads(1)
    files = [path.read_bytes() for path in paths]
    started = process_time()
    for data in files:
        resize.convert(data, size=SIZE, encoding="jpeg", quality=QUALITY, keep=False)
    return (process_time() - started) / len(files)


def linked(images: list[Path], root: Path, repeat: int) -> list[Path]:
    paths = []
    for path in images:
        folder = root / "train" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(repeat):
            paths.append(folder / f"{path.stem}_{number}.JPEG")
            paths[-1].symlink_to(path.resolve())
    return paths


CASES: dict[str, Callable[[list[Path], Path, int], float]] = {
    "Pillow bilinear": partial(peer, "bilinear", False),
    "Pillow bilinear, draft": partial(peer, "bilinear", True),
    "Pillow Lanczos": partial(peer, "Lanczos", False),
}


@click.command()
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--repeat", default=20, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(images: Path, repeat: int, turns: int, workers: int, out: Path | None) -> None:
    originals = sorted(images.rglob("*.JPEG"))
    seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in CASES}}
    busy, memory = [], 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = linked(originals, root / "images", repeat)
        linked(originals, root / "few", max(repeat // 10, 1))
        memory_few = ours(root / "few", _empty(root / "few-out"), workers)[2]
        for turn in range(turns):
            wall, cpu, most = ours(root / "images", _empty(root / f"ours-{turn}"), workers)
            seconds["ours"].append(wall)
            busy.append(cpu / (workers * wall))
            memory = max(memory, most)
            for name, case in CASES.items():
                seconds[name].append(case(paths, _empty(root / f"{name}-{turn}"), workers))
        stage = stage_seconds(originals)
    count = len(originals) * repeat
    rates = {name: [count / one for one in times] for name, times in seconds.items()}
    rows = {}
    for name, row in rates.items():
        ratio = median([a / b for a, b in zip(row, rates["Pillow bilinear"], strict=True)])
        rows[name] = {"median": median(row), "low": min(row), "high": max(row), "ratio_to_pillow": ratio, "turns": row}
        print(f"{name:24s} {median(row):6,.0f} images/s  [{min(row):,.0f}-{max(row):,.0f}]  x{ratio:.2f}")
    rate = median(rates["ours"])
    numbers = {
        "images": count,
        "workers": workers,
        "images_per_second": rows,
        "quality": quality(originals),
        "cores_busy": median(busy),
        "cores_busy_with_decode_resize_encode": stage * rate / workers,
        "worker_memory_mb": {
            f"{len(originals) * max(repeat // 10, 1)} images": memory_few / 1e6,
            f"{count} images": memory / 1e6,
        },
        "hours_extrapolated": {
            name: {cores: total / (rate * cores / workers) / 3600 for cores in (2, 16, 16 * 64)}
            for name, total in (("ImageNet-1k", IMAGENET_1K), ("Fall 2011", FALL_2011))
        },
    }
    print(json.dumps({name: value for name, value in numbers.items() if name != "images_per_second"}, indent=1))
    if out:
        out.mkdir(parents=True)
        (out / "numbers.json").write_text(json.dumps({**numbers, **environment()}, indent=1) + "\n")


def _empty(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    main()
