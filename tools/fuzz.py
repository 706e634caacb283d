"""Damaged and strange files for everything that reads files: for a nightly run.

    python -m tools.fuzz readers [--inputs 10000] [--seed 0] [--only NAME] [--jobs N] [--out FOLDER]
    python -m tools.fuzz native [--minutes 10] [--tables 60000] [--out FOLDER]

`readers`: what reads files in Python. A reader may read a damaged file or refuse it with the error that its docstring
names. Anything else fails: another exception, a signal, more than 5 seconds of CPU or 60 of time, more memory than its
limit, a file that is written or a program that is started outside its folder. What is damaged and how:
tests/system/fuzzing/.

`native`: the C that decodes JPEGs, by libFuzzer with the address and undefined-behaviour sanitizers, and on JPEGs of
random Huffman codes. Its pixels must be those of libjpeg alone; what libjpeg warns of it must refuse, what libjpeg
decodes it must accept; and nothing may depend on what was decoded before. Needs clang, libFuzzer and llvm.

Failing files are saved in ./fuzz-failures. `--out` is a record's folder: tools/records/DATE_fuzz_HARDWARE.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click

from alexnet_fast.environment import environment
from alexnet_fast.errors import InputError
from alexnet_fast.files import write_json
from tests.system.fuzzing import native_report
from tests.system.fuzzing.harness import CPU_SECONDS, SECONDS, Outcome, fuzz, sample

FAILURES = Path("fuzz-failures")
BUILD = Path("build", "fuzz-native")
"""Programs, and the corpora that libFuzzer goes on with the next time."""


@click.group()
def main() -> None:
    """Damaged and strange files for everything that reads files."""


@main.command()
@click.option("--inputs", default=10_000, show_default=True, help="Files a target.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", default="", help="Targets whose name holds this.")
@click.option("--jobs", default=1, show_default=True, help="Targets at once.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def readers(inputs: int, seed: int, only: str, jobs: int, out: Path | None) -> None:
    """Damaged files for what reads files in Python."""
    from tests.system.fuzzing.targets import TARGETS  # and with them all of the package, which `native` needs not

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


@main.command()
@click.option("--minutes", default=10.0, show_default=True, help="Of libFuzzer, for each fuzzer, one after the other.")
@click.option("--tables", default=60_000, show_default=True, help="JPEGs of random codes.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def native(minutes: float, tables: int, out: Path | None) -> None:
    """Strange JPEGs for the compiled code that decodes them."""
    about = environment() if out else {}  # of the code as it is now
    try:
        report = native_report.run(BUILD, FAILURES, minutes=minutes, tables=tables)
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if out:
        out.mkdir(parents=True)
        write_json(out / "numbers.json", {**about, **report.numbers()})
        (out / "README.md").write_text(report.page(), encoding="utf-8")
    print(report.summary())
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
