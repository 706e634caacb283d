"""Compiles the fuzzers of the native code (native/*.c here) together with it, with a compiler's sanitizers."""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from alexnet_fast import native
from alexnet_fast.errors import InputError

FUZZERS = ("crop", "resize")
HERE = Path(__file__).with_name("native")
CODE = Path(native.__file__).parent
KERNELS = ("kernels.c", "x86_64_v3.c", "x86_64_v4.c") if platform.machine() in ("x86_64", "AMD64") else ("kernels.c",)
SHARED = ("libjpeg.c", "header.c", "pages.c", "parallel.c", "cpu.c")
"""Of the package, besides the kernels."""
OWN = ("variants.c", "check.c", "pack.c", "oracle.c", "input.c", "axis.c", "thread.c")
SANITIZERS = "address,undefined"
WARNINGS = ("-Wall", "-Wno-unknown-pragmas")


@dataclass(frozen=True)
class Compiler:
    """`flags` of everything that is compiled; `has_fuzzer`: whether it brings libFuzzer."""

    command: str
    flags: tuple[str, ...]
    has_fuzzer: bool


@cache
def find_compiler() -> Compiler:
    """clang with libFuzzer, or else a compiler with the sanitizers alone. Raises InputError with what is missing."""
    reasons = []
    for command in ("clang", "gcc"):
        if not shutil.which(command):
            reasons.append(f"{command} is not installed")
            continue
        common = ("-g", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
        if command == "clang" and _compiles(command, (*common, "-fsanitize=fuzzer"), has_main=False):
            return Compiler(command, (*common, "-fsanitize=fuzzer-no-link"), True)
        if _compiles(command, common, has_main=True):
            return Compiler(command, common, False)
        reasons.append(f"{command} has no sanitizers ({SANITIZERS})")
    raise InputError(f"No compiler for the fuzzers: {'; '.join(reasons)}. Install clang with its runtimes.")


def coverage_compiler() -> Compiler:
    """clang without sanitizers, which counts what is run by line. Raises InputError where it cannot."""
    flags = ("-g", "-fprofile-instr-generate", "-fcoverage-mapping")
    if not shutil.which("clang") or not _compiles("clang", flags, has_main=True):
        raise InputError("Coverage needs clang with its runtimes. Install them.")
    return Compiler("clang", flags, False)


def _compiles(command: str, flags: tuple[str, ...], *, has_main: bool) -> bool:
    """Whether it makes a program of a C file that runs."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "try.c"), Path(folder, "try")
        entry = "int main(void)" if has_main else "int LLVMFuzzerTestOneInput(const char *data, unsigned long bytes)"
        source.write_text(f"{entry} {{ return 0; }}\n")
        made = subprocess.run([command, *flags, source, "-o", program], capture_output=True, check=False)
        arguments = [] if has_main else ["-runs=1", "-detect_leaks=0"]
        if made.returncode:
            return False
        return not subprocess.run([program, *arguments], capture_output=True, check=False, cwd=folder).returncode


@dataclass(frozen=True)
class Build:
    """Programs by the fuzzer's name: `replay` reads packs (native/replay.c), `fuzzer` is libFuzzer's or empty."""

    folder: Path
    replay: dict[str, Path] = field(default_factory=dict)
    fuzzer: dict[str, Path] = field(default_factory=dict)


def build(
    folder: Path,
    compiler: Compiler,
    others: Path,
    *,
    names: Sequence[str] = FUZZERS,
    code: Path = CODE,
    optimise: str = "-O1",
) -> Build:
    """Compiles the fuzzers `names` of `code`, the package's or a copy of it, into `folder`. `others`: a pack of the
    JPEGs that are decoded in between. Raises InputError where Pillow's libjpeg cannot be used."""
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "test-image.pack"
    image.write_bytes(packed([native.TEST_IMAGE.read_bytes()]))
    files = {"OTHERS": others, "TEST_IMAGE": image, "LIBJPEG": libjpeg_file()}
    flags = [*compiler.flags, optimise, *WARNINGS, f"-I{code}", f"-I{HERE}"]
    flags += [f'-D{name}="{path}"' for name, path in files.items()]
    made = [_object(folder, compiler, flags, code / name) for name in (*SHARED, *KERNELS)]
    made += [_object(folder, compiler, flags, HERE / name) for name in OWN]
    programs = Build(folder)
    replay = _object(folder, compiler, flags, HERE / "replay.c")
    mutate = _object(folder, compiler, flags, HERE / "mutate.c")
    for name in names:
        fuzzer = _object(folder, compiler, flags, HERE / f"{name}_fuzzer.c")
        programs.replay[name] = _link(folder / f"replay-{name}", compiler, [*made, fuzzer, replay], compiler.flags)
        if compiler.has_fuzzer:
            linking = [flag.replace("fuzzer-no-link", "fuzzer") for flag in compiler.flags]
            programs.fuzzer[name] = _link(folder / f"fuzz-{name}", compiler, [*made, fuzzer, mutate], linking)
    return programs


def libjpeg_file() -> str:
    """Of the one that Pillow is linked with."""
    found = native.loaded()
    if not found.libjpeg:
        raise InputError(f"There is no libjpeg to fuzz with: {found.reason}.")
    return found.libjpeg


def packed(inputs: list[bytes]) -> bytes:
    """As native/pack.h has it."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in inputs)


def _object(folder: Path, compiler: Compiler, flags: list[str], source: Path) -> Path:
    out = folder / f"{source.stem}.o"
    _run([compiler.command, *flags, "-c", str(source), "-o", str(out)])
    return out


def _link(program: Path, compiler: Compiler, objects: list[Path], flags: list[str] | tuple[str, ...]) -> Path:
    _run([compiler.command, *flags, *map(str, objects), "-o", str(program), "-lm", "-ldl", "-lpthread"])
    return program


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[:4000]}")
    if done.stderr:
        print(done.stderr)
