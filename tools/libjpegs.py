"""Whether Pillows, each with the libjpeg it is linked with, give the same pixels by the compiled code.

    python tools/libjpegs.py JPEGS PHOTOGRAPHS [--libjpeg FILE]
    python tools/libjpegs.py JPEGS PHOTOGRAPHS --with NAME COMMAND [--with NAME COMMAND ...] [--out numbers.json]

The first prints one JSON object about the interpreter that runs it, which needs this package, what its sharding
imports, and click; torch only for to_square without compiled code. The second runs the first by each COMMAND, an
interpreter or what ends with one (`env LIBJPEG=FILE python`, `docker run ... python`), and prints a table of which
agree with the first of them.

JPEGS: a folder of JPEGs of 256 x 256 pixels, as a shard set stores them; PHOTOGRAPHS: one of any images. Both are
counted by their files' folders, so that each form may have its own. FILE: another libjpeg to use than Pillow's.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

from alexnet_fast import native
from alexnet_fast.sharding import decode

SIDE, CROP = 256, 224
MARGIN = SIDE - CROP

Pixels = NDArray[np.uint8]


def folders(root: Path) -> dict[str, list[bytes]]:
    """The files below `root`, by the name of their folder, in the order of their paths."""
    found: dict[str, list[bytes]] = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found.setdefault(path.parent.name, []).append(path.read_bytes())
    return found


def corners_of(image: int) -> list[tuple[int, int]]:
    """Tops and lefts: the four corners, and two places that are others for each image."""
    places = [(7 * image % (MARGIN + 1), 5 * image % (MARGIN + 1)), (11 * image % (MARGIN + 1), image % (MARGIN + 1))]
    return [(0, 0), (0, MARGIN), (MARGIN, 0), (MARGIN, MARGIN), *places]


def compiled_crops(data: bytes, corners: list[tuple[int, int]]) -> Pixels:
    """By native/crops.c, the second half of them mirrored. Raises ValueError where it does not decode."""
    kernels = native.kernels()
    assert kernels is not None
    n, stored = len(corners), np.frombuffer(data, np.uint8)
    places, sizes = np.full(n, stored.ctypes.data, np.uintp), np.full(n, len(stored), np.int64)
    frames, boxes = np.full((n, 2), SIDE, np.int32), np.array([(*corner, CROP, CROP) for corner in corners], np.int32)
    offset = np.zeros((n, 3), np.float32)
    pixels, message = np.zeros((n, CROP, CROP, 3), np.uint8), ctypes.create_string_buffer(200)
    failed = kernels.crops(
        *(n, places.ctypes.data, sizes.ctypes.data, frames.ctypes.data, boxes.ctypes.data, n // 2, offset.ctypes.data),
        *(CROP, 0, pixels.ctypes.data, message),
    )
    if failed >= 0:
        raise ValueError(message.value.decode(errors="replace"))
    return pixels


def pillow_crops(data: bytes, corners: list[tuple[int, int]]) -> Pixels:
    """The same from Pillow's whole image."""
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    cut = np.stack([whole[top : top + CROP, left : left + CROP] for top, left in corners])
    half = len(corners) // 2
    return np.concatenate([cut[:half], cut[half:, :, ::-1]])


@contextmanager
def most_used(decoder: str) -> Iterator[None]:
    """With ALEXNET_FAST_NATIVE=`decoder`."""
    with patch.dict(os.environ, {native.VARIABLE: decoder}):
        native.loaded.cache_clear()
        yield
    native.loaded.cache_clear()


def all_crops(images: list[bytes], cut: Callable[[bytes, list[tuple[int, int]]], Pixels]) -> list[str]:
    """Hashes of each image's crops; why not, where it is not decoded."""
    found = []
    for i, data in enumerate(images):
        try:
            found.append(hash_of(cut(data, corners_of(i)).tobytes()))
        except (ValueError, OSError) as error:
            found.append(f"not decoded: {error}")
    return found


def all_squares(images: list[bytes]) -> list[str]:
    found = []
    for data in images:
        try:
            found.append(hash_of(decode.to_square(data, SIDE).tobytes()))
        except ValueError as error:
            found.append(f"not decoded: {error}")
    return found


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


Hashes = dict[str, dict[str, list[str]]]
"""Of each way to make them and each folder, the images'."""


