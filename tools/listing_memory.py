"""What the listing of a large source costs in memory, from the first look at it to the manifest.

    python tools/listing_memory.py [--images 5000000] [--classes 5000] [--layout folders|whole] [--out FOLDER]

The source is real for the code that lists it: class folders that are links to one folder of empty files, or class tars
that are hard links to one tar. No image is converted: the records of the finished tars are made up as they are read.
Prints the most memory that the process ever had after each step, less what it had after its imports, by image.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click

LAYOUTS = ("folders", "whole")


class MadeUp:
    """An output whose tars are all finished: it makes up their records, and forgets what is written."""

    def __init__(self, images_in: Callable[[str, int], int]) -> None:
        self._images_in = images_in

    def read(self, name: str) -> bytes | None:
        from alexnet_fast.sharding.output import sealed
        from alexnet_fast.sharding.statistics import PixelSums
        from alexnet_fast.sharding.tars import TarRecord
        from alexnet_fast.shards.format import Tar

        if not name.endswith(".tar.json"):
            return b"" if name.endswith("plan.json") else None
        split, _, number = Path(name).name.removesuffix(".tar.json").rpartition("-")
        count = self._images_in(split, int(number))
        rows = [
            [int(number), 1_048_576 + 20_000 * row, 18_000 + row, row % 1000, 3_000_000_000 + row]
            for row in range(count)
        ]
        record = TarRecord(Tar(f"{split}-{number}.tar", count, 1, "0" * 64), rows, PixelSums(1), [])
        body = json.loads(record.to_json())
        if "originals" in body:
            body["originals"] = [2**61 + row for row in range(count)]
        return sealed(json.dumps(body))

    def size(self, name: str) -> int:
        return 1

    def write(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


def make_source(root: Path, layout: str, images: int, classes: int) -> Path:
    each = images // classes
    names = [f"n00000000_{number}.JPEG" for number in range(each)]
    source = root / "source"
    source.mkdir()
    if layout == "folders":
        (root / "folder").mkdir()
        for name in names:
            (root / "folder" / name).touch()
    else:
        with tarfile.open(root / "one.tar", "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    for number in range(classes):
        if layout == "folders":
            (source / f"n{number:08d}").symlink_to(root / "folder")
        else:
            os.link(root / "one.tar", source / f"n{number:08d}.tar")
    return source


def measure(src: str, layout: str, images: str) -> None:
    """In a process of its own: prints bytes an image after each step, as JSON."""
    from alexnet_fast.sharding import write
    from alexnet_fast.sharding.plan import Options, jobs, make_plan
    from alexnet_fast.sharding.sources import find_images, tree

    tree._leads_on = lambda link, root, followed: True  # all classes are links to one folder here
    before = peak()
    steps = {}

    def step(name: str) -> None:
        steps[name] = round((peak() - before) / int(images), 1)

    source = find_images(Path(src), layout)
    step("listing")
    plan = make_plan(source, Options())
    step("plan")
    output: Any = MadeUp(plan.images_in)
    to_come = jobs(source, plan, output, set(plan.tar_names()))
    list(islice(to_come, 2))
    step("jobs")
    write._write_manifest(output, plan)
    step("manifest")
    assert sum(map(len, source.splits.values())) == int(images)
    print(json.dumps(steps))


def peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@click.command()
@click.option("--images", default=5_000_000, show_default=True)
@click.option("--classes", default=5_000, show_default=True)
@click.option("--layout", "layouts", multiple=True, type=click.Choice(LAYOUTS), default=LAYOUTS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for numbers.json.")
def main(images: int, classes: int, layouts: tuple[str, ...], out: Path | None) -> None:
    images -= images % classes
    found = {}
    for layout in layouts:
        with tempfile.TemporaryDirectory() as folder:
            src = make_source(Path(folder), layout, images, classes)
            line = [sys.executable, __file__, "measure", str(src), layout, str(images)]
            found[layout] = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
        print(f"{layout}, {images:,} images of {classes:,} classes, bytes an image at most: {found[layout]}")
    if out:
        from alexnet_fast.environment import environment
        from alexnet_fast.files import write_json

        write_json(out / "numbers.json", {"images": images, "classes": classes, "bytes": found, **environment()})


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*sys.argv[2:])
    else:
        main()
