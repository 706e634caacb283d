"""The compiled decoder under sanitizers, beside libjpeg alone: nothing wrong is accepted, nothing right refused, no
memory touched that may not be, and nothing depends on what was decoded before.

Millions of inputs are for the night: tools/fuzz.py.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from alexnet_fast.errors import InputError
from tests.system.fuzzing.native_build import CODE, FUZZERS, build, find_compiler
from tests.system.fuzzing.native_report import fill
from tests.system.fuzzing.native_run import Fuzzers, fuzz, prepare, replay
from tests.system.fuzzing.native_seeds import seeds, table_inputs
from tools.fuzz import main

TABLES, RUNS = 400, 1200
LEFT = 0.06
"""Most JPEGs of random codes that sharding leaves to other libraries: where zeros lead beyond a block's end."""


@pytest.fixture(scope="module")
def fuzzers(tmp_path_factory: pytest.TempPathFactory) -> Fuzzers:
    try:
        return prepare(tmp_path_factory.mktemp("fuzzers"), optimise="-O0")
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def tables() -> list[bytes]:
    return table_inputs(0, TABLES)


@pytest.mark.parametrize("name", FUZZERS)
def test_jpegs_of_random_codes(fuzzers: Fuzzers, tables: list[bytes], name: str, tmp_path: Path) -> None:
    """All of which libjpeg decodes without a warning."""
    outcome = replay(fuzzers, name, tables, tmp_path)
    assert outcome.failures == {}
    assert outcome.executions == TABLES
    assert outcome.counts["clean"] == outcome.counts["decoded"] > 0.8 * TABLES
    assert outcome.counts["ours"] > 0.6 * TABLES  # huffman.c, not libjpeg for it
    left = outcome.counts["clean"] - outcome.counts["accepted"]
    assert 0 < left < LEFT * TABLES if name == "resize" else left == 0


@pytest.mark.parametrize("name", FUZZERS)
def test_jpegs_of_every_form_and_those_that_decoders_disagree_on(fuzzers: Fuzzers, name: str, tmp_path: Path) -> None:
    inputs = seeds(0)
    outcome = replay(fuzzers, name, inputs, tmp_path)
    assert outcome.failures == {}
    assert outcome.executions == len(inputs) > 100
    assert 0.3 * len(inputs) < outcome.counts["clean"] < outcome.counts["decoded"]


@pytest.mark.parametrize("name", FUZZERS)
def test_what_libfuzzer_makes_of_them(fuzzers: Fuzzers, name: str, tmp_path: Path) -> None:
    if not fuzzers.programs.fuzzer:
        pytest.skip("no clang with libFuzzer")
    outcome = fuzz(fuzzers, name, fill(tmp_path / "corpus", 0), tmp_path, runs=RUNS, seed=1)
    assert outcome.failures == {}
    assert outcome.executions >= RUNS


MISTAKES = {
    "the last image's symbols": ("huffman.c", "code->symbols, table->count)", "code->symbols, 0)"),
    "the last image's tables": ("libjpeg.c", "    decoder->jpeg = decoder->fresh;\n", ""),
    "a step too far": ("huffman.c", "        if (!first.value_bits) continue;\n", ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(fuzzers: Fuzzers, tables: list[bytes], mistake: str, tmp_path: Path) -> None:
    """Made in a copy of the code."""
    code = Path(shutil.copytree(CODE, tmp_path / "native", ignore=shutil.ignore_patterns("*.so")))
    file, right, wrong = MISTAKES[mistake]
    source = (code / file).read_text()
    assert source.count(right) == 1
    (code / file).write_text(source.replace(right, wrong))
    between = fuzzers.programs.folder.parent / "between.pack"
    compiler = replace(find_compiler(), has_fuzzer=False)
    programs = build(tmp_path / "fuzzers", compiler, between, names=["crop"], code=code, optimise="-O0")
    inputs = [*tables, *seeds(0)]
    found = replay(replace(fuzzers, programs=programs), "crop", inputs, tmp_path / "failures", most=1).failures
    assert len(found) == 1
    assert (tmp_path / "failures" / next(iter(found))).read_bytes() in inputs


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    find_compiler.cache_clear()
    result = CliRunner().invoke(main, ["native", "--minutes", "0", "--tables", "0"])
    find_compiler.cache_clear()
    assert result.exit_code == 2
    assert "clang is not installed" in result.output
