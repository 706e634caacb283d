"""Commands in processes of their own: what they import, standard output, stops, exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_fast

REPOSITORY = Path(alexnet_fast.__file__).parents[1]


def in_a_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_help_imports_neither_torch_nor_dali() -> None:
    """They take seconds; the help of a command must not."""
    code = (
        "import sys; from alexnet_fast.cli.main import main\n"
        "for name in ['', *main.commands]: main([*filter(None, [name]), '--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'nvidia.dali', 'PIL', 'matplotlib') if name in sys.modules])"
    )
    assert in_a_process("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_standard_output_that_takes_nothing_is_a_line(option: str) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "alexnet_fast", option]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "Error: [Errno 28] No space left on device\n")


def test_matplotlib_says_nothing_of_a_home_that_may_not_be_written() -> None:
    code = "from alexnet_fast.cli.main import main; main(['report'], standalone_mode=False)"
    later = "import matplotlib.figure"
    script = f"try: exec({code!r})\nexcept Exception: {later}"
    variables = {"PATH": os.environ["PATH"], "HOME": "/proc"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_what_is_installed_shards_and_not_a_checkout_in_the_working_folder(
    source_with_a_bad_file: Path, tmp_path: Path
) -> None:
    """In the clone, after pip install: its own sources there are not compiled."""
    program = Path(sys.executable).with_name("alexnet-fast")
    if not program.exists():
        pytest.skip("needs alexnet-fast to be installed")
    (tmp_path / "alexnet_fast").mkdir()
    (tmp_path / "alexnet_fast" / "__init__.py").write_text("raise SystemExit('imported from the working folder')")
    command = [str(program), "shard", "--src", str(source_with_a_bad_file), "--out", "out"]
    done = subprocess.run(
        [*command, "--size", "16", "--workers", "1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "imported from the working folder" not in done.stderr
    assert (tmp_path / "out" / "manifest.json").exists()


def test_shard_strict_with_json_on_standard_output(source_with_a_bad_file: Path, tmp_path: Path) -> None:
    """As a user runs it: standard output is JSON alone, and a rejected file ends in exit code 1."""
    arguments = ("--src", source_with_a_bad_file, "--out", tmp_path / "out", "--size", "16", "--workers", "1")
    result = in_a_process("-m", "alexnet_fast", "shard", *arguments, "--strict", "--json", "-")
    assert result.returncode == 1
    assert json.loads(result.stdout)["rejected"] == 1
    assert "Left out 1 file that could not be read" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_before_training_is_a_line(number: signal.Signals, tmp_path: Path) -> None:
    """While torch is imported."""
    code = (
        "import os, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'torch': os.kill(os.getpid(), {int(number)})\n"
        "from alexnet_fast.cli.main import main\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"main(['train', '--gpus', '0', '--run', {str(tmp_path / 'run')!r}])\n"
    )
    result = in_a_process("-c", code)
    assert (result.returncode, result.stderr) == (0, "\nStopped before the first step; nothing to save.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["click", "numpy"])
def test_a_stop_before_sharding_is_a_line(
    module: str, number: signal.Signals, image_folder: Path, tmp_path: Path
) -> None:
    """While our own modules are imported, and those of the command; sent twice, as `timeout` does."""
    code = (
        "import os, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: [os.kill(os.getpid(), {int(number)}) for _ in range(2)]\n"
        "from alexnet_fast.__main__ import run\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"sys.argv[1:] = ['shard', '--src', {str(image_folder)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "run()\n"
    )
    result = in_a_process("-c", code)
    assert (result.returncode, result.stderr) == (128 + number, "\nStopped; nothing was begun.\n")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback() -> None:
    arguments = ("shard", "--src", "/nowhere/at/all")
    plain = in_a_process("-m", "alexnet_fast", *arguments)
    assert plain.returncode == 2
    assert plain.stderr.startswith("Error: /nowhere/at/all does not exist.")
    assert "Traceback" not in plain.stderr
    debug = in_a_process("-m", "alexnet_fast", "--debug", *arguments)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "InputError: /nowhere/at/all does not exist." in debug.stderr
