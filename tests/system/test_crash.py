"""Killed at any moment, sharding goes on to the same bytes; whatever stops it says so and loses nothing finished."""

import ctypes
import errno
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.output import Folders, locked, open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import Processes, run
from alexnet_fast.sharding.sources import find_images
from tests.conftest import SIZE, files, write
from tests.system.deaths import die, die_the_first_time, report_three
from tests.waiting import wait_for

KILL_AT_EVERY_FILE_OPERATION = """
import os, random, signal, sys
from concurrent.futures import Future
from pathlib import Path
from alexnet_fast.sharding import preload
from alexnet_fast.sharding.output import open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import write_shard_set

class Here:
    slots, killed = 1, ZeroDivisionError
    def submit(self, slot, function, job):
        future = Future()
        future.set_result(function(job))
        return future
    def renew(self, slot): pass
    def reported(self, slots): return 0
    def close(self): pass

def write_and_die(out, moment):
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        return code
    left = moment
    def hook(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.symlink") and str(out) in str(arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    write_shard_set(source, open_output([str(out)]), Options(size=16), Here)
    os._exit(0)

source, folder = find_images(Path(sys.argv[1])), Path(sys.argv[2])
draw, kills, moment = random.Random(0), 0, 0
while True:
    moment += 1
    out = folder / str(moment)
    if write_and_die(out, moment) == 0:
        break
    kills += 1
    while write_and_die(out, draw.randrange(5, 300)):  # the second run may be killed as well, and the third
        kills += 1
print(kills, moment)
"""