def hashes(
    jpegs: dict[str, list[bytes]], photographs: dict[str, list[bytes]], has_torch: bool
) -> tuple[Hashes, Hashes]:
    """Of crops, by decoder and of Pillow's own. Of to_square as this interpreter makes it, with simplejpeg's pixels
    resized by the compiled code, by decoder, and without compiled code, which takes torch."""
    crops = {"pillow": {name: all_crops(images, pillow_crops) for name, images in jpegs.items()}}
    squares: Hashes = {}

    def add_squares(way: str) -> None:
        squares[way] = {name: all_squares(images) for name, images in photographs.items()}

    if native.kernels():
        add_squares("as found")
        with patch.object(decode, "_resized_jpeg", lambda *_: None):
            add_squares("simplejpeg")
        for decoder in ("huffman", "libjpeg"):
            with most_used(decoder):
                if native.decoder() == decoder:
                    crops[decoder] = {name: all_crops(images, compiled_crops) for name, images in jpegs.items()}
                    add_squares(decoder)
    if has_torch:
        with most_used("none"):
            add_squares("none")
    return crops, squares


def summary(made: Hashes) -> dict[str, Any]:
    """One hash a folder for each way, and how many images two ways differ in."""
    first, *others = made
    differ = {
        f"{way} and {first}": {
            name: sum(a != b for a, b in zip(made[way][name], one, strict=True)) for name, one in made[first].items()
        }
        for way in others
    }
    whole = {way: {name: hash_of("".join(one).encode()) for name, one in forms.items()} for way, forms in made.items()}
    return {"hashes": whole, "differing_images": differ}


def this_one(jpegs: Path, photographs: Path, libjpeg: str | None) -> dict[str, Any]:
    """All about this interpreter, with another libjpeg than Pillow's where one is given."""
    if libjpeg:
        _imaging.__file__ = libjpeg  # where native.loaded looks for the libjpeg to use
    about = {
        "pillow": version("pillow"),
        **native.description(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "simplejpeg": version("simplejpeg"),
    }
    has_torch = find_spec("torch") is not None
    crops, squares = hashes(folders(jpegs), folders(photographs), has_torch)
    about["torch"] = version("torch") if has_torch else None
    if libjpeg:
        about["libjpeg"] = f"given: {Path(libjpeg).name}"  # whose version Pillow does not know
    return {**about, "crops": summary(crops), "squares": summary(squares) if squares else None}


def result_of(command: str, jpegs: Path, photographs: Path) -> dict[str, Any]:
    """What an interpreter says; how it ended where it does not."""
    done = subprocess.run(
        [*shlex.split(command), str(Path(__file__).resolve()), str(jpegs), str(photographs)],
        capture_output=True,
        text=True,
    )
    said = {"stderr": done.stderr.splitlines()}
    if done.returncode:
        code = done.returncode
        return {"failed": signal.Signals(-code).name if code < 0 else f"exit code {code}", **said}
    return {**json.loads(done.stdout), **said}


def within(made: dict[str, Any] | None) -> str:
    """Whether all ways of one interpreter agree, and which ways those are."""
    if made is None:
        return "-"
    ways = ", ".join(made["hashes"])
    wrong = [
        f"{pair}: {count} of {name}"
        for pair, counts in made["differing_images"].items()
        for name, count in counts.items()
        if count
    ]
    return f"NO, {'; '.join(wrong)}" if wrong else f"yes: {ways}"


def beside(made: dict[str, Any] | None, first: dict[str, Any]) -> str:
    """Whether they are the first interpreter's, by the way that both name first."""
    if made is None:
        return "-"
    ours, theirs = (next(iter(one["hashes"].values())) for one in (made, first))
    other = [name for name in theirs if ours.get(name) != theirs[name]]
    return f"not {', '.join(other)}" if other else "yes"


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| | Pillow | libjpeg | native | its crops agree | as the first's | its squares agree | as the first's | why |",
        "| --- " * 9 + "|",
    ]
    first = next(one for one in results.values() if "failed" not in one)
    for name, one in results.items():
        if "failed" in one:
            lines.append(f"| {name} | " + " | " * 6 + f" | {one['failed']}: {' '.join(one['stderr'][-1:])} |")
            continue
        crops, squares = one["crops"], one["squares"]
        cells = [
            *(name, one["pillow"], one["libjpeg"] or "", one["native"]),
            *(within(crops), beside(crops, first["crops"]), within(squares), beside(squares, first["squares"])),
            one["native_reason"] or "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@click.command()
@click.argument("jpegs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("photographs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--libjpeg", envvar="LIBJPEG", type=click.Path(exists=True), help="Instead of Pillow's.")
@click.option("--with", "commands", nargs=2, multiple=True, help="A name and an interpreter.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="For what all of them say, as JSON.")
def main(
    jpegs: Path, photographs: Path, libjpeg: str | None, commands: tuple[tuple[str, str], ...], out: Path | None
) -> None:
    if not commands:
        print(json.dumps(this_one(jpegs, photographs, libjpeg), indent=1))
        return
    results = {name: result_of(command, jpegs, photographs) for name, command in commands}
    print("\n".join(table(results)))
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n")
    if any("failed" in one for one in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
