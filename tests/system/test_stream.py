"""A training that is killed goes on with the same stream: by (epoch, step), with other ranks and threads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BATCH, EPOCHS, STEPS = 16, 3, 4

PROGRAM = """
import sys, zlib
from alexnet_fast import Loader, ShardSet
shards, epoch, step, world, threads = sys.argv[1], *map(int, sys.argv[2:])
split = ShardSet(shards).split("train")
for epoch in range(epoch, 3):
    options = dict(batch=16, epoch=epoch, first_step=step, crop=84, world_size=world, threads=threads)
    step = 0
    for parts in zip(*(Loader.training(split, rank=rank, **options) for rank in range(world)), strict=True):
        for batch in parts:
            for sample, label, image in zip(batch.rows.samples, batch.labels, batch.images, strict=True):
                print(batch.rows.epoch, batch.rows.step, sample, int(label), zlib.crc32(image.numpy().tobytes()))
        print("done", batch.rows.epoch, batch.rows.step, flush=True)
"""


def stream(shards: Path, epoch: int, step: int, world: int, threads: int, kill_after: int | None) -> list[list[str]]:
    """The lines of every finished step, sorted; the program is killed after `kill_after` of them."""
    arguments = [sys.executable, "-c", PROGRAM, str(shards), *map(str, (epoch, step, world, threads))]
    steps: list[list[str]] = [[]]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if not line.startswith("done"):
                steps[-1].append(line)
                continue
            steps[-1].sort()
            if len(steps) == kill_after:
                process.kill()
                return steps
            steps.append([])
    assert process.returncode == 0
    return steps[:-1]


@pytest.mark.parametrize("encoding", ["jpeg", "mixed"])
def test_killed_at_random_steps(encoding: str, request: pytest.FixtureRequest) -> None:
    shards: Path = request.getfixturevalue(f"{encoding}_shards")
    undisturbed = stream(shards, 0, 0, 1, 2, None)
    assert len(undisturbed) == EPOCHS * STEPS
    random = np.random.default_rng(0)
    found: list[list[str]] = []
    while len(found) < EPOCHS * STEPS:
        world, threads = (int(number) for number in random.integers(1, 4, 2))
        kill_after = int(random.integers(1, 7))
        left = EPOCHS * STEPS - len(found)
        found += stream(shards, *divmod(len(found), STEPS), world, threads, kill_after if kill_after < left else None)
    assert found == undisturbed
