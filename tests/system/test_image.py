"""The image: built from this checkout, the demo run in it as a stranger without network or writable root, and what is
in it. Where no container engine can be had, skipped."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
STARTER = REPOSITORY.parent / "shared" / "docker-here.sh"
"""Starts an engine on a machine without one; beside the checkout, not part of the repository."""
NAME = "alexnet-fast-test"
LOCKED = ("--user", "54321:54321", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Other tests run beside; threads that wait for one another then take many times as long."""

Docker = Callable[..., str]


@pytest.fixture(scope="module")
def engine() -> dict[str, str]:
    """The environment in which `docker` works."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return dict(os.environ)
    if not STARTER.exists():
        pytest.skip("needs a Docker engine")
    started = subprocess.run(["bash", STARTER, "up"], capture_output=True, text=True)
    if started.returncode == 3:
        pytest.skip(f"no Docker engine can be had here: {started.stderr.splitlines()[-1]}")
    assert started.returncode == 0, started.stderr
    variables = subprocess.run(
        ["bash", "-c", 'eval "$(bash "$1" env)" && env -0', "-", STARTER], capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in variables.stdout.split("\0") if line)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tools/image is given."""
    return tmp_path_factory.mktemp("image") / "a folder"


@pytest.fixture(scope="module")
def demo(engine: dict[str, str], kept: Path) -> dict[str, Any]:
    """What tools/image prints, after it built the image NAME."""
    command = [str(REPOSITORY / "tools" / "image"), "--out", kept.name, "--epochs", "1", "--json", "-"]
    variables = {**engine, **ONE_THREAD, "IMAGE": NAME}
    done = subprocess.run(command, env=variables, cwd=kept.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    where = f"Report: {kept}/report.html; curves and predictions: {kept}/demo.png"
    assert done.stderr.splitlines()[-1] == where
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def docker(demo: dict[str, Any], engine: dict[str, str]) -> Docker:
    def call(*arguments: str | Path) -> str:
        done = subprocess.run(["docker", *arguments], env={**engine, **ONE_THREAD}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def inside(docker: Docker) -> Docker:
    """Calls a program of the image, locked in."""
    return lambda program, *arguments: docker("run", "--rm", *LOCKED, "--entrypoint", program, NAME, *arguments)


def test_the_demo_runs_in_it(demo: dict[str, Any]) -> None:
    assert demo["images"] == 400
    assert demo["top1"] > 20  # after one epoch; guessing gives 5


@pytest.mark.usefixtures("demo")
def test_its_report_and_picture_are_left_in_the_folder(kept: Path) -> None:
    assert {path.name for path in kept.iterdir()} == {"report.html", "demo.png"}
    assert "</html>" in (kept / "report.html").read_text(encoding="utf-8")
    with Image.open(kept / "demo.png") as picture:
        picture.load()


@pytest.fixture(scope="module")
def printed(inside: Docker) -> str:
    return inside("alexnet-fast", "--version", "--verbose")


def test_its_packages_are_those_of_the_constraints(inside: Docker, printed: str) -> None:
    """By pip's own listing; `--version --verbose` says the same."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    frozen = inside("pip", "--python", "/opt/venv", "freeze", "--all").split()
    installed = dict(line.lower().replace("_", "-").split("==") for line in frozen if "==" in line)
    assert {"torch", "nvidia-dali-cuda120", "s3fs", "onnx", "distributed", "pyarrow"} <= set(installed)
    marker = {"python_version": "3.11"}
    wanted = {one.name: one.specifier for one in requirements if one.marker is None or one.marker.evaluate(marker)}
    assert {name: version for name, version in installed.items() if version not in wanted.get(name, ())} == {}

    named = dict(re.findall(r"^  (\S+)==(\S+)$", printed, re.MULTILINE))
    assert named.pop("alexnet-fast")
    assert named == installed


def test_its_labels_user_and_volumes(docker: Docker, printed: str) -> None:
    config = json.loads(docker("image", "inspect", NAME))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert set(config["Volumes"]) == {"/data", "/runs"}
    assert config["Entrypoint"] == ["alexnet-fast"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in config["Env"]  # video: nvJPEG's hardware decoder
    commit = config["Labels"]["org.opencontainers.image.revision"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", commit)
    assert f"commit: {commit}\n" in printed


def test_nothing_is_left_in_it_from_building(docker: Docker) -> None:
    """No cache, and of compilers only Triton's, to the eyes of root."""
    script = """
        for name in g++ c++ clang make; do command -v $name; done
        find /root/.cache /var/lib/apt/lists /src /wheels -type f 2>/dev/null
        true
    """
    assert docker("run", "--rm", *LOCKED, "--user", "0:0", "--entrypoint", "sh", NAME, "-c", script) == ""


def test_the_kernels_are_there(inside: Docker) -> None:
    code = """if True:
        import torch
        from alexnet_fast import native
        print(native.decoder(), native.find_openmp(), native.description()["native_reason"])
    """
    assert inside("python", "-c", code).strip() == "huffman True None"


def test_triton_finds_what_it_compiles_itself_with(inside: Docker) -> None:
    code = """if True:
        import pathlib, shutil, sysconfig
        print(shutil.which("gcc"), pathlib.Path(sysconfig.get_paths()["include"], "Python.h").is_file())
    """
    assert inside("python", "-c", code).strip() == "/usr/bin/gcc True"


def test_help_and_health_are_quick(inside: Docker) -> None:
    """Under a second, measured inside; here with room for a busy machine."""
    code = """if True:
        import subprocess, time
        for option in ("--help", "--version"):
            started = time.perf_counter()
            subprocess.run(["alexnet-fast", option], check=True, stdout=subprocess.DEVNULL)
            print(time.perf_counter() - started)
    """
    assert max(map(float, inside("python", "-c", code).split())) < 5


def test_it_works_on_mounted_folders_as_any_user(docker: Docker, image_folder: Path, tmp_path: Path) -> None:
    """The lines of docs/containers.md, with the default paths: shards/imagenet is in /data, runs/... in /runs."""
    for name in ("shards", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    user = str(os.getuid() or 54321)  # whose files the clean-up can delete
    volumes = ["-v", f"{tmp_path}/shards:/data", "-v", f"{tmp_path}/runs:/runs"]
    start = ["run", "--rm", "--env", "OMP_NUM_THREADS", *LOCKED, "--user", user, *volumes]
    image_folder.chmod(0o755)
    docker(*start, "-v", f"{image_folder}:/imagenet:ro", NAME, "shard", "--src", "/imagenet", "--size", "96")
    assert (tmp_path / "shards" / "imagenet" / "manifest.json").exists()
    settings = ("--epochs", "1", "--batch", "30", "--set", "hidden=32", "--arch", "bn")
    docker(*start, NAME, "train", "--run", "runs/first", *settings)
    environment = json.loads((tmp_path / "runs" / "first" / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["commit"]
    assert "top-1" in docker(*start, NAME, "eval", "runs/first", "--shards", "shards/imagenet")
