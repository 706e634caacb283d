"""What is recorded of the machine, and what is said where it cannot do what is asked. Only what our code asks of the
system and of torch is replaced here."""

import ctypes
import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import alexnet_fast
from alexnet_fast.cli.main import main
from alexnet_fast.commit import RECORD
from alexnet_fast.distributed.devices import check_gpus, processes_here
from alexnet_fast.environment import (
    COMMIT_VARIABLE,
    cores,
    environment,
    install_command,
    limit_threads,
    why_no_triton,
)
from alexnet_fast.errors import InputError
from alexnet_fast.loading import checks
from tests.conftest import pretend_file, turn_native_off


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_library)


def give_gpus(monkeypatch: pytest.MonkeyPatch, gpus: int, cuda: str | None = "13.0") -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.version, "cuda", cuda)


def give_driver(monkeypatch: pytest.MonkeyPatch, cuda: int) -> None:
    """libcuda of a driver for that CUDA: 12020 is 12.2. The kernel module is 535.104.05."""

    def query(pointer: Any) -> int:
        pointer._obj.value = cuda
        return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=query))
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build\nGCC version:  gcc 12\n"
    pretend_file(monkeypatch, "/proc/driver/nvidia/version", text)


def test_version_verbose_prints_what_is_installed() -> None:
    code, output = run("--version", "--verbose")
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == f"alexnet-fast, version {alexnet_fast.__version__}"
    assert f"python: {platform.python_version()}" in lines
    for name in ("torch", "nvidia-dali-cuda120", "jinja2"):
        assert f"  {name}=={version(name)}" in lines
    assert run("--verbose")[0] == 2
    assert run("--verbose", "demo")[0] == 2


def test_the_driver_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(json.dumps(environment()))["packages"]["numpy"] == version("numpy")
    give_driver(monkeypatch, 12020)
    assert environment()["driver"] == "535.104.05"


def test_the_library_of_the_jpeg_hardware_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `--version --verbose` where there is a GPU; the image asks for it by `video`."""
    give_gpus(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "H200")
    there: list[str] = []

    def load(name: str) -> Any:
        if name not in there:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    missing = run("--version", "--verbose")[1]
    (line,) = re.findall(r"^libnvcuvid: not found, so .* (NVIDIA_DRIVER_CAPABILITIES=\S+)$", missing, re.MULTILINE)
    dockerfile = Path(__file__).resolve().parents[1] / "Dockerfile"
    assert f" {line}\n" in dockerfile.read_text(encoding="utf-8")
    assert "video" in line.partition("=")[2].split(",")
    there.append("libnvcuvid.so.1")
    assert environment()["libnvcuvid"] == "found"
    assert "libnvcuvid: found\n" in run("--version", "--verbose")[1]
    give_gpus(monkeypatch, 0)
    assert environment()["libnvcuvid"] is None


@pytest.fixture
def ask_triton_anew() -> Iterator[None]:
    why_no_triton.cache_clear()
    yield
    why_no_triton.cache_clear()


def test_triton_is_not_used_where_it_cannot_compile(
    ask_triton_anew: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked once, and the first process of a machine says why."""
    pytest.importorskip("triton")
    from triton.runtime import driver

    def no_compiler() -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=no_compiler))
    reason = "Triton is not used: Failed to find C compiler. Please specify via CC environment variable"
    assert [why_no_triton(), why_no_triton()] == [reason] * 2
    assert capsys.readouterr().err == f"{reason}. Training on the GPU is slower. Install gcc and Python's headers.\n"
    give_gpus(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "H200")
    assert environment()["triton"] == reason
    why_no_triton.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert why_no_triton() == reason
    assert capsys.readouterr().err == ""


def test_triton_is_used_where_it_compiles(ask_triton_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from triton.runtime import driver

    assert environment()["triton"] is None  # nothing to use it on
    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_target=lambda: None))
    assert why_no_triton() is None
    give_gpus(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "H200")
    assert environment()["triton"] == "used"


