"""A limit on open files is named as the cause, not the files."""

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from alexnet_fast.cli.main import main
from alexnet_fast.errors import InputError
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.shards.verify_tar import TarCheck
from tests.sharding.sources.layouts import jpeg, tar, write_files

ADVICE = "Raise the limit, with ulimit -n 65536, and run the same command again."


def test_more_archives_than_may_be_open(tmp_path: Path) -> None:
    """Each worker reads from all of them; nothing is rejected for it, and the same command resumes with a higher
    limit."""
    images = {f"{i}.jpg": jpeg(0) for i in range(8)}
    source = write_files(tmp_path / "source", {f"n{i:08d}.tar": tar(images) for i in range(100)})
    line = [sys.executable, "-m", "alexnet_fast", "shard", "--src", str(source), "--out", str(tmp_path / "out")]
    command = shlex.join([*line, "--size", "16", "--workers", "1"])

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"ulimit -Sn 40; ulimit -Hn {limit}; {command}"], capture_output=True, text=True, check=False
        )

    refused = run(64)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("Error: too many files are open at once ([Errno 24] Too many")
    assert refused.stderr.endswith(ADVICE + "\n")
    raised = run(1024)  # the program raises the limit itself, as far as it may
    assert raised.returncode == 0, raised.stderr
    assert "800 images in 8 tars" in raised.stdout
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


def test_no_tar_is_at_fault(jpeg_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a shard set is opened, verified and read as a source."""
    listed = ShardSet(jpeg_shards).manifest.splits["train"][0]
    real, real_open = Path.open, os.open

    def lacks(path: Any) -> None:
        if str(path).endswith((".tar", ".idx")):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    def path_open(self: Path, *args: Any, **how: Any) -> Any:
        lacks(self)
        return real(self, *args, **how)

    def os_open(path: Any, *args: Any, **how: Any) -> Any:
        lacks(path)
        return real_open(path, *args, **how)

    monkeypatch.setattr(Path, "open", path_open)
    monkeypatch.setattr(os, "open", os_open)
    check = TarCheck(jpeg_shards, listed, "train.index.npy", 0, None, None, False)  # type: ignore[arg-type]
    for work in (
        lambda: ShardSet(jpeg_shards).split("train"),
        lambda: check.findings(),
        lambda: find_images(jpeg_shards, "webdataset"),
    ):
        with pytest.raises(InputError) as error:
            work()
        assert str(error.value).startswith(
            f"too many files are open at once ([Errno 24] Too many open files: '{jpeg_shards}"
        )
        assert str(error.value).endswith(ADVICE)
    refused = CliRunner().invoke(main, ["shard", "--src", str(jpeg_shards), "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert ADVICE in refused.output
