"""Writing a shard set beside Pillow, torchvision and img2dataset: the same files to the same tars, in turns.

    python tools/shard_peers.py IMAGES [--repeat 20] [--turns 5] [--out tools/records/DATE_shard_HARDWARE]

IMAGES: train/<class>/*.JPEG; each is listed REPEAT times through symbolic links. Every method has two processes of
one thread each and writes 256-pixel JPEGs of quality 90 with their labels to tars; ours is the whole command
`alexnet-fast shard`, which also hashes, indexes and checks. The clock is the command's own, from an empty pool on;
so is the peers'. "Running" leaves the start-up out: the same again with every image once, subtracted. FFCV's writer
is no peer: it cannot crop, and shrinks by the longer side.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE, QUALITY, WORKERS = 256, 90, 2
PEER = "Pillow bilinear"
SETS = {"ImageNet-1k": 1_281_167 + 50_000, "Fall 2011": 14_197_122}

Method = Callable[[bytes], bytes]
"""An image file -> the JPEG to store."""


def central_square(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    width, height = (round(length * SIZE / min(image.size)) for length in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return image.convert("RGB").resize((width, height), resample).crop((left, top, left + SIZE, top + SIZE))


def pillow(data: bytes, resample: Image.Resampling, draft: bool = False, quality: int = QUALITY) -> bytes:
    image = Image.open(io.BytesIO(data))
    if draft:
        image.draft("RGB", (SIZE, SIZE))
    file = io.BytesIO()
    central_square(image, resample).save(file, "JPEG", quality=quality)
    return file.getvalue()


def pillow_bilinear(data: bytes) -> bytes:
    return pillow(data, Image.Resampling.BILINEAR)


def pillow_draft(data: bytes) -> bytes:
    return pillow(data, Image.Resampling.BILINEAR, draft=True)


def pillow_lanczos(data: bytes) -> bytes:
    return pillow(data, Image.Resampling.LANCZOS)


def torchvision(data: bytes) -> bytes:
    import torch

    torch.set_num_threads(1)
    io = import_module("torchvision.io")
    image = io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), io.ImageReadMode.RGB)
    height, width = (round(length * SIZE / min(image.shape[1:])) for length in image.shape[1:])
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    image = torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    encoded = io.encode_jpeg(image[:, top : top + SIZE, left : left + SIZE].contiguous(), QUALITY)
    return bytes(encoded.numpy())


def img2dataset(data: bytes) -> bytes:
    import_module("cv2").setNumThreads(1)
    resizer = import_module("img2dataset.resizer").Resizer(
        SIZE, "center_crop", resize_only_if_bigger=False, encode_quality=QUALITY
    )
    encoded, *_, error = resizer(io.BytesIO(data))
    if error:
        raise ValueError(error)
    return bytes(encoded)


def ours(data: bytes) -> bytes:
    import torch

    from alexnet_fast.sharding import decode

    torch.set_num_threads(1)
    return decode.convert(data, size=SIZE, encoding="jpeg", quality=QUALITY, keep=False)[1]


METHODS: dict[str, tuple[Method, str]] = {
    "ours": (ours, "simplejpeg"),
    PEER: (pillow_bilinear, "PIL"),
    "Pillow bilinear, draft": (pillow_draft, "PIL"),
    "Pillow Lanczos": (pillow_lanczos, "PIL"),
    "torchvision": (torchvision, "torchvision"),
    "img2dataset's resizer": (img2dataset, "img2dataset"),
}
"""With the package that each needs."""


def works(method: Method, needs: str, data: bytes) -> bool:
    """False where its package is not there, or does not fit the other packages."""
    if not find_spec(needs):
        return False
    try:
        return bool(method(data))
    except (ImportError, RuntimeError, OSError):
        return False


def write_tar(method: Method, paths: Sequence[Path], tar_path: Path) -> None:
    with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, path in enumerate(paths):
            for extension, content in (("cls", b"0"), ("jpg", method(path.read_bytes()))):
                info = tarfile.TarInfo(f"{number:08d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def cpu_seconds(method: Method, paths: Sequence[Path]) -> float:
    """Of decoding, resizing and encoding an image: neither files nor tars."""
    files = [path.read_bytes() for path in paths]
    method(files[0])  # imports
    started = time.process_time()
    for data in files:
        method(data)
    return (time.process_time() - started) / len(files)


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))


def peer_seconds(method: Method, folder: Path, out: Path) -> float:
    paths = sorted(folder.rglob("*.JPEG"))
    parts = [paths[start : start + 500] for start in range(0, len(paths), 500)]
    started = time.perf_counter()
    with pool() as processes:
        jobs = [processes.submit(write_tar, method, part, out / f"{n}.tar") for n, part in enumerate(parts)]
        for job in jobs:
            job.result()
    return time.perf_counter() - started


def our_command(folder: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "alexnet_fast", "shard", "--src", str(folder), "--out", str(out / "set")]
    return [*command, "--workers", str(WORKERS), "--size", str(SIZE), "--json", str(out / "result.json")]


def our_seconds(_: Method, folder: Path, out: Path) -> float:
    subprocess.run(our_command(folder, out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result = json.loads((out / "result.json").read_text())
    assert result["rejected"] == 0, "give a folder without damaged images"
    return float(result["seconds"])


def seconds(name: str, folder: Path) -> float:
    with tempfile.TemporaryDirectory() as out:
        run = our_seconds if name == "ours" else peer_seconds
        return run(METHODS[name][0], folder, Path(out))


def peak_mib(folder: Path) -> float:
    """The largest process of our command."""
    with tempfile.TemporaryDirectory() as out:
        command = our_command(folder, Path(out))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max([peak, *(resident_mib(pid) for pid in descendants(process.pid))])
            time.sleep(0.1)
        return peak


def descendants(pid: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:  # it has ended meanwhile
        return []
    return children + [below for child in children for below in descendants(child)]


def resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def repeated(paths: Sequence[Path], times: int, folder: Path) -> Path:
    """Symbolic links train/<class>/<name>_<number>.JPEG."""
    for path in paths:
        (folder / "train" / path.parent.name).mkdir(parents=True, exist_ok=True)
        for number in range(times):
            (folder / "train" / path.parent.name / f"{path.stem}_{number}.JPEG").symlink_to(path)
    return folder


def psnr(jpeg: bytes, reference: NDArray[np.float64]) -> float:
    with Image.open(io.BytesIO(jpeg)) as image:
        return float(10 * np.log10(255**2 / np.square(np.asarray(image.convert("RGB")) - reference).mean()))


def quality_of(methods: Sequence[str], paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Mean bytes and PSNR against Lanczos before JPEG, and what Pillow bilinear reaches at the same mean bytes."""
    data = [path.read_bytes() for path in paths]
    references = [np.asarray(central_square(Image.open(path), Image.Resampling.LANCZOS), float) for path in paths]

    def measure(method: Method) -> tuple[float, float]:
        jpegs = [method(item) for item in data]
        return mean(map(len, jpegs)), mean(map(psnr, jpegs, references))

    curve = [
        measure(lambda item, q=quality: pillow(item, Image.Resampling.BILINEAR, quality=q))  # type: ignore[misc]
        for quality in (84, 87, 90, 93, 96)
    ]
    results = {}
    for name in methods:
        size, likeness = measure(METHODS[name][0])
        peer = float(np.interp(size, [point[0] for point in curve], [point[1] for point in curve]))
        results[name] = {"bytes": size, "psnr": likeness, "psnr_of_pillow_bilinear_at_equal_bytes": peer}
    return results