def test_triton_is_not_used_where_it_is_missing(ask_triton_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_no_triton() == "Triton is not used: import of triton halted; None in sys.modules"


def test_the_commit_is_the_checkout_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package in a repository of its own, changed, then outside of one."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    package = tmp_path / "alexnet_fast"
    package.mkdir()
    for name in ("__init__.py", "commit.py", "environment.py"):
        shutil.copy(Path(alexnet_fast.__file__).with_name(name), package)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    made = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()

    def told(**variables: str) -> str:
        code = "from alexnet_fast.environment import commit; print(commit())"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", **variables}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert told() == made
    (package / "__init__.py").write_text("__version__ = '2'\n")
    assert told() == f"{made}-dirty"
    shutil.rmtree(tmp_path / ".git")
    (package / RECORD).write_text("b0a7\n")  # as in a wheel
    assert told() == "b0a7"
    assert told(**{COMMIT_VARIABLE: "c0ffee"}) == "c0ffee"


QUOTA, PERIOD = "cpu,cpuacct/cpu.cfs_quota_us", "cpu,cpuacct/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, 4),
        ("4:memory:/x\n3:cpu,cpuacct:/docker/1\n", {QUOTA: "200000\n", PERIOD: "100000\n"}, 2),
        ("3:cpu,cpuacct:/\n", {QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
        ("", {}, 8),
    ],
)
def test_cores_are_those_of_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(tmp_path) == expected
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    limit_threads(tmp_path)
    assert os.environ.pop("OMP_NUM_THREADS", "8") == str(expected)


def test_cores_without_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, which has no affinity either."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores(tmp_path) == 10


def refused(*arguments: str | Path) -> str:
    code, output = run(*arguments)
    assert code == 2
    assert output.startswith("Error: ")
    return output.removeprefix("Error: ").rstrip("\n")


def test_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 0, cuda=None)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert refused("train", "--gpus", "2") == (
        "--gpus 2 asks for 2 GPUs: torch 2.13.0+cpu is built without CUDA. On Linux pip's default is the build with "
        "it; see pytorch.org/get-started. On the CPU: --gpus 0."
    )


@pytest.mark.usefixtures("no_driver")
def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 0)
    assert refused("train", "--gpus", "1") == (
        "--gpus 1 asks for 1 GPU: there is no NVIDIA driver (no libcuda.so.1). Install it, or give the container the "
        "GPUs: docker run --gpus all, with NVIDIA's container toolkit. On the CPU: --gpus 0."
    )


def test_a_driver_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 0)
    give_driver(monkeypatch, 12020)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert refused("train", "--gpus", "1") == (
        "--gpus 1 asks for 1 GPU: the NVIDIA driver 535.104.05 runs CUDA 12.2 at most, torch 2.13.0+cu130 needs "
        "CUDA 13.0. Update the driver, or install torch's build for CUDA 12: pytorch.org/get-started. "
        "On the CPU: --gpus 0."
    )


def test_gpus_that_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 0)
    give_driver(monkeypatch, 13000)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert refused("train", "--gpus", "1") == (
        "--gpus 1 asks for 1 GPU: torch finds none (CUDA_VISIBLE_DEVICES is ''), though there is a driver. "
        "Look at nvidia-smi. On the CPU: --gpus 0."
    )


def test_fewer_gpus_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    message = "--gpus 2 asks for 2 GPUs, torch finds 1. Use --gpus 1, or look at nvidia-smi."
    assert refused("train", "--gpus", "2") == message


