"""Of two processes that train, one is lost: the other names it and ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from alexnet_fast.distributed import heartbeat, topology
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import TrainingError
from alexnet_fast.training import start, trainer
from alexnet_fast.training.step import train_step
from tests.distributed.test_watch import settings
from tests.waiting import wait_for


def work(topology: Topology, config: dict[str, Any], run: str, fails_at: int) -> None:
    """Trains with steps of a tenth of a second; rank 1 fails at a step."""
    heartbeat.BEAT, heartbeat.LOST = 0.2, 6.0
    taken = 0

    def step(*arguments: Any) -> Any:
        nonlocal taken
        taken += 1
        time.sleep(0.1)
        if topology.rank == 1 and taken == fails_at:
            raise TrainingError("a reason of its own.")
        return train_step(*arguments)

    trainer.train_step = step  # type: ignore[attr-defined,assignment]
    start.train(topology, Path(run), config, resume=False)


@pytest.mark.parametrize(
    ("happening", "message"),
    [
        ("killed", "Error: rank 1 (process {1} on {host}) ended unexpectedly: killed, out of memory, or cut off."),
        ("stops", "Error: rank 1 (process {1} on {host}) gave no sign of life for 6 s: stopped, or cut off."),
        ("fails", "Error: rank 1 failed: a reason of its own."),
    ],
)
def test_a_lost_process_is_named_by_the_first(happening: str, message: str, raw_shards: Path, tmp_path: Path) -> None:
    """Two gloo processes; the other one ends with exit code 1."""
    run = tmp_path / "run"
    config = asdict(settings(raw_shards, epochs=1000, arch="half", log_every=1))
    fails_at = 8 if happening == "fails" else 0
    port = str(topology.free_port())

    def start(rank: int) -> subprocess.Popen[bytes]:
        shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **shared, **own, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, repr((config, str(run), fails_at))]
        with (tmp_path / f"{rank}.txt").open("w") as errors:
            return subprocess.Popen(command, stderr=errors, env=environment)

    processes = [start(rank) for rank in (0, 1)]
    try:
        wait_for((run / "log.jsonl").exists, processes[0])
        if happening != "fails":
            wait_for(lambda: (run / "log.jsonl").read_text().count("\n") > 6, *processes)  # signs of life came, too
            processes[1].send_signal(signal.SIGSTOP if happening == "stops" else signal.SIGKILL)
        processes[0].wait(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    error = (tmp_path / "0.txt").read_text()
    assert processes[0].returncode == 1, error
    expected = message.format(*(process.pid for process in processes), host=os.uname().nodename)
    assert [line for line in error.splitlines() if line.startswith(expected)], error
    assert "Traceback" not in error


if __name__ == "__main__":
    try:
        topology.run(work, 0, *eval(sys.argv[1]))
    except TrainingError as error:  # as the command line does
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
