"""What is loaded, what may be used of it, and what is said where it is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import features

from alexnet_fast import Loader, ShardSet, native
from alexnet_fast.cli.main import main
from alexnet_fast.environment import environment
from alexnet_fast.errors import InputError
from alexnet_fast.loading.checks import needs_dali
from tests.native.libraries import PILLOW, compile_c, fresh

CPU = torch.device("cpu")
MISSING = (
    "alexnet-fast was installed without a C compiler: DALI decodes JPEGs, and the CPU is slower. "
    "Install gcc, then alexnet-fast again.\n"
)


def built() -> None:
    if not native.FILE.exists():
        pytest.skip("needs the compiled code")


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is loaded is loaded again, without ALEXNET_FAST_NATIVE."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    for cached in (native.loaded, native._finds_openmp):
        cached.cache_clear()
    yield
    for cached in (native.loaded, native._finds_openmp):
        cached.cache_clear()


def test_all_of_it_is_used_where_it_can_be(anew: None) -> None:
    """On the machines that tests run on; elsewhere the reason is in the message."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler (cc)")
    if not features.version("libjpeg_turbo"):
        pytest.skip("needs libjpeg-turbo in Pillow")
    assert native.decoder() == "huffman", native.loaded().reason
    assert native.find_openmp()
    kernels = native.kernels()
    assert kernels is not None
    assert kernels.variant == native.variants(native.loaded().library)[-1]  # type: ignore[arg-type]


def test_the_newest_instructions_are_the_processor_s(anew: None) -> None:
    built()
    library = native.loaded().library
    assert library is not None
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        pytest.skip("needs /proc/cpuinfo")
    flags = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    v3 = {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"} <= flags
    v4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    assert native.variants(library) == ["plain", "x86-64-v3", "x86-64-v4"][: 1 + v3 + (v3 and v4)]


@pytest.mark.parametrize("wanted", ["huffman", "libjpeg", "none"])
def test_the_variable_is_the_most_that_is_used(wanted: str, anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    monkeypatch.setenv(native.VARIABLE, wanted)
    found = native.description()
    assert found["native"] == native.decoder() == wanted
    assert needs_dali(CPU) == (wanted == "none")
    assert (native.kernels() is None) == (wanted == "none")
    if wanted == "none":
        assert (found["libjpeg"], found["instructions"]) == (None, None)
    else:
        assert found["libjpeg"] is not None
        assert found["libjpeg"].startswith(f"libjpeg-turbo {features.version('libjpeg_turbo')}, libjpeg")
        assert found["instructions"] in native.VARIANTS
    assert found["native_reason"] == (None if wanted == "huffman" else f"ALEXNET_FAST_NATIVE={wanted}")


def test_an_empty_variable_is_none(anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    built()
    monkeypatch.setenv(native.VARIABLE, "")
    assert native.decoder() == "huffman"


WRONG = "ALEXNET_FAST_NATIVE=wrong is none of huffman, libjpeg, none. Give one of these, or leave it out."


def ends_with_a_line(code: int, output: str) -> None:
    assert (code, output.splitlines()[-1]) == (2, f"Error: {WRONG}")
    assert "Traceback" not in output


def test_a_wrong_variable_ends_with_a_line(
    anew: None, monkeypatch: pytest.MonkeyPatch, raw_shards: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv(native.VARIABLE, "wrong")
    with pytest.raises(InputError, match=re.escape(WRONG)):
        native.loaded()
    run = ("--run", str(tmp_path / "run"), "--epochs", "1")
    for command in (
        ("--version", "--verbose"),
        ("train", "--gpus", "0", "--shards", str(raw_shards), *run),
        ("bench", "--gpus", "0", "--shards", str(raw_shards)),
    ):
        result = CliRunner().invoke(main, command)
        ends_with_a_line(result.exit_code, result.output)


def test_runs_and_records_say_what_was_used(trained_run: Path) -> None:
    for body in (json.loads((trained_run / "environment.json").read_text()), environment()):
        for key, value in native.description().items():
            assert body[key] == value
    assert {"native", "libjpeg", "instructions"} <= native.description().keys()


# --- nothing compiled


def test_without_the_library(
    anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "FILE", tmp_path / "none.so")
    assert native.kernels() is None
    assert native.decoder() == "none"
    assert not native.find_openmp()
    assert native.can_be_read([np.zeros(9, np.uint8)] * 2).tolist() == [True, True]
    assert capfd.readouterr() == ("", MISSING)
    assert native.description() == {
        "native": "none",
        "libjpeg": None,
        "instructions": None,
        "native_reason": "it was installed without a C compiler",
    }
    assert needs_dali(CPU)


def test_it_is_printed_once_by_all_processes(
    anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a machine: not by the second rank."""
    monkeypatch.setattr(native, "FILE", tmp_path / "none.so")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert native.kernels() is None
    assert capfd.readouterr() == ("", "")


def test_loading_works_without_it(
    anew: None,
    monkeypatch: pytest.MonkeyPatch,
    jpeg_shards: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    fed_to_dali: list[int],
) -> None:
    monkeypatch.setattr(native, "FILE", tmp_path / "none.so")
    split = ShardSet(jpeg_shards).split("train")
    seen = [batch.images for batch in Loader.evaluation(split, batch=30, crop=84)]
    assert fed_to_dali == [30, 30]
    assert torch.cat(seen).std() > 10
    assert capfd.readouterr().err == MISSING


def test_a_file_that_is_no_library(anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"no library" * 100)
    monkeypatch.setattr(native, "FILE", path)
    assert native.decoder() == "none"
    assert native.kernels() is None
    assert str(native.description()["native_reason"]).startswith("the compiled library cannot be loaded (")
    assert str(path) in native.loaded().reason


def test_a_library_of_another_version(tmp_path: Path) -> None:
    """As is left where only the Python files were updated."""
    source = tmp_path / "other.c"
    source.write_text("int newest_variant(void) { return 0; }")
    found = native.load(compile_c([source], tmp_path / "other.so"), PILLOW)
    assert (found.kernels, found.decoder) == (None, "none")
    assert found.reason.startswith("the compiled library cannot be loaded (")


def test_without_libjpeg_the_rest_is_used(tmp_path: Path) -> None:
    """Stored pixels, squares and LRN need none."""
    built()
    found = fresh(tmp_path, tmp_path / "none")
    assert found.decoder == "none"
    assert found.kernels is not None
    assert found.reason == "Pillow's libjpeg is not used: it cannot be opened"
