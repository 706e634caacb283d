"""Runs the fuzzers of the native code: on files, or by libFuzzer; and counts which of its lines they reach."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_fast.errors import InputError
from tests.system.fuzzing.native_build import (
    CODE,
    FUZZERS,
    HERE,
    Build,
    build,
    coverage_compiler,
    find_compiler,
    packed,
)
from tests.system.fuzzing.native_seeds import between

MAX_BYTES = 6000
"""Of an input that libFuzzer makes."""
SECONDS = 30
"""Of one input; native/replay.c has the same."""
MEMORY_MB = 2048
"""That a fuzzer may take."""
MOST_FAILURES = 5
"""Of one fuzzer; then it stops."""


@dataclass
class Outcome:
    """Of one fuzzer: inputs that it was given; what it counted of them (native/check.h); by the name of the saved file,
    what went wrong."""

    executions: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0


@dataclass(frozen=True)
class Fuzzers:
    """What was built, and how it is run. `leaks`: whether LeakSanitizer works here, which needs ptrace; where it does
    not, the fuzzers still compare how much memory is allocated before and after an input."""

    programs: Build
    compiler: str
    leaks: bool

    @property
    def environment(self) -> dict[str, str]:
        asan = f"detect_leaks={int(self.leaks)}:hard_rss_limit_mb={MEMORY_MB}"
        options = {"ASAN_OPTIONS": asan, "UBSAN_OPTIONS": "print_stacktrace=1"}
        return {**os.environ, **options}


def prepare(folder: Path, *, needs_libfuzzer: bool = False, optimise: str = "-O1") -> Fuzzers:
    """Builds all in `folder`. Raises InputError where what it needs is not there."""
    compiler = find_compiler()
    if needs_libfuzzer and not compiler.has_fuzzer:
        raise InputError("There is no clang with libFuzzer. Install clang and its runtimes (libclang-rt on Debian).")
    programs = build(folder / "sanitized", compiler, pack_between(folder), optimise=optimise)
    return Fuzzers(programs, compiler.command, _finds_leaks(programs))


def pack_between(folder: Path) -> Path:
    """A pack of the JPEGs that are decoded in between."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "between.pack"
    path.write_bytes(packed(between()))
    return path


def _finds_leaks(programs: Build) -> bool:
    empty = programs.folder / "empty.pack"
    empty.write_bytes(b"")
    command = [str(programs.replay[FUZZERS[0]]), str(empty), "0", str(programs.folder / "progress")]
    options = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=options)
    if done.returncode and "LeakSanitizer has encountered a fatal error" not in done.stderr:
        raise RuntimeError(f"the fuzzer does not start:\n{done.stderr}")
    return not done.returncode


def replay(fuzzers: Fuzzers, name: str, inputs: list[bytes], failures: Path, *, most: int = MOST_FAILURES) -> Outcome:
    """Gives each input to the fuzzer `name`; those that fail, `most` of them, are saved in `failures`."""
    outcome, first, started = Outcome(), 0, time.monotonic()
    pack, progress = fuzzers.programs.folder / f"{name}.pack", fuzzers.programs.folder / f"{name}.progress"
    pack.write_bytes(packed(inputs))
    while first < len(inputs) and len(outcome.failures) < most:
        command = [str(fuzzers.programs.replay[name]), str(pack), str(first), str(progress)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=fuzzers.environment
        )
        outcome.counts += _statistics(done.stderr)
        if not done.returncode:
            outcome.executions += len(inputs) - first
            break
        at = int(progress.read_text())
        outcome.executions += at + 1 - first
        path = failures / f"{name}-{hashlib.sha256(inputs[at]).hexdigest()[:12]}"
        failures.mkdir(parents=True, exist_ok=True)
        path.write_bytes(inputs[at])
        outcome.failures[path.name] = _reason(done.stderr, done.returncode)
        first = at + 1
    outcome.seconds = time.monotonic() - started
    pack.unlink()
    return outcome