def test_fewer_gpus_than_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines with four processes each: what counts is this machine's."""
    give_gpus(monkeypatch, 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    of_torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)
    message = "torchrun started 4 processes here, one a GPU, torch finds 2. Use --nproc-per-node 2, "
    assert message in run("train")[1]
    assert message in refused("train", "--gpus", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check_gpus(2)
    assert processes_here(8) == 2


def test_train_takes_all_gpus_unless_given_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(monkeypatch, 2)

    def start(*_: Any, nprocs: int, **__: Any) -> None:
        raise InputError(f"{nprocs} processes")

    monkeypatch.setattr(torch.multiprocessing, "start_processes", start)
    assert run("train", "--shards", "nowhere") == (2, "--gpus 2\nError: 2 processes\n")
    give_gpus(monkeypatch, 0, cuda=None)
    assert run("train", "--shards", "nowhere")[1].startswith(
        f"training on the CPU: torch {torch.__version__} is built without CUDA."
    )


def test_compile_without_a_compiler(monkeypatch: pytest.MonkeyPatch, jpeg_shards: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    start = ("train", "--shards", jpeg_shards, "--run", tmp_path / "run", "--compile")
    assert refused(*start, "--gpus", "0") == (
        "--compile needs a C++ compiler (g++, clang++, c++), and finds none. Install one (Debian: apt-get install "
        "g++), or leave --compile out."
    )
    give_gpus(monkeypatch, 1)
    monkeypatch.setenv("CC", "icx")
    assert refused(*start, "--gpus", "1").startswith("--compile needs a C compiler (icx), and finds none. ")
    assert not (tmp_path / "run").exists()


def test_jpegs_without_dali(
    monkeypatch: pytest.MonkeyPatch, jpeg_shards: Path, raw_shards: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # as if it were not installed
    turn_native_off(monkeypatch)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    start = ("train", "--gpus", "0", "--epochs", "1", "--batch", "30", "--set", "hidden=32")
    assert refused(*start, "--shards", jpeg_shards, "--run", tmp_path / "run") == (
        "DALI, which decodes the JPEGs of training on GPUs and where nothing was compiled, is not installed. There "
        "are wheels for glibc's Linux on x86_64 and aarch64 (this is riscv64): pip install nvidia-dali-cuda120. "
        "Elsewhere use the Docker image, or shard with --encoding raw, which needs no decoder."
    )
    assert not (tmp_path / "run").exists()
    code, output = run(*start, "--shards", raw_shards, "--run", tmp_path / "run", "--arch", "bn")
    assert code == 0, output


def install_dali(site: Path, cuda: str, libraries: dict[str, bytes]) -> None:
    """What pip does: the files, over others of that name, and a record of them."""
    info = site / f"nvidia_dali_{cuda}-2.4.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nvidia-dali-{cuda}\nVersion: 2.4.0\n")
    (info / "RECORD").write_text("".join(f"{name},,{len(data)}\n" for name, data in libraries.items()))
    for name, data in libraries.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)


def test_two_builds_of_dali_in_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As pip leaves them: the one installed last is complete, until pip takes files of it along with the other's."""
    monkeypatch.setattr(checks, "DALI_BUILDS", ("nvidia-dali-cuda120", "nvidia-dali-cuda130"))
    names = "nvidia/dali/libdali.so", "nvidia/dali/libdali_kernels.so"
    try:
        monkeypatch.syspath_prepend(tmp_path)
        for cuda, size in (("cuda130", 9), ("cuda120", 12)):
            install_dali(tmp_path, cuda, {name: bytes(size) for name in names})
            importlib.invalidate_caches()  # the folder's time may be the same
            checks._incomplete_dali.cache_clear()
            checks.check_dali()
        checks._incomplete_dali.cache_clear()
        (tmp_path / names[1]).unlink()
        with pytest.raises(InputError) as raised:
            checks.check_dali()
    finally:
        checks._incomplete_dali.cache_clear()
    assert str(raised.value) == (
        f"DALI's libraries in {tmp_path}/nvidia/dali are not those of nvidia-dali-cuda120 2.4.0 or nvidia-dali-cuda130 "
        "2.4.0: its builds for CUDA 12 and 13 share that folder, and pip removes or overwrites files of one with the "
        "other. Install one anew: pip uninstall nvidia-dali-cuda120 nvidia-dali-cuda130; pip install "
        "nvidia-dali-cuda120 (for drivers of CUDA 12 and 13)."
    )


@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_other_systems(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    assert refused("train") == (
        "alexnet-fast runs on Linux, for which NVIDIA's DALI has wheels. Elsewhere use its Docker image or, on "
        "Windows, WSL 2 (wsl --install)."
    )
    assert run("--help")[0] == run("--version")[0] == 0


def test_the_command_that_adds_an_extra_fits_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "a checkout"
    checkout.mkdir()
    (checkout / "constraints.txt").touch()

    def of(origin: dict[str, Any]) -> str:
        source = SimpleNamespace(read_text=lambda name: json.dumps(origin) if origin else None)
        monkeypatch.setattr("importlib.metadata.distribution", lambda name: source)
        return install_command("export")

    local = {"url": checkout.as_uri(), "dir_info": {}}
    assert of(local) == f"pip install -c '{checkout}/constraints.txt' '{checkout}[export]'"
    monkeypatch.chdir(checkout)
    assert of({**local, "dir_info": {"editable": True}}) == "pip install -c constraints.txt -e '.[export]'"
    vcs = {"vcs": "git", "commit_id": "abc", "requested_revision": "main"}
    repository = {"url": "https://example.org/a.git", "vcs_info": vcs}
    assert of(repository) == "pip install 'alexnet-fast[export] @ git+https://example.org/a.git@abc'"
    assert of({}) == "pip install 'alexnet-fast[export]'"
