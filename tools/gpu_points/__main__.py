"""Runs the points of tools/gpu in turn and writes the record. Needs Python alone: whatever a point lacks is that
point's failure."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

from tools.gpu_points import report
from tools.gpu_points.monitor import Monitor
from tools.gpu_points.point import POINTS, SKIPPED
from tools.gpu_points.setup import ROOT, Setup

MINUTES = sum(point.seconds for point in POINTS.values()) / 60


def run_point(number: str, setup: Setup, limit: float, out: Path) -> dict[str, Any]:
    """Runs a point for `limit` seconds at most and returns what came of it. Its output is appended to output.txt."""
    results = Path(setup.work, f"point-{number}.json")
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.gpu_points.point", number, json.dumps(asdict(setup)), str(results)]
    started = monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output, Monitor() as monitor:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT
        )
        code = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:  # what it started too
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read()
    with (out / "output.txt").open("a") as file:
        file.write(f"--- {number}: {POINTS[number].title}\n{text}\n")
    last = (text.strip().splitlines() or ["no output"])[-1]
    outcomes = {0: "done", SKIPPED: last, None: f"ended at its limit of {limit:.0f} s"}
    return {
        "title": POINTS[number].title,
        "outcome": outcomes.get(code, f"failed: {last}"),
        "seconds": monotonic() - started,
        "gpu": monitor.summary,
        "numbers": json.loads(results.read_text()) if results.exists() else {},
    }


def run_all(numbers: list[str], setup: Setup, minutes: float, out: Path) -> dict[str, Any]:
    """Runs the points; the record is written anew after each. A point may last until its share of `minutes` ends, after
    those before it: what they left is added. Points of an earlier command that are in the record stay in it."""
    path = out / "numbers.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"points": {}}
    record |= {"date": f"{date.today():%Y-%m-%d}", "device": setup.device, "minutes": minutes}
    record["command"] = ["tools/gpu", *sys.argv[1:]]
    shares = {number: POINTS[number].seconds * minutes / MINUTES for number in numbers}
    ends = monotonic()
    for number in numbers:
        ends += shares[number]
        print(f"{number}: {POINTS[number].title} ... ", end="", flush=True)
        result = run_point(number, setup, max(ends - monotonic(), 0), out)
        print(f"{result['outcome']}, {result['seconds']:.0f} s", flush=True)
        results = record["points"] | {number: result}
        record["points"] = {number: results[number] for number in POINTS if number in results}
        path.write_text(json.dumps(record, indent=1) + "\n")
        (out / "README.md").write_text(report.page(record))
        if (profile := Path(setup.work, "profile.txt")).exists():
            (out / "profile.txt").write_text(profile.read_text())
    return record


def chosen(text: str) -> list[str]:
    """The numbers of `0,3-6`, in their order. Raises ArgumentTypeError where one is not there."""
    numbers: set[int] = set()
    try:
        for part in text.split(","):
            bounds = [int(number) for number in part.split("-")]
            numbers |= set(range(bounds[0], bounds[-1] + 1))
    except ValueError:
        numbers = {-1}
    if not numbers or not numbers <= set(map(int, POINTS)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0,3-6, with points from 0 to {len(POINTS) - 1}")
    return [number for number in POINTS if int(number) in numbers]


def main() -> int:
    listed = "\n".join(f"  {number:>2}  {point.seconds:3.0f} s  {point.title}" for number, point in POINTS.items())
    parser = argparse.ArgumentParser(
        prog="tools/gpu",
        description="What only a GPU can settle, as one record.",
        epilog=f"points, and their shares of {MINUTES:.0f} minutes:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all points together (default: %(default)g)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: all in small, to try it out")
    parser.add_argument("--images", type=Path, help="folder with train/<class>/ and val/<class>/ (default: drawn)")
    parser.add_argument("--out", type=Path, help="the record's folder (default: tools/records/DATE_gpu_DEVICE)")
    parser.add_argument("--points", type=chosen, default=list(POINTS), help="such as 0,3-6 (default: all)")
    parser.add_argument("--work", type=Path, help="keep images and shard sets here, and use those that are there")
    given = parser.parse_args()
    out = (given.out or ROOT / "tools" / "records" / f"{date.today():%Y-%m-%d}_gpu_{given.device}").absolute()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="alexnet-fast-gpu-") as temporary:
        work = (given.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        images = str(given.images.absolute()) if given.images else ""
        # Point 0 makes what the others need; what is there already it leaves as it is.
        numbers = given.points if "0" in given.points else ["0", *given.points]
        record = run_all(numbers, Setup(given.device, str(work), images), given.minutes, out)
    print(f"{out}/README.md")
    return int(any(record["points"][number]["outcome"].startswith(("failed", "ended")) for number in numbers))


if __name__ == "__main__":
    sys.exit(main())
