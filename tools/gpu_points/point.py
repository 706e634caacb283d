"""A point of tools/gpu as a process of its own.

    python -m tools.gpu_points.point NAME SETUP.json RESULTS.json

Exit code 0: done; 3: it cannot run here, the last line printed says why; else it failed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tools.gpu_points.setup import Results, Setup, Skipped

SKIPPED = 3


@dataclass(frozen=True)
class Point:
    """`module` has a function `run` or the one named after a colon; `seconds`: its share of 12 minutes."""

    title: str
    module: str
    seconds: float


POINTS = {
    "0": Point("images and shard sets", "sets", 40),
    "1": Point("machine and versions", "machine", 20),
    "2": Point("pytest -m gpu", "machine:tests", 60),
    "3": Point("memory of batches is kept until used", "lifetime", 40),
    "4": Point("hand-over from DALI: DLPack beside copy_to_external", "handover", 45),
    "5": Point("the step: rates, parts, profile", "step", 100),
    "6": Point("decoding alone", "decode", 60),
    "7": Point("joint, by host share", "joint", 75),
    "8": Point("train --compile", "training:compiled", 80),
    "9": Point("train, SIGTERM, --resume, eval", "training:resumed", 55),
    "11": Point("two GPUs: data, towers, hybrid", "training:two_gpus", 40),
    "10": Point("bench; torch's own AlexNet; stock DALI", "records", 105),
}
"""In the order in which they run, 12 minutes in all; the last one gets what the others leave."""


def main(name: str, setup: str, results: str) -> int:
    module, _, function = POINTS[name].module.partition(":")
    try:
        run = getattr(import_module(f"tools.gpu_points.{module}"), function or "run")
        run(Setup(**json.loads(setup)), Results(Path(results)))
    except Skipped as reason:
        print(reason)
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
