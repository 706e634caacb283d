"""What the commands share: options, types of options, settings, and the printing of a result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from alexnet_fast.config import TrainConfig
from alexnet_fast.errors import InputError
from alexnet_fast.text import printable

json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Also write the result as JSON; - for standard output."
)
path_type = click.Path(path_type=Path)
_ON_CPU = "0: on the CPU.  [default: 1 where there is one]"
gpus_option = click.option("--gpus", type=click.IntRange(0, 1), help=_ON_CPU)
several_gpus_option = click.option("--gpus", type=click.IntRange(0), help=_ON_CPU)


class BytesType(click.ParamType[int]):
    """Converts `100GB` to a number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([KMGT])(i?)B", str(value), re.IGNORECASE | re.ASCII)
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is not a size like 100GB or 93.5GiB.", param, ctx)
        thousands = "KMGT".index(match[2].upper()) + 1
        return int(float(match[1]) * (1024 if match[3] else 1000) ** thousands)


def cache_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --cache and --cache-size."""
    size = "Most of its tars at a time, such as 100GB.  [default: no limit]"
    command = click.option("--cache-size", "cache_bytes", type=BytesType(), help=size)(command)
    folder = "Folder that keeps the tars of a URL.  [default: ~/.cache/alexnet-fast]"
    return click.option("--cache", metavar="DIR", help=folder)(command)


def show(text: str, result: dict[str, Any], json_file: str | None) -> None:
    """Prints the result as text and, with --json, writes it as JSON."""
    click.echo(printable(text, lines=True), err=json_file == "-")
    if json_file == "-":
        click.echo(json.dumps(result))
    elif json_file:
        Path(json_file).write_text(json.dumps(result) + "\n", encoding="utf-8")


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Returns `NAME=VALUE` strings as values of the types that TrainConfig has. Raises InputError."""
    kinds = {name: type(value) for name, value in TrainConfig().as_dict().items() if name != "recipe"}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in kinds:
            raise InputError(f"--set {setting}: expected NAME=VALUE with one of the names {', '.join(kinds)}.")
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kinds[name] is bool else kinds[name](text)
        except (ValueError, KeyError) as error:
            expected = {bool: "true or false", int: "a whole number", float: "a number"}[kinds[name]]
            raise InputError(f"--set {setting}: {name} takes {expected}.") from error
    return values
