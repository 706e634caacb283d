"""Several processes of `paper` on one folder."""

import re
import subprocess
import sys
from pathlib import Path

from alexnet_fast.paper import runs
from tests.paper.test_paper import claims_of, command
from tests.waiting import wait_for


def test_two_at_a_time_share_the_runs(small_shards: Path, tmp_path: Path) -> None:
    """Each run is made by one of them, and both wait for all; what a third has taken is its own until it is killed."""
    hold = f"""
import signal; from pathlib import Path; from alexnet_fast.files import locked
with locked(Path({str(tmp_path / "base-0" / runs.LOCK)!r})): print(flush=True); signal.pause()
"""
    (tmp_path / "base-0").mkdir()
    line = [sys.executable, "-m", "alexnet_fast", *command(small_shards, tmp_path, "--only", "no-dropout,no-crops")]
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as third:
        assert third.stdout
        third.stdout.readline()
        both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
        scored = [tmp_path / name / "scores.npz" for name in ("no-dropout-0", "no-crops-0")]
        wait_for(lambda: all(path.exists() for path in scored), *both)
        assert not (tmp_path / "base-0" / "scores.npz").exists()
        third.kill()
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    made = re.findall(r"^\d/3  (.*) seed 0:", "".join(said), re.MULTILINE)
    assert sorted(made) == ["base", "no-crops", "no-dropout"]
    assert all(re.search("^other processes are at .*base seed 0", text, re.MULTILINE) for text in said)
    tables = [text[text.index("error of one") :] for text in said]
    assert tables[0] == tables[1]
    assert [claim["name"] for claim in claims_of(tmp_path)[0]] == ["one-cnn", "views", "no-dropout", "no-crops"]
