"""C files are compiled once, and whatever the cache folder is like."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_fast import compiled


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alexnet-fast" / "compiled"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "number.c"
    path.write_text("int number(void) { return 7; }")
    if compiled.load(path) is None:
        pytest.skip("no C compiler")
    return path


def number(source: Path) -> int:
    library = compiled.load(source)
    assert library is not None
    value: int = library.number()
    return value


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def test_compiled_once_a_machine(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert number(source) == 7
    (kept,) = cache.iterdir()
    without_compiler(monkeypatch)
    assert number(source) == 7
    kept.unlink()
    assert compiled.load(source) is None


def test_anew_for_another_source_or_processor(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_text("int number(void) { return 8; }")
    assert number(source) == 8
    monkeypatch.setattr(compiled, "_processor", lambda: b"another")
    assert number(source) == 8
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_library_is_not_the_end(cache: Path, source: Path) -> None:
    (kept,) = cache.iterdir()
    kept.unlink()  # it is mapped, and must not change below its user
    kept.write_bytes(b"no library")
    assert number(source) == 7


def test_what_another_user_put_there_is_not_run(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert compiled.load(source) is None


def test_no_folder_to_keep_it_in(cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))
    assert number(source) == 7
