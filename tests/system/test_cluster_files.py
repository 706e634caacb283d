"""The files for clusters: their syntax, and that what they call is there."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from alexnet_fast.cli.main import main
from alexnet_fast.training import checkpoint
from tests.system.test_elastic import running
from tests.waiting import wait_for

TOOLS = Path(__file__).resolve().parents[2] / "tools"
SLURM = sorted((TOOLS / "slurm").iterdir())
MANIFEST = TOOLS / "kubernetes" / "alexnet-fast.yaml"


def shell_files() -> list[Path]:
    files = [path for path in (*TOOLS.iterdir(), *SLURM) if path.is_file()]
    return [path for path in files if path.read_bytes().startswith(b"#!/usr/bin/env bash")]


@pytest.mark.parametrize("path", shell_files(), ids=lambda path: path.name)
def test_shell_syntax(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", "--exclude", "SC1091,SC2154", path], capture_output=True, text=True)
        assert checked.stdout == ""


def test_the_dockerfile_is_clean(tmp_path: Path) -> None:
    if not shutil.which("hadolint"):
        pytest.skip("needs hadolint")
    home = {**os.environ, "HOME": str(tmp_path)}  # it fails without one
    checked = subprocess.run(["hadolint", TOOLS.parent / "Dockerfile"], env=home, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


FAKE = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@"
"""
Call = Callable[..., list[str]]


@pytest.fixture
def called(tmp_path: Path) -> Call:
    """Runs a command in an empty folder; returns the program it calls, alexnet-fast or torchrun, and its arguments."""
    for name in ("bin/alexnet-fast", "bin/torchrun", ".venv/bin/activate"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FAKE if name.startswith("bin") else "")
        (tmp_path / name).chmod(0o755)

    def call(*command: str | Path, **environment: str) -> list[str]:
        variables = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **environment}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
        return done.stdout.split("\0")[:-1]

    return call


def parse(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of them; a flag it does not know raises."""
    assert isinstance(main, click.Group)
    name, *rest = arguments
    return main.commands[name].make_context(name, rest).params


def test_slurm_shards_every_part(called: Call) -> None:
    script = TOOLS / "slurm" / "shard.sbatch"
    array = re.search(r"^#SBATCH --array=1-(\d+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert array
    variables = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": array[1], "SLURM_CPUS_PER_TASK": "8"}
    program, *arguments = called("bash", script, "/imagenet", "/out", "--size", "128", **variables)
    assert program == "alexnet-fast"
    params = parse(arguments)
    assert (params["part"], params["workers"]) == ((3, int(array[1])), 8)
    assert (params["src"], params["outs"]) == (Path("/imagenet"), ("/out",))


SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/sh
case "$1" in show) echo 127.0.0.1 ;; *) echo "$@" >> "$REQUESTS" ;; esac
"""


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_slurm_trains_and_queues_itself_again(raw_shards: Path, tmp_path: Path) -> None:
    """Two processes on the CPU, with stand-ins for srun and scontrol. Told that its time is over, it saves, asks to be
    queued again and ends well; queued again, it goes on to the end."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    run, requests, output = tmp_path / "a run", tmp_path / "requests", tmp_path / "output.txt"
    job = next(str(number) for number in range(os.getpid() % 10_000, 20_000) if is_free(20_000 + number % 10_000))
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "REQUESTS": str(requests),
        **{"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1]", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"},
    }
    settings = ["arch=onetower", "hidden=16", "crop=64", "precision=fp32", "log_every=1", "threads=1"]
    options = ["--gpus", "0", "--shards", str(raw_shards), "--batch", "4", "--epochs", "3"]
    options += [word for setting in settings for word in ("--set", setting)]

    command = ["bash", str(TOOLS / "slurm" / "train.sbatch"), str(run), *options]
    with running(command, output, variables, tmp_path) as first:
        wait_for((run / "log.jsonl").exists, first)
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=200) == 0, output.read_text()
    assert requests.read_text() == f"requeue {job}\n"
    saved = checkpoint.load(run / "last.pt")
    assert saved["epoch"] < 3
    with running(command, output, variables, tmp_path) as second:
        assert second.wait(timeout=200) == 0, output.read_text()
    assert f"resuming from {run / 'last.pt'}: epoch {saved['epoch'] + 1}" in output.read_text()
    assert checkpoint.load(run / "last.pt")["epoch"] == 3
    assert requests.read_text() == f"requeue {job}\n"


def documents() -> dict[str, dict[str, Any]]:
    found = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))
    return {f"{one['kind']} {one['metadata']['name']}": one for one in found}


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert only["command"] == ["sh", "-euc"]
    return dict(only)


def test_kubernetes_parts_fit_together() -> None:
    found = documents()
    assert set(found) == {"Job alexnet-shard", "Service alexnet-train", "Job alexnet-train"}
    service, train = found["Service alexnet-train"], found["Job alexnet-train"]
    pod = train["spec"]["template"]
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    for job in (found["Job alexnet-shard"], train):
        assert job["apiVersion"] == "batch/v1"
        assert job["spec"]["completionMode"] == "Indexed"  # gives each pod its number and its name
        spec = job["spec"]["template"]["spec"]
        assert spec["restartPolicy"] in ("OnFailure", "Never")  # all that a Job allows
        mounts = {mount["name"] for mount in container(job)["volumeMounts"]}
        assert mounts == {volume["name"] for volume in spec["volumes"]}
        assert job["spec"]["parallelism"] == job["spec"]["completions"]


def test_kubernetes_shards_every_part(called: Call) -> None:
    job = documents()["Job alexnet-shard"]
    (script,) = container(job)["args"]
    total = job["spec"]["completions"]
    for index in (0, total - 1):
        _, *arguments = called("sh", "-euc", script, JOB_COMPLETION_INDEX=str(index))
        assert parse(arguments)["part"] == (index + 1, total)


def test_kubernetes_trains_with_torchrun(called: Call) -> None:
    """With torch's own parser of torchrun's flags, and ours of what follows. The same command begins and goes on."""
    from torch.distributed.run import parse_args

    found = documents()
    job, service = found["Job alexnet-train"], found["Service alexnet-train"]
    (script,) = container(job)["args"]
    program, *arguments = called("sh", "-euc", script, JOB_COMPLETION_INDEX="1")
    assert program == "torchrun"
    options = parse_args(arguments)
    assert (options.nnodes, options.node_rank) == (str(job["spec"]["completions"]), 1)
    assert options.master_addr == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert options.master_port == service["spec"]["ports"][0]["port"]
    assert (options.module, options.training_script) == (True, "alexnet_fast")
    ours = [argument for argument in options.training_script_args if argument != "--"]
    assert ours[0] == "train"
    given = parse(ours)
    assert (given["resume"], given["recipe"]) == (True, "fast")