def extrapolated(rate: float) -> dict[str, dict[str, float]]:
    """Hours, if twice the cores do twice the work."""
    cores = (WORKERS, 16, 16 * 64)
    return {name: {f"{n} cores": images / (rate * n / WORKERS) / 3600 for n in cores} for name, images in SETS.items()}


def report(record: dict[str, Any]) -> str:
    lines = [
        f"{record['images']:,} images ({record['unique_images']} x {record['repeat']}), {record['turns']} turns, "
        f"{WORKERS} processes; {record['processor']}, {record['date']}.",
        "",
        "| | images/s | ratio to Pillow bilinear | running, without start-up | bytes | PSNR to Lanczos, dB "
        "| of Pillow bilinear at equal bytes | CPU busy converting |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in record["methods"].items():
        lines.append(
            f"| {name} | {row['median']:,.0f} [{row['low']:,.0f}-{row['high']:,.0f}] | x{row['ratio']:.2f} "
            f"| {row['running']:,.0f}, x{row['running_ratio']:.2f} | {row['bytes']:,.0f} | {row['psnr']:.2f} "
            f"| {row['psnr_of_pillow_bilinear_at_equal_bytes']:.2f} | {row['busy']:.0%} |"
        )
    peaks = ", ".join(f"{size} {mib:,.0f} MiB" for size, mib in record["peak_mib"].items())
    lines += ["", f"Largest process of ours: {peaks}.", "", "Extrapolated, linear in the cores, hours:", ""]
    for name, hours in record["hours"].items():
        lines.append(f"- {name}: " + ", ".join(f"{cores} {value:.2g}" for cores, value in hours.items()))
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("images", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeat", default=20, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(images: Path, repeat: int, turns: int, out: Path | None) -> None:
    from alexnet_fast.environment import environment

    paths = sorted(path.resolve() for path in images.rglob("*.JPEG"))
    sample = paths[0].read_bytes()
    methods = [name for name, (method, needs) in METHODS.items() if works(method, needs, sample)]
    print(f"not here: {', '.join(sorted(set(METHODS) - set(methods))) or 'none'}")
    once_s: dict[str, list[float]] = {name: [] for name in methods}
    all_s: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as links:
        once = repeated(paths, 1, Path(links, "once"))
        every = repeated(paths, repeat, Path(links, "every"))
        for turn in range(turns):
            for name in methods:
                once_s[name].append(seconds(name, once))
                all_s[name].append(seconds(name, every))
                with pool() as processes:  # both cores busy, as in the real work
                    jobs = [processes.submit(cpu_seconds, METHODS[name][0], paths) for _ in range(WORKERS)]
                    cpu[name].append(mean(job.result() for job in jobs))
                print(f"turn {turn + 1}: {name:24s} {len(paths) * repeat / all_s[name][-1]:7,.0f} images/s", flush=True)
        peaks = {
            "1x": peak_mib(once),
            "10x": peak_mib(repeated(paths, 10, Path(links, "ten"))),
        }
    count = len(paths) * repeat
    rates = {name: [count / s for s in all_s[name]] for name in methods}
    running = {
        name: [(count - len(paths)) / (a - b) for a, b in zip(all_s[name], once_s[name], strict=True)]
        for name in methods
    }
    qualities = quality_of(methods, paths)
    rows: dict[str, dict[str, Any]] = {
        name: {
            "median": median(rates[name]),
            "low": min(rates[name]),
            "high": max(rates[name]),
            "turns": rates[name],
            "ratio": median([a / b for a, b in zip(rates[name], rates[PEER], strict=True)]),
            "running": median(running[name]),
            "running_ratio": median([a / b for a, b in zip(running[name], running[PEER], strict=True)]),
            "cpu_ms_converting": 1000 * median(cpu[name]),
            "busy": median([count * c / (WORKERS * s) for c, s in zip(cpu[name], all_s[name], strict=True)]),
            **qualities[name],
        }
        for name in methods
    }
    record = {
        "date": str(date.today()),
        "images": count,
        "unique_images": len(paths),
        "repeat": repeat,
        "turns": turns,
        **environment(),
        "methods": rows,
        "peak_mib": peaks,
        "hours": extrapolated(rows["ours"]["running"]),
    }
    text = report(record)
    print(text)
    if out:
        out.mkdir(parents=True)
        (out / "numbers.json").write_text(json.dumps(record, indent=1) + "\n")
        (out / "README.md").write_text(f"# Writing a shard set beside peers\n\n{text}")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
