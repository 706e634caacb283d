"""One nightly run of the fuzzers of the native code, and what is written of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.system.fuzzing.native_build import FUZZERS
from tests.system.fuzzing.native_run import Outcome, fuzz, line_coverage, prepare, replay
from tests.system.fuzzing.native_seeds import seeds, table_inputs

AT_ONCE = 2000
"""JPEGs of random codes, of one pack."""
DECODING = ("axis.c", "crops.c", "header.c", "huffman.c", "libjpeg.c", "resize.c")
"""The C files that the fuzzers are for; of the others they reach little."""
PARTS = {"libfuzzer": "changed by libFuzzer", "tables": "of random codes"}


@dataclass
class Report:
    """`outcomes`: by the part (PARTS) and the fuzzer's name; `coverage`: see `line_coverage`."""

    leaks: bool
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    coverage: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def failures(self) -> dict[str, str]:
        return {name: reason for outcome in self.outcomes.values() for name, reason in outcome.failures.items()}

    def numbers(self) -> dict[str, Any]:
        """For numbers.json."""
        parts = [
            {
                "part": part,
                "fuzzer": name,
                "executions": outcome.executions,
                "seconds": round(outcome.seconds),
                "counts": {kind: outcome.counts[kind] for kind in COUNTS},
            }
            for (part, name), outcome in self.outcomes.items()
        ]
        return {"leak_sanitizer": self.leaks, "parts": parts, "coverage": self.coverage, "failures": self.failures}

    def summary(self) -> str:
        executions = sum(outcome.executions for outcome in self.outcomes.values())
        failed = [f"FAILED {name}: {reason}" for name, reason in self.failures.items()]
        covered = [
            f"{name:12s} {lines['run']:4} of {lines['lines']:4} lines run{_missed(lines['missed'])}"
            for name, lines in self.coverage.items()
            if name in DECODING
        ]
        return "\n".join([*covered, *failed, f"{executions:,} executions, {len(failed)} failures"])

    def page(self) -> str:
        return "\n".join(_page(self)) + "\n"


COUNTS = ("decoded", "clean", "accepted", "ours", "usual", "left", "between")
"""Of native/check.h."""


def run(build: Path, failures: Path, *, minutes: float, tables: int) -> Report:
    """All of it, with a line a part on standard output. Raises InputError without clang, libFuzzer or llvm."""
    build, failures = build.resolve(), failures.resolve()
    fuzzers = prepare(build, needs_libfuzzer=True)
    report = Report(fuzzers.leaks)
    if not fuzzers.leaks:
        print("LeakSanitizer cannot run here: memory is only compared before and after each input")
    given: dict[str, list[bytes]] = {}
    for name in FUZZERS:
        report.outcomes["tables", name] = Outcome()
    for first in range(0, tables, AT_ONCE):
        inputs = table_inputs(first, min(AT_ONCE, tables - first))
        for name in FUZZERS:
            add(report.outcomes["tables", name], replay(fuzzers, name, inputs, failures))
            given.setdefault(name, inputs)
    for name in FUZZERS:
        print(_line(name, "tables", report.outcomes["tables", name]), flush=True)
    for name in FUZZERS:
        corpus = fill(build / f"corpus-{name}")
        report.outcomes["libfuzzer", name] = fuzz(fuzzers, name, corpus, failures, seconds=round(60 * minutes))
        print(_line(name, "libfuzzer", report.outcomes["libfuzzer", name]), flush=True)
        given[name] = [*given.get(name, []), *(path.read_bytes() for path in sorted(corpus.iterdir()))]
    report.coverage = line_coverage(build, given)
    return report


def fill(corpus: Path, tables: int = 200) -> Path:
    """Puts the seeds, so many of them of random codes, into a corpus, beside what libFuzzer found before."""
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds(tables):
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return corpus


def add(to: Outcome, more: Outcome) -> None:
    to.executions += more.executions
    to.counts += more.counts
    to.failures |= more.failures
    to.seconds += more.seconds


def _line(name: str, part: str, outcome: Outcome) -> str:
    counts = outcome.counts
    line = f"{name:6s} {outcome.executions:9,} {PARTS[part]:21s} {counts['decoded']:9,} given to libjpeg too, "
    line += f"{counts['clean']:9,} without a warning, {counts['accepted']:9,} accepted"
    line += f", {counts['ours']:,} by huffman.c"
    if name == "resize":
        line += f", {counts['left']} of {counts['usual']:,} usual ones left to others"
    return line + f"  {outcome.executions / max(outcome.seconds, 1):,.0f}/s"


def _missed(lines: list[int]) -> str:
    return f", not {', '.join(map(str, lines))}" if lines else ""


def _page(report: Report) -> Iterator[str]:
    yield "# Strange JPEGs for the compiled decoder\n"
    yield "`python -m tools.fuzz native`: what was checked is in that file's first lines, versions in numbers.json.\n"
    columns = ("executions", "given to libjpeg too", "without a warning", "accepted", "begun by huffman.c", "failures")
    yield f"| fuzzer | inputs | {' | '.join(columns)} |"
    yield "| --- | --- |" + " --- |" * len(columns)
    for (part, name), outcome in report.outcomes.items():
        numbers = (outcome.executions, *(outcome.counts[kind] for kind in COUNTS[:4]), len(outcome.failures))
        yield f"| {name} | {PARTS[part]} | {' | '.join(f'{number:,}' for number in numbers)} |"
    yield "\n| file | lines | run |"
    yield "| --- | --- | --- |"
    for name, lines in report.coverage.items():
        if name in DECODING:
            yield f"| {name} | {lines['lines']} | {lines['run']} |"
    yield ""
    for name, reason in report.failures.items():
        yield f"- {name}: {reason}"