def test_killed_at_every_file_operation(image_folder: Path, tmp_path: Path) -> None:
    """One run for each operation on a file of the output: killed there, and again at random until it gets through."""
    command = [sys.executable, "-c", KILL_AT_EVERY_FILE_OPERATION, str(image_folder), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    kills, sets = map(int, result.stdout.split())
    assert kills > 100
    undisturbed = files(tmp_path / str(sets))
    for number in range(1, sets):
        assert files(tmp_path / str(number)) == undisturbed


SHARD = ["shard", "--size", str(SIZE), "--workers", "2"]


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alexnet_fast", *SHARD, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def shard_with(script: str, last: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a script that changes something and then runs the command; it takes `last` off the command line itself."""
    command = [sys.executable, "-c", script, *SHARD, *arguments, last]
    return subprocess.run(command, capture_output=True, text=True, check=False, start_new_session=True)


def group_members(group: int) -> list[int]:
    """Process ids of a process group, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def is_gone(group: int) -> bool:
    return not group_members(group)


def test_the_command_killed_at_random_moments(image_folder: Path, jpeg_shards: Path, tmp_path: Path) -> None:
    draw = random.Random(1)
    kills, sets, in_work = 0, 0, 0
    begun = time.monotonic()
    undisturbed = start("--src", image_folder, "--out", tmp_path / "undisturbed")
    undisturbed.communicate()
    seconds = time.monotonic() - begun
    assert undisturbed.returncode == 0
    assert files(tmp_path / "undisturbed") == files(jpeg_shards)
    while kills < 10 or in_work < 2:  # moments before the first tar was begun alone would show nothing
        assert kills < 40
        out = tmp_path / str(sets)
        process = start("--src", image_folder, "--out", out)
        try:
            process.communicate(timeout=draw.uniform(0.2, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            in_work += (out / ".work").exists()
            wait_for(partial(is_gone, process.pid), seconds=20)  # no worker is left behind
            continue
        assert process.returncode == 0
        assert files(out) == files(jpeg_shards)
        sets += 1
    process = start("--src", image_folder, "--out", tmp_path / str(sets))
    process.communicate()
    assert process.returncode == 0
    assert files(tmp_path / str(sets)) == files(jpeg_shards)


STOP_AFTER_A_TAR = """
import os, sys
from alexnet_fast import signals
from alexnet_fast.__main__ import run
from alexnet_fast.sharding import pool, write

numbers = [int(number) for number in sys.argv.pop().split(",")]

def stop_everybody(done, reported):
    for number in numbers:
        os.killpg(0, number)

write.run = lambda *jobs, finished, **show: pool.run(*jobs, finished=stop_everybody, **show)
run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_stops_it_with_a_line(
    number: signal.Signals, image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    """Sent to the whole group when the first tar is finished: SIGTERM twice, as `timeout` and batch systems do."""
    numbers = f"{number}" if number == signal.SIGINT else f"{number},{number}"
    result = shard_with(STOP_AFTER_A_TAR, numbers, "--src", image_folder, "--out", tmp_path / "out")
    assert result.returncode == 128 + number
    assert result.stderr.endswith("\nStopped; finished tars are kept. Resume with the same command.\n")
    assert "Traceback" not in result.stderr
    assert "leaked" not in result.stderr
    assert list((tmp_path / "out" / ".work").glob("*.tar.json"))
    again = start("--src", image_folder, "--out", tmp_path / "out")
    _, stderr = again.communicate()
    assert again.returncode == 0
    assert "tars are there already" in stderr
    assert files(tmp_path / "out") == files(jpeg_shards)


def test_a_second_run_on_the_same_output_is_refused(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(open_output([str(out)]), None):
        process = start("--src", image_folder, "--out", out)
        _, stderr = process.communicate()
        assert process.returncode == 2
        assert stderr.splitlines()[-1] == (
            f"Error: another alexnet-fast shard is writing to {out}. Wait for it, or choose another --out."
        )
        for part in ("1/2", "2/2"):
            with pytest.raises(InputError), locked(open_output([str(out)]), part):
                pass
    with locked(open_output([str(out)]), "1/2"):
        with pytest.raises(InputError), locked(open_output([str(out)]), None):
            pass
        with pytest.raises(InputError), locked(open_output([str(out)]), "1/2"):
            pass
        with locked(open_output([str(out)]), "2/2"):
            pass


def test_a_killed_worker_is_reported_with_its_job_which_is_tried_once_more(tmp_path: Path) -> None:
    done: list[str] = []
    said: list[str] = []
    markers = [tmp_path / name for name in ("a", "b", "c")]
    markers[0].touch()
    markers[2].touch()
    run(Processes(2), die_the_first_time, markers, lambda name, _: done.append(name), lambda _: None, said.append)
    assert sorted(done) == ["a", "b", "c"]
    assert said == [
        f"the worker that wrote {markers[1]} was killed, most often for want of memory; trying once more",
    ]


def test_a_job_that_kills_its_worker_twice_stops_the_run() -> None:
    with pytest.raises(InputError, match=r"the worker that wrote b\.tar was killed 2 times.*fewer --workers"):
        run(Processes(1), die, ["b.tar"], print, print, lambda text: None)


def test_what_running_jobs_report_is_known_before_they_end(tmp_path: Path) -> None:
    """One ends when what both have reported has arrived, the other when what the first reported is left out."""
    moves: list[int] = []
    results: list[tuple[str, int]] = []
    ends = [tmp_path / "a", tmp_path / "b"]

    def moved(reported: int) -> None:
        moves.append(reported)
        if reported == 6:
            ends[0].touch()
        elif ends[0].exists() and reported == 3:
            ends[1].touch()

    def finished(name: str, reported: int) -> None:
        results.append((name, reported))

    run(Processes(2), report_three, ends, finished, moved, print)
    assert results == [("a", 3), ("b", 0)]
    assert set(moves) <= {0, 3, 6}


KILLED_SERVER = """
import os, signal, sys
from multiprocessing import forkserver
from alexnet_fast.__main__ import run

connect = forkserver.connect_to_new_process
times = int(sys.argv.pop())

def kill_first(fds):
    global times
    if times:
        times -= 1
        forkserver.ensure_running()
        server = forkserver._forkserver._forkserver_pid
        os.kill(server, signal.SIGSTOP)  # it takes no more connections, but this one is made
        try:
            return connect(fds)
        finally:
            os.kill(server, signal.SIGKILL)
    return connect(fds)

forkserver.connect_to_new_process = kill_first
run()
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_killed_fork_server_is_started_once_more(
    times: int, image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    """Killed between a request for a worker and the answer, by the kernel for want of memory, say."""
    result = shard_with(KILLED_SERVER, str(times), "--src", image_folder, "--out", tmp_path / "out", "--workers", "1")
    if times == 1:
        assert (result.returncode, "Error" in result.stderr) == (0, False)
        assert files(tmp_path / "out") == files(jpeg_shards)
        return
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: the workers were killed when they started (the server that workers are forked from was killed), most "
        "often by the kernel for want of memory. Run the same command with fewer --workers: finished tars are kept."
    )


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_it_with_the_amount_needed_and_loses_nothing(
    image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    tar = (jpeg_shards / "train-000000.tar").stat().st_size
    with small_disk(disk, int(2.6 * tar / 1024)):
        with pytest.raises(InputError) as error:
            write(find_images(image_folder), disk / "out", Options(size=SIZE))
        message = str(error.value)
        assert message.startswith(f"no space left in {disk / 'out'}: about 0.")
        finished = [path for path in (disk / "out").glob("*.tar") if (disk / f"out/.work/{path.name}.json").exists()]
        assert message.endswith(f"the {len(finished)} finished tars are kept.")
        assert finished
        assert not list((disk / "out/.work").glob("*.tmp"))
        before = {path.name: path.stat().st_mtime_ns for path in finished}
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert write(find_images(image_folder), disk / "out", Options(size=SIZE)).complete
        assert files(disk / "out") == files(jpeg_shards)
        assert {name: (disk / "out" / name).stat().st_mtime_ns for name in before} == before


PERMISSION_LOST = """
import os, sys
from alexnet_fast.__main__ import run
from alexnet_fast.sharding import pool, write

lost = sys.argv.pop()

def lose(done, reported):
    os.chmod(lost, 0o500 if os.path.isdir(lost) else 0)

write.run = lambda *jobs, finished, **show: pool.run(*jobs, finished=lose, **show)
run()
"""


def without_privilege(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a command for which permissions of files count, if it is root's too."""
    libc = ctypes.CDLL(None)

    def drop() -> None:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=drop)


@pytest.mark.parametrize("lost", [".", ".work"])
def test_a_lost_permission_stops_it_with_the_folder_and_loses_nothing(
    lost: str, image_folder: Path, jpeg_shards: Path, tmp_path: Path
) -> None:
    """When the first tar is finished; the same command resumes once the permission is there again."""
    out = tmp_path / "out"
    options: list[str | Path] = ["shard", "--src", image_folder, "--out", out, "--size", str(SIZE), "--workers", "1"]
    result = without_privilege(sys.executable, "-c", PERMISSION_LOST, *options, out / lost)
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {out} cannot be written to (Permission denied: {out}/")
    assert last.endswith(
        "). Make the folder and what is in it writable and run the same command again, which keeps finished tars; or "
        "choose another --out."
    )
    assert "Traceback" not in result.stderr
    (out / lost).chmod(0o700)
    again = start("--src", image_folder, "--out", out)
    _, stderr = again.communicate()
    assert again.returncode == 0
    assert "tars are there already" in stderr
    assert files(out) == files(jpeg_shards)


def test_an_archive_that_may_no_longer_be_read_is_named(image_folder: Path, tmp_path: Path) -> None:
    src = tmp_path / "images.tar"
    with tarfile.open(src, "w") as tar:
        tar.add(image_folder, ".")
    options: list[str | Path] = [
        "shard",
        "--src",
        src,
        "--out",
        tmp_path / "out",
        "--size",
        str(SIZE),
        "--workers",
        "1",
    ]
    result = without_privilege(sys.executable, "-c", PERMISSION_LOST, *options, src)
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1] == (
        f"Error: {src} cannot be read (Permission denied: {src}). Make it readable and run the same command again, "
        "which keeps finished tars."
    )


@pytest.mark.parametrize("mode", [0o500, 0o000])
@pytest.mark.parametrize("place", [".", "new"])
def test_a_folder_that_may_not_be_written_is_named(mode: int, place: str, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(mode)
    out = tmp_path / "out" / place
    result = without_privilege(
        sys.executable, "-m", "alexnet_fast", "shard", "--src", image_folder, "--out", out, "--workers", "1"
    )
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"Error: {out} cannot be {'made' if place == 'new' else 'written to'} (Permission denied")
    assert last.endswith("hoose another --out.")
    assert "Errno" not in last


def test_a_full_disk_is_told_by_the_error_alone(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Folders, temporary: Path, name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Folders, "publish", full)
    with pytest.raises(
        InputError, match=r"^no space left in .*: about .* MB are needed for the 6 tars to come, .* GB are free"
    ):
        write(find_images(image_folder), tmp_path / "out", Options(size=SIZE))
    assert not list((tmp_path / "out").rglob("*.tmp"))
