"""An option that a command takes has an effect: it is read, or refused where it would be ignored."""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import alexnet_fast
from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.inference.predictions import predict_split
from alexnet_fast.sharding.run import shard
from tests.conftest import save_network

assert isinstance(main, click.Group)
COMMANDS = main.commands
SETTINGS = {field.name for field in fields(TrainConfig)}
PASSED_ON: dict[str, Callable[..., Any]] = {"shard": shard, "eval": predict_split}
"""What takes the options that a command's function has not by name; else they are settings."""


def read_in(function: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The names of a function's parameters, and of the variables that its body reads."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    names = [node for statement in tree.body for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return set(inspect.signature(function).parameters), {node.id for node in names if isinstance(node.ctx, ast.Load)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_read(name: str) -> None:
    command = COMMANDS[name]
    assert command.callback
    named, read = read_in(command.callback)
    assert named <= read, "never read"
    if others := {param.name for param in command.params} - named:
        known, used = read_in(PASSED_ON[name]) if name in PASSED_ON else (SETTINGS, SETTINGS)
        assert others <= known & used, "never read"


def test_every_setting_is_read() -> None:
    """As `config.NAME` or `.config.NAME`, outside of the files that define settings."""
    package = Path(alexnet_fast.__file__).parent
    files = [path for path in package.rglob("*.py") if path.name not in ("config.py", "recipes.py")]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] in ("config", "_config")
    }
    assert read >= SETTINGS, "never read"


def refusal(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    *_, error = result.output.splitlines()
    return error.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("shard --src x --out s --scheduler tcp://h:1 --workers 2", "--scheduler ignores --workers"),
        ("shard --src x --out s --encoding raw --quality 80", "--encoding raw ignores --quality"),
        ("features r a.jpg --out f.npz --split test", "features of images ignores --split"),
        ("features r a.jpg --out f.npz --cache-size 1GB", "features of images ignores --cache-size"),
        ("features r --shards s --out f.npz --cache c", "the folder s ignores --cache"),
        ("paper --list --epochs 3", "--list ignores --epochs"),
    ],
)
def test_what_would_be_ignored_is_refused(line: str, message: str) -> None:
    assert refusal(*line.split()) == f"{message}: leave that out."


def test_eval_refuses_a_cache_for_a_folder(raw_shards: Path, tmp_path: Path) -> None:
    network = save_network(tmp_path / "net.pt", shards=str(raw_shards))
    message = f"the folder {raw_shards} ignores --cache: leave that out."
    assert refusal("eval", network, "--cache", "c") == message
    assert refusal("eval", network, "--shards", raw_shards, "--cache", "c") == message


@pytest.mark.parametrize(
    ("options", "name", "goes_with"),
    [
        ("--recipe fast --set patience=3", "--set patience", "schedule=plateau"),
        ("--set trust=0.1", "--set trust", "optimizer=lars"),
        ("--set muon_rate=0.1", "--set muon_rate", "optimizer=muon"),
        ("--set window=3", "--set window", "order=window"),
        ("--set init_layers=conv", "--set init_layers", "init=CHECKPOINT"),
        ("--shards s --cache c", "--cache", "a shard set at a URL"),
        ("--cache-size 1GB", "--cache-size", "a shard set at a URL"),
    ],
)
def test_settings_without_effect_are_refused(options: str, name: str, goes_with: str) -> None:
    message = f"{name} has no effect here: it goes with {goes_with}. Leave it out."
    assert refusal("train", "--gpus", "0", *options.split()) == message


def test_paper_refuses_settings_without_effect_on_any_network() -> None:
    start = ("paper", "--gpus", "0", "--shards", "s", "--set")
    assert refusal(*start, "window=3") == "--set window has no effect here: it goes with order=window. Leave it out."
    for some in (("window=3", "--set", "order=window"), ("init_layers=conv",), ("cache=c", "--big", "s3://b/set")):
        assert refusal(*start, *some).startswith("s is not a shard set: ")


def test_a_setting_given_twice_is_refused() -> None:
    message = "--lr and --set lr give the same setting: leave one of them out."
    assert refusal("train", "--gpus", "0", "--lr", "1", "--set", "lr=1") == message
    message = "--epochs and --set epochs give the same setting: leave one of them out."
    assert refusal("paper", "--shards", "s", "--epochs", "2", "--set", "epochs=3") == message


def test_set_help_shows_what_else_is_given() -> None:
    line = ["train", "--recipe", "fast", "--epochs", "7", "--set", "hidden=8", "--set", "help", "--json", "-"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0
    assert {"epochs=7", "hidden=8", "batch=1024"} < set(result.stderr.splitlines())
    values = json.loads(result.stdout)
    assert (values["epochs"], values["hidden"], values["batch"]) == (7, 8, 1024)
