"""How near the squares of sharding are to a Lanczos resize, beside those of Pillow's bilinear; and their CPU time.

    python tools/resize_quality.py ORIGINALS [--before CHECKOUT] [--rounds 5] [--out tools/records/DATE_resize-quality]

ORIGINALS: a folder of image files, at any depth. The reference is Pillow's Lanczos from the whole decoded image to the
same shorter side, of it the same central square; the distance is the PSNR of an image, dB. CHECKOUT, a folder with the
package built in it, is measured in a process of its own. CPU time is that of `to_square`, of the process, in turns of
TURN images with CHECKOUT's, at the fastest of the rounds of each image.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZES = (32, 64, 96, 128, 256, 400)
TURN = 5

RGB = NDArray[np.uint8]


def central_square(image: Image.Image, size: int, resample: Image.Resampling) -> RGB:
    """Returns the paper's square by Pillow: shorter side to `size`, then the centre."""
    width, height = (round(length * size / min(image.size)) for length in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.resize((width, height), resample).crop((left, top, left + size, top + size)))


def psnr(square: RGB, reference: RGB) -> float:
    return float(10 * np.log10(255**2 / max(np.square(square.astype(float) - reference).mean(), 1e-3)))


def serve(connection: Connection, checkout: str) -> None:
    """Makes squares with the package of `checkout`: of a list of files and a size, each with its CPU seconds."""
    sys.path.insert(0, checkout)
    from alexnet_fast.environment import commit
    from alexnet_fast.sharding.decode import to_square

    connection.send(commit())
    while job := connection.recv():
        files, size = job
        done = []
        for data in files:
            started = process_time()
            square = to_square(data, size)
            done.append((square, process_time() - started))
        connection.send(done)


@contextmanager
def server(checkout: Path) -> Iterator[tuple[Connection, str]]:
    """A process with the package of `checkout`, and its commit."""
    ours, theirs = get_context("spawn").Pipe()
    path = str(checkout.resolve())
    process = get_context("spawn").Process(target=serve, args=(theirs, path))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = path
    try:
        process.start()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    yield ours, ours.recv()
    ours.send(None)
    process.join()


def distances(files: list[bytes], size: int, makers: dict[str, Connection]) -> dict[str, list[float]]:
    """Returns each image's PSNR, by who made the square."""
    found: dict[str, list[float]] = {name: [] for name in (*makers, "Pillow bilinear")}
    for data in files:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        reference = central_square(image, size, Image.Resampling.LANCZOS)
        found["Pillow bilinear"].append(psnr(central_square(image, size, Image.Resampling.BILINEAR), reference))
        for name, connection in makers.items():
            connection.send(([data], size))
            found[name].append(psnr(connection.recv()[0][0], reference))
    return found


def seconds(files: list[bytes], size: int, makers: dict[str, Connection], rounds: int) -> dict[str, list[float]]:
    """Returns each image's CPU seconds, by who made the square: the least of `rounds`."""
    least = {name: [float("inf")] * len(files) for name in makers}
    for round_ in range(rounds):
        for start in range(0, len(files), TURN):
            turn = files[start : start + TURN]
            for name in makers if (round_ + start // TURN) % 2 else reversed(makers):
                makers[name].send((turn, size))
                for i, (_, taken) in enumerate(makers[name].recv(), start):
                    least[name][i] = min(least[name][i], taken)
    return least


def table(rows: dict[int, dict[str, dict[str, float]]]) -> str:
    """Returns the sizes, with the median and the least PSNR and the CPU time of each maker."""
    makers = list(next(iter(rows.values())))
    timed = [name for name in makers if "cpu_ms" in rows[SIZES[0]][name]]
    heads = [f"{name}, dB" for name in makers] + [f"{name}, CPU ms" for name in timed]
    lines = ["| px | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for size, row in rows.items():
        cells = [f"{row[name]['median']:.2f} ({row[name]['least']:.2f})" for name in makers]
        cells += [f"{row[name]['cpu_ms']:.2f}" for name in timed]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@click.command()
@click.argument("originals", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(originals: Path, before: Path | None, rounds: int, out: Path | None) -> None:
    files = [path.read_bytes() for path in sorted(originals.rglob("*")) if path.is_file()]
    here = Path(__file__).resolve().parents[1]
    rows: dict[int, dict[str, dict[str, float]]] = {}
    every: dict[int, dict[str, list[float]]] = {}
    with server(before or here) as (first, first_commit), server(here) as (second, commit):
        makers = {"before": first, "after": second} if before else {"ours": second}
        for size in SIZES:
            every[size] = distances(files, size, makers)
            rows[size] = {name: {"median": median(dbs), "least": min(dbs)} for name, dbs in every[size].items()}
            for name, taken in seconds(files, size, makers, rounds).items():
                rows[size][name]["cpu_ms"] = 1000 * sum(taken) / len(taken)
            print(size, rows[size], flush=True)
    text = f"{len(files)} images; median (least) PSNR, CPU time an image.\n\n{table(rows)}\n"
    print(text)
    if out:
        from alexnet_fast.environment import environment
        from alexnet_fast.files import write_json

        out.mkdir(parents=True)
        body: dict[str, Any] = {"images": len(files), "rounds": rounds, "sizes": rows, "psnr": every}
        commits = {"commit_before": first_commit if before else None, "commit": commit}
        write_json(out / "numbers.json", {**environment(), **body, **commits})
        (out / "README.md").write_text(f"# Squares beside a Lanczos resize\n\n{text}")


if __name__ == "__main__":
    main()