def fuzz(
    fuzzers: Fuzzers, name: str, corpus: Path, failures: Path, *, seconds: int = 0, runs: int = 0, seed: int = 0
) -> Outcome:
    """libFuzzer from what is in the folder `corpus`, where it also keeps what is new: for so many seconds or inputs."""
    outcome, started, left = Outcome(), time.monotonic(), seconds
    failures.mkdir(parents=True, exist_ok=True)
    command = [str(fuzzers.programs.fuzzer[name]), str(corpus), f"-max_len={MAX_BYTES}", f"-dict={HERE / 'jpeg.dict'}"]
    # libFuzzer's own limit counts what the process that starts it had in memory: Linux passes that on.
    command += ["-rss_limit_mb=0", f"-malloc_limit_mb={MEMORY_MB}"]
    command += ["-print_final_stats=1", f"-artifact_prefix={failures}/{name}-", f"-timeout={SECONDS}", f"-seed={seed}"]
    while runs or left > 0:
        counts, failed = _one_run([*command, f"-runs={runs}" if runs else f"-max_total_time={left}"], fuzzers)
        outcome.executions += counts["number_of_executed_units"]
        outcome.counts += counts
        outcome.failures |= failed
        left = seconds - int(time.monotonic() - started)
        if runs or not failed or len(outcome.failures) >= MOST_FAILURES:
            break
    outcome.seconds = time.monotonic() - started
    return outcome


def _one_run(command: list[str], fuzzers: Fuzzers) -> tuple[Counter[str], dict[str, str]]:
    """What libFuzzer counted; at the first failure it ends: the name of the saved file, and what went wrong."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=fuzzers.environment
    )
    if not done.returncode:
        return _statistics(done.stderr), {}
    saved = re.search(r"Test unit written to (\S+)", done.stderr)
    if not saved:
        raise RuntimeError(f"libFuzzer failed:\n{done.stderr[-4000:]}")
    return _statistics(done.stderr), {Path(saved[1]).name: _reason(done.stderr, done.returncode)}


def _statistics(text: str) -> Counter[str]:
    return Counter({name: int(count) for name, count in re.findall(r"^stat::(\w+):\s+(\d+)", text, re.M)})


def _reason(text: str, code: int) -> str:
    """The line that says what went wrong, and which of our functions it was in."""
    found = re.search(r"^FAILED: .*|.*runtime error: .*|.*ERROR: \w+(?:Sanitizer|Fuzzer).*", text, re.M)
    where = re.findall(r"in (\w+) \S*?(\w+\.[ch]:\d+)", text)[:3]
    what = found[0] if found else f"exit code {code}"
    return " ".join([what, *(f"<- {name} {place}" for name, place in where)])


def line_coverage(folder: Path, inputs: dict[str, list[bytes]]) -> dict[str, dict[str, list[int] | int]]:
    """Of each C file of the package: how many lines hold code (`lines`), how many of them ran when the fuzzers were
    given `inputs` (`run`), and which did not (`missed`). Raises InputError without clang and llvm."""
    for tool in ("llvm-profdata", "llvm-cov"):
        if not shutil.which(tool):
            raise InputError(f"Coverage needs {tool}. Install llvm.")
    programs = build(folder / "coverage", coverage_compiler(), pack_between(folder))
    profiles = []
    for name, given in inputs.items():
        profiles.append(programs.folder / f"{name}.profraw")
        fuzzers = Fuzzers(programs, "clang", False)
        os.environ["LLVM_PROFILE_FILE"] = str(profiles[-1])
        try:
            outcome = replay(fuzzers, name, given, programs.folder)
        finally:
            del os.environ["LLVM_PROFILE_FILE"]
        if outcome.failures:
            raise RuntimeError(f"{name}: {outcome.failures}")
    merged = programs.folder / "profile"
    subprocess.run(["llvm-profdata", "merge", *profiles, "-o", merged], check=True)
    first, *others = programs.replay.values()
    command = ["llvm-cov", "export", "-format=lcov", f"-instr-profile={merged}", str(first)]
    command += [part for program in others for part in ("-object", str(program))]
    exported = subprocess.run(
        [*command, *map(str, sorted(CODE.glob("*.c")))], capture_output=True, text=True, check=True
    ).stdout
    return _lines_of(exported.splitlines())


def _lines_of(exported: Iterable[str]) -> dict[str, dict[str, list[int] | int]]:
    counts: dict[str, dict[int, int]] = {}
    name = ""
    for line in exported:
        if line.startswith("SF:"):
            name = Path(line[3:]).name
        elif line.startswith("DA:"):
            number, count = map(int, line[3:].split(",")[:2])
            lines = counts.setdefault(name, {})
            lines[number] = max(count, lines.get(number, 0))
    return {
        name: {
            "lines": len(lines),
            "run": sum(count > 0 for count in lines.values()),
            "missed": sorted(number for number, count in lines.items() if not count),
        }
        for name, lines in sorted(counts.items())
    }
