"""Point 0: the native code, and a JPEG and a raw shard set of the same images."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from tools.gpu_points.machine import compile_native
from tools.gpu_points.setup import ROOT, Results, Setup


def run(setup: Setup, results: Results) -> None:
    """What is in the working folder already stays as it is."""
    compile_native(results)
    if not setup.shards("raw").exists():
        images = Path(setup.work, "images")
        if not images.exists():
            gather(setup, images)
        for encoding in ("jpeg", "raw"):
            options = ["--encoding", encoding, "--size", str(setup.size), "--layout", "folders"]
            product("shard", "--src", str(images), "--out", str(setup.shards(encoding)), *options)
    for split in ("train", "val"):
        results.put(f"{split} images", len(list(Path(setup.work, "images", split).glob("*/*"))))


def gather(setup: Setup, folder: Path) -> None:
    """Links to the images, to all of them again and again until each class has enough."""
    if not setup.images:
        draw(setup, folder.with_name("drawn"))
    source = Path(setup.images) if setup.images else folder.with_name("drawn")
    wanted = {"train": 40, "val": 10}
    if setup.on_gpu:  # as many as the cores prepare in seconds
        wanted = {"train": min(max(1280 * setup.threads, 5_120), 20_480), "val": 2_048}
    for split, images in wanted.items():
        classes = sorted(path for path in (source / split).iterdir() if path.is_dir())
        for one in classes:
            files = sorted(one.iterdir())
            target = folder / split / one.name
            target.mkdir(parents=True)
            count = max(-(-images // len(classes)), 1)
            for number, file in enumerate(islice(cycle(files), count)):
                (target / f"{number:06d}{file.suffix}").symlink_to(file)


def draw(setup: Setup, folder: Path) -> None:
    """The demo's images, on all cores."""
    from alexnet_fast.demo.samples import CLASSES

    per_class = {"train": 100, "val": 10} if setup.on_gpu else {"train": 4, "val": 1}
    jobs = [(name, split, number) for split, count in per_class.items() for name in CLASSES for number in range(count)]
    with ProcessPoolExecutor(setup.threads) as pool:
        list(pool.map(partial(draw_one, folder, setup.size), jobs, chunksize=8))


def draw_one(folder: Path, size: int, job: tuple[str, str, int]) -> None:
    from alexnet_fast.demo.samples import CLASSES, draw_sample
    from alexnet_fast.random import drawn_image

    name, split, number = job
    path = folder / split / name / f"{number:04d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = draw_sample(name, size, drawn_image(0, ("train", "val").index(split), CLASSES.index(name), number))
    image.save(path, quality=92)


def product(*arguments: str) -> str:
    """What a command of alexnet-fast prints. Raises CalledProcessError where it fails; its messages are printed."""
    command = [sys.executable, "-m", "alexnet_fast", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ).stdout
