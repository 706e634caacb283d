"""Damaged files for everything that reads files: 10,000 each, for a nightly run.

    python -m tools.fuzz [--inputs 10000] [--seed 0] [--only NAME] [--jobs N] [--out tools/records/DATE_fuzz_HARDWARE]

A reader may read a damaged file or refuse it with the error that its docstring names. Anything else fails: another
exception, a signal, more than 5 seconds of CPU or 60 of time, more memory than its limit, a file that is written or
a program that is started outside its folder. Failing files are saved in ./fuzz-failures. What is damaged and how:
tests/system/fuzzing/.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

from alexnet_fast.environment import environment
from alexnet_fast.files import write_json
from tests.system.fuzzing.harness import CPU_SECONDS, SECONDS, Outcome, fuzz, sample
from tests.system.fuzzing.targets import TARGETS

FAILURES = Path("fuzz-failures")


@click.command()
@click.option("--inputs", default=10_000, show_default=True, help="Files a target.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Targets whose name holds this.")
@click.option("--jobs", default=1, show_default=True, help="Targets at once.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(inputs: int, seed: int, only: str, jobs: int, out: Path | None) -> None:
    get_context("forkserver").set_forkserver_preload(["tests.system.fuzzing.targets"])  # torch is imported once
    chosen = [target for name, target in TARGETS.items() if only in name]
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(jobs) as threads:
        for outcome in threads.map(lambda target: fuzz(target, inputs // target.every, seed), chosen):
            outcomes.append(outcome)
            print(as_line(outcome), flush=True)
            for number in outcome.failures:
                FAILURES.mkdir(exist_ok=True)
                name = f"{outcome.target}-{number}".replace(" ", "_").replace("/", "_")
                (FAILURES / name).write_bytes(sample(TARGETS[outcome.target], number, seed))
    if out:
        out.mkdir(parents=True)
        about = {
            "inputs": inputs,
            "seed": seed,
            "limits": {"cpu_seconds": CPU_SECONDS, "seconds": SECONDS},
            **environment(),
        }
        write_json(out / "numbers.json", {**about, "targets": [vars(outcome) for outcome in outcomes]})
    failed = [outcome.target for outcome in outcomes if outcome.failures]
    print(f"{sum(o.read + o.refused for o in outcomes):,} files, {len(failed)} of {len(outcomes)} targets failed")
    sys.exit(1 if failed else 0)


def as_line(outcome: Outcome) -> str:
    line = f"{outcome.target:36s} {outcome.read:6,} read {outcome.refused:6,} refused  {outcome.peak_mib:5,} MiB"
    line += f"  slowest {outcome.slowest:.2f} s  all {outcome.cpu_seconds:.0f} s"
    return "\n".join([line, *(f"  FAILED {number}: {failure}" for number, failure in outcome.failures.items())])


if __name__ == "__main__":
    main()
