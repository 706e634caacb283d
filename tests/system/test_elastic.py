"""Two machines, each a network namespace with a torchrun agent: one is lost, the other goes on by itself.

Where namespaces are refused, two agents on loopback.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.training.start import train
from tests.waiting import wait_for

SETTINGS: dict[str, Any] = {
    "arch": "onetower",
    "optimizer": "sgd",
    "epochs": 9,
    "batch": 4,
    "lr": 0.0005,
    "dropout": 0.0,
    "hidden": 16,
}
SETTINGS |= {"crop": 64, "precision": "fp32", "threads": 1, "log_every": 1, "save_every": 4}
STEPS = 15
"""Of an epoch: 60 images."""


def ip(*arguments: str) -> bool:
    if shutil.which("ip") is None:
        return False
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Machine:
    address: str
    device: str
    """Of its network."""
    enter: list[str]
    """What a command that runs on it begins with."""


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    tag = uuid4().hex[:6]
    one, two = (
        Machine(f"10.231.7.{i}", f"veth{tag}{i}", ["ip", "netns", "exec", f"alexnet-{tag}-{i}"]) for i in (1, 2)
    )
    try:
        made = os.geteuid() == 0 and all(ip("netns", "add", machine.enter[-1]) for machine in (one, two))
        made = made and ip("link", "add", one.device, "type", "veth", "peer", "name", two.device)
        for machine in (one, two):
            inside = ("-n", machine.enter[-1])
            made = (
                made
                and ip("link", "set", machine.device, "netns", machine.enter[-1])
                and ip(*inside, "addr", "add", f"{machine.address}/24", "dev", machine.device)
                and ip(*inside, "link", "set", machine.device, "up")
                and ip(*inside, "link", "set", "lo", "up")
            )
        if made:
            yield one, two
        else:
            yield Machine("127.0.0.1", "lo", []), Machine("127.0.0.1", "lo", [])
    finally:
        for machine in (one, two):
            ip("netns", "delete", machine.enter[-1])


@contextmanager
def agent(
    machine: Machine, host: Machine, port: int, arguments: list[str], output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun on one machine; the rendezvous is at `host`.

    A machine that is silent for 12 s is taken for lost: of 3 s, other work on this one's cores made a living one so.
    """
    rendezvous = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
    rendezvous += ["--rdzv-endpoint", f"{host.address}:{port}", "--local-addr", machine.address, "--rdzv-conf"]
    is_host = str(machine is host).lower()
    rendezvous += [f"is_host={is_host},last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=12"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": machine.device,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [*machine.enter, sys.executable, "-m", "torch.distributed.run", *rendezvous, "-m", "alexnet_fast", "--"]
    with running([*command, *arguments], output, environment) as process:
        yield process


@contextmanager
def running(
    command: list[str], output: Path, environment: dict[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """What it prints goes to `output`; killed in the end with all that it started."""
    with (
        output.open("wb") as file,
        subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment) as process,
    ):
        try:
            yield process
        finally:
            kill(process.pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def kill(pid: int) -> None:
    """The process and all that it started, as when the power goes."""
    family, todo = [], [pid]
    while todo:
        family.append(todo.pop())
        todo += children(family[-1])
    for number in family:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def lines(run: Path) -> list[dict[str, Any]]:
    file = run / "log.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def last_step(run: Path) -> int:
    return max([line["step"] for line in lines(run) if "step" in line], default=0)


def test_a_lost_machine_costs_the_steps_since_the_last_save(raw_shards: Path, tmp_path: Path) -> None:
    """The same command on both. What is left goes on alone, and every loss is that of a run of one machine."""
    run, outputs = tmp_path / "run", [tmp_path / "0.txt", tmp_path / "1.txt"]
    arguments = ["train", "--gpus", "0", "--recipe", "fast", "--shards", str(raw_shards), "--run", str(run), "--resume"]
    for name, value in SETTINGS.items():
        arguments += ["--set", f"{name}={value}"]
    with two_machines() as (one, two):
        port = free_port()
        with (
            agent(one, one, port, arguments, outputs[0]) as stays,
            agent(two, one, port, arguments, outputs[1]) as goes,
        ):
            wait_for(lambda: last_step(run) >= STEPS + 6, stays, goes, seconds=300)
            kill(goes.pid)
            reached = last_step(run)
            assert stays.wait(timeout=300) == 0, outputs[0].read_text()

    said = re.findall(r"resuming from .+last\.pt: epoch \d+, (\d+) steps done", outputs[0].read_text())
    assert len(said) == 1, outputs[0].read_text()  # of the nine epochs some are left, however late this process looks
    assert 0 <= reached - int(said[0]) <= SETTINGS["save_every"]
    given = {"recipe": "fast", "shards": str(raw_shards), **SETTINGS}
    train(Topology(0, 1, torch.device("cpu")), tmp_path / "alone", given, resume=False)
    ours, theirs = lines(run), lines(tmp_path / "alone")
    assert [line.get("step") for line in ours] == [line.get("step") for line in theirs]
    assert [line["loss"] for line in ours if "step" in line] == pytest.approx(
        [line["loss"] for line in theirs if "step" in line], rel=1e-3
    )
    assert [line.get("val_top1") for line in ours] == [line.get("val_top1") for line in theirs]
