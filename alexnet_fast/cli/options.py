"""What the commands share: options, types of options, settings, and the printing of a result."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from alexnet_fast.config import CHOICES, TrainConfig, meanings, without_effect
from alexnet_fast.errors import InputError
from alexnet_fast.text import printable

json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Also write the result as JSON; - for standard output."
)
path_type = click.Path(path_type=Path)
OTHER_NAMES = {
    "learning_rate": "lr",
    "batch_size": "batch",
    "num_epochs": "epochs",
    "num_workers": "threads",
    "color_std": "colour_std",
    "color_off": "colour_off",
}
"""What other programs call a setting, and its name here."""
_ON_CPU = "0: on the CPU.  [default: 1 where there is one]"


class GpusType(click.IntRange):
    """Converts the number of GPUs; says how to choose some where their own numbers are given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if re.fullmatch(r"\d+(,\d+)+", str(value), re.ASCII):
            number = len(value.split(","))
            self.fail(f"{value!r}: it takes how many. Choose which: CUDA_VISIBLE_DEVICES={value}, --gpus {number}.")
        return int(super().convert(value, param, ctx))


gpus_option = click.option("--gpus", type=GpusType(0, 1), help=_ON_CPU)
several_gpus_option = click.option("--gpus", type=GpusType(0), help=_ON_CPU)


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
        try:
            Path(json_file).write_text(json.dumps(result) + "\n", encoding="utf-8")
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"--json {json_file} could not be written: {why}. All else is done.") from error


def check_alone(option: str, allowed: set[str]) -> None:
    """Raises InputError where more is given to the command beside `option` than the `allowed` parameters: it would be
    ignored."""
    params = click.get_current_context().command.params
    check_ignored(option, {param.name or "" for param in params if param.opts[0] != option} - allowed)


def check_ignored(what: str, names: set[str]) -> None:
    """Raises InputError where one of the command's parameters `names`, which `what` ignores, is given to it."""
    context = click.get_current_context()
    for param in context.command.params:
        given = context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if param.name in names and given:
            raise InputError(f"{what} ignores {param.opts[0]}: leave that out.")


def check_cache(shards: str) -> None:
    """Raises InputError where --cache or --cache-size is given, but the shard set is in a folder."""
    if "://" not in shards:
        check_ignored(f"the folder {shards}", {"cache", "cache_bytes"})


def check_settings(given: Iterable[str], configs: Sequence[TrainConfig]) -> None:
    """Raises InputError where one of the settings `given`, by name, has an effect in none of the `configs`."""
    for name in given:
        goes_with = [without_effect(config).get(name) for config in configs]
        if all(goes_with):
            raise InputError(f"{_option(name)} has no effect here: it goes with {goes_with[0]}. Leave it out.")


def with_settings(options: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    """Returns what `options` and --set give, by name, without what is None. Raises InputError, also where both give
    the same."""
    given = {name: value for name, value in options.items() if value is not None}
    parsed = parse_settings(settings)
    for name in parsed:
        if name in given:
            raise InputError(f"{_option(name)} and --set {name} give the same setting: leave one of them out.")
    return given | parsed


def _option(name: str) -> str:
    """Returns the command's option for a setting; where it has none of its own, --set NAME."""
    params = click.get_current_context().command.params
    return next((param.opts[0] for param in params if param.name == name), f"--set {name}")


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Returns `NAME=VALUE` strings as values of the types that TrainConfig has. Raises InputError."""
    kinds = {name: type(value) for name, value in TrainConfig().as_dict().items() if name != "recipe"}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name in kinds and not equals:
            raise InputError(f"--set {setting}: it has no value. Write it as --set {name}=VALUE; --set help lists all.")
        if name not in kinds:
            expected = f"expected NAME=VALUE with one of the names {', '.join(kinds)}. --set help says what each means."
            raise InputError(f"--set {setting}: {suggestion(name, kinds)}{expected}")
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kinds[name] is bool else kinds[name](text)
        except (ValueError, KeyError) as error:
            expected = {bool: "true or false", int: "a whole number", float: "a number"}[kinds[name]]
            raise InputError(f"--set {setting}: {name} takes {expected}.") from error
    return values


def suggestion(name: str, names: Iterable[str]) -> str:
    """Returns `did you mean X? ` for the nearest of the names; empty where none is near."""
    near = get_close_matches(name.lower(), [*names, *OTHER_NAMES], n=1)
    return f"did you mean {OTHER_NAMES.get(near[0], near[0])}? " if near else ""


def settings_help(config: TrainConfig) -> str:
    """Returns every setting as NAME=VALUE, the value that of `config`, and below it what it means and may be."""
    means, lines = meanings(), []
    for name, value in config.as_dict().items():
        if name != "recipe":
            text = means[name]
            if any(str(choice) not in text for choice in CHOICES.get(name, ())):
                text += f" One of {', '.join(map(str, CHOICES[name]))}."
            lines += [f"{name}={value}", *textwrap.wrap(text, 100, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(lines)
