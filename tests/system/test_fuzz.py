"""Everything that reads files takes damaged ones: no crash, no hang, no memory without end, nothing done outside."""

import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from alexnet_fast.errors import InputError
from alexnet_fast.interchange.imports import from_torchvision
from alexnet_fast.training import checkpoint
from tests.conftest import Payload
from tests.system.fuzzing.harness import Target, fuzz, sample

INPUTS = 50


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """Of the readers' processes: one that has imported torch already. Where this process has another, in its place."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    forkserver.set_forkserver_preload(["tests.system.fuzzing.targets"])
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    forkserver.set_forkserver_preload([])


def test_every_reader_reads_or_refuses_damaged_files() -> None:
    """10,000 files a reader are for the night: tools/fuzz.py."""
    command = [sys.executable, "-m", "tools.fuzz", "readers", "--inputs", str(INPUTS)]
    with TemporaryDirectory() as short:  # a socket's path may have 107 characters
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": short}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = [tuple(map(int, match)) for match in re.findall(r"(\d+) read +(\d+) refused", done.stdout)]
    assert len(counts) > 40
    assert sum(map(sum, counts)) > 40 * INPUTS
    assert sum(refused > 0 for _, refused in counts) > 35  # the others say what is damaged, in place of refusing


def make(folder: Path) -> Path:
    path = folder / "whole"
    path.write_bytes(bytes(range(256)))
    return path


def is_whole(path: Path) -> bool:
    return path.read_bytes() == bytes(range(256))


def crash(path: Path) -> None:
    if not is_whole(path):
        os.kill(os.getpid(), signal.SIGSEGV)


def compute(path: Path) -> None:
    while not is_whole(path):
        pass


def allocate(path: Path) -> None:
    if not is_whole(path):
        bytes(1 << 30)


def write_outside(path: Path) -> None:
    if not is_whole(path):
        (path.parents[2] / "outside").write_text("")


def hide_a_write(path: Path) -> None:
    try:
        write_outside(path)
    except OSError as error:
        raise InputError("as if it were the file's fault") from error


def link_outside(path: Path) -> None:
    if not is_whole(path):
        (path.parents[2] / "link").symlink_to(path)


def start_a_program(path: Path) -> None:
    if not is_whole(path):
        os.system("true")


def mistake(path: Path) -> None:
    if not is_whole(path):
        json.loads("{}")["key"]


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (crash, "ended by SIGSEGV"),
        (compute, "took too long"),
        (allocate, "MemoryError"),
        (write_outside, "it went outside: open "),
        (hide_a_write, "it went outside: open "),
        (link_outside, "it went outside: os.symlink"),
        (start_a_program, "it went outside: os.system"),
        (mistake, "KeyError: 'key'"),
    ],
)
def test_whatever_a_reader_does_wrong_is_found(read: Callable[[Path], None], said: str) -> None:
    target = Target("bad", make, read, "binary", (InputError,), gibibytes=0.5, cpu_seconds=0.2)
    outcome = fuzz(target, 2)
    assert outcome.inputs == 2
    assert list(outcome.failures) == [0, 1]
    assert all(failure.startswith(said) for failure in outcome.failures.values()), outcome.failures
    assert sample(target, 0) != sample(target, 1)
    assert sample(target, 1) == sample(target, 1)


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("a/data.pkl", data), ("a/version", b"3\n"), ("a/byteorder", b"little")):
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("form", ["zip", "pickle", "torch's own", "torch's of before"])
def test_no_code_of_a_checkpoint_is_run(form: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "last.pth"
    state = {"alexnet_fast": 2, "features.0.weight": Payload(made)}
    if form.startswith("torch"):
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch's own")
    else:
        data = pickle.dumps(state, protocol=2)
        path.write_bytes(data if form == "pickle" else zipped(data))
    for read in (checkpoint.load, lambda path: from_torchvision(path, [], None)):
        with pytest.raises(InputError, match="cannot be read"):
            read(path)
    assert not made.exists()


def test_what_is_not_weights_alone_is_refused(tmp_path: Path) -> None:
    """Such as a whole training state."""
    state = {"features.0.weight": torch.zeros(64, 3, 11, 11), "classifier.1.weight": torch.zeros(2, 2), "epoch": 3}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match="holds epoch, which is no tensor"):
        from_torchvision(tmp_path / "net.pth", [{"id": "a", "name": "a"}], None)


def test_a_claimed_size_takes_no_memory(tmp_path: Path) -> None:
    """A tensor of few bytes can have any shape: every number is the same one."""
    huge = torch.zeros(1).expand(10**12, 1)
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11), "classifier.1.weight": huge}, tmp_path / "net.pth")
    started = time.process_time()
    with pytest.raises(InputError, match="is not a network of arch onetower"):
        from_torchvision(tmp_path / "net.pth", [{"id": "a", "name": "a"}], None)
    assert time.process_time() - started < 5
