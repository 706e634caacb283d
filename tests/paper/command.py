"""The command `paper` on a small shard set."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from alexnet_fast.cli.main import main


def command(shards: Path, out: Path, *more: str) -> list[str]:
    settings = [word for each in ("batch=16", "hidden=32", "schedule=steps") for word in ("--set", each)]
    return ["paper", "--shards", str(shards), "--out", str(out), "--epochs", "1", "--gpus", "0", *settings, *more]


def paper(shards: Path, out: Path, *more: str) -> Result:
    result = CliRunner().invoke(main, command(shards, out, *more))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def claims_of(out: Path) -> Any:
    body = json.loads((out / "paper.json").read_text())
    return body["claims"], body["networks"]
