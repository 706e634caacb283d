"""The pages of the manual that are made from the code: docs/cli.md and docs/settings.md.

python -m tools.generated_pages        writes both; tools/docs does so too, and tests/test_docs.py compares them
"""

from __future__ import annotations

import ast
import re
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from alexnet_fast import config
from alexnet_fast.cli.main import main
from alexnet_fast.config import CHOICES, RESUMABLE, TrainConfig
from alexnet_fast.recipes import RECIPES

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTE = "<!-- Made by tools/docs from the code: change {}, then run tools/docs. -->"
CLI = """\
# Every command and option

{note}

`--help` after a command prints the same. Every command that prints a result also takes `--json FILE`; its
[keys](evaluation.md#numbers-for-scripts) are a contract. An option that would have no effect beside the others is
refused, such as `--workers` with `--scheduler`.

Exit codes: 0 done; 1 the work found something wrong, such as a corrupt sample; 2 the command line or its input is
wrong.

In bash, `eval "$(_ALEXNET_FAST_COMPLETE=bash_source alexnet-fast)"` completes commands and options (`zsh_source`,
`fish_source` for the other shells).
"""
SETTINGS = """\
# Every setting

{note}

A recipe is a value for each of these. `--set NAME=VALUE` of `train` and `paper` changes one:

```sh
alexnet-fast train --recipe fast --set dropout=0.3
alexnet-fast train --recipe fast --set help     # prints a recipe's values
```

Some have an option of their own: `{options}`. A run's folder holds all its values in `config.json`.

Settings marked with a star may differ when a run is [resumed](training.md#stop-and-resume): they do not change its
result.

| setting | meaning | values | in the recipes |
| --- | --- | --- | --- |
{rows}
"""
KINDS = {bool: "true, false", int: "whole number", float: "number", str: "text"}


def cli_page() -> str:
    """Returns docs/cli.md: a section a command, in the order of the data."""
    parts = [CLI.format(note=NOTE.format("the commands in alexnet_fast/cli/"))]
    program = click.Context(main, info_name="alexnet-fast", **main.context_settings)
    parts.append(_section(program, "alexnet-fast COMMAND [OPTION...]"))
    for name, command in main.commands.items():
        context = click.Context(command, info_name=name, parent=program)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(_section(context, usage.replace("[OPTIONS]", "[OPTION...]")))
    return "\n".join(parts)


def _section(context: click.Context, usage: str) -> str:
    command = context.command
    rows = [_option_row(param) for param in command.get_params(context) if isinstance(param, click.Option)]
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", cleandoc(command.help or ""))
    table = "\n".join(["| option | values | default | meaning |", "| --- | --- | --- | --- |", *rows])
    return f"## {context.info_name}\n\n```text\n{usage}\n```\n\n{_escaped(text)}\n\n{table}\n"


def _option_row(option: click.Option) -> str:
    """Returns the option's row. Its default is in its help where click does not know it."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    meaning, _, default = (option.help or "").partition("[default: ")
    default = default.rstrip("]")
    if option.show_default:
        given = option.default
        default = ", ".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    values = "" if option.is_flag else _values_of(option)
    if option.multiple:
        values += ", several times"
    return "| " + " | ".join([names, *(_escaped(" ".join(text.split())) for text in (values, default, meaning))]) + " |"


def _values_of(option: click.Option) -> str:
    kind = option.type
    if option.metavar:
        return option.metavar
    if isinstance(kind, click.Choice):
        return ", ".join(map(str, kind.choices))
    if isinstance(kind, click.IntRange):
        least, most = f"{kind.min:,}", kind.max
        return f"{least} to {most:,}" if most is not None else f"{least} or more"
    return {"path": "PATH", "text": "TEXT", "float": "number", "integer": "whole number"}.get(kind.name, kind.name)


def settings_page() -> str:
    """Returns docs/settings.md: a row a setting, in the order of TrainConfig."""
    options = {option for param in main.commands["train"].params for option in param.opts}
    rows, own = [], []
    for name, meaning in meanings().items():
        if name == "recipe":
            continue
        if f"--{name.replace('_', '-')}" in options:
            own.append(f"--{name.replace('_', '-')}")
        values = {recipe: getattr(config, name) for recipe, config in RECIPES.items()}
        choices = ", ".join(map(str, CHOICES.get(name, ()))) or KINDS[type(values["paper"])]
        star = " \\*" * (name in RESUMABLE)
        rows.append(f"| `{name}`{star} | {_escaped(meaning)} | {choices} | {_in_recipes(values)} |")
    note = NOTE.format("the docstrings in alexnet_fast/config.py, or alexnet_fast/recipes.py")
    return SETTINGS.format(note=note, options="`, `".join(own), rows="\n".join(rows))


def meanings() -> dict[str, str]:
    """Returns the docstring of every setting, in the order of TrainConfig, on one line. Raises KeyError for one that
    has none."""
    (body,) = (
        node.body
        for node in ast.parse(Path(config.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == TrainConfig.__name__
    )
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return {name: found[name] for name in TrainConfig().as_dict()}


def _in_recipes(values: dict[str, Any]) -> str:
    """Returns the one value that all recipes have, or each one's; as `--set` takes it."""
    shown = {}
    for recipe, value in values.items():
        shown[recipe] = f"{value:.4g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool):
            shown[recipe] = str(value).lower()
    if len(set(shown.values())) == 1:
        return shown["paper"] or "(empty)"
    return ", ".join(f"{recipe}: {value}" for recipe, value in shown.items())


def _escaped(text: str) -> str:
    """Returns a sentence that Markdown shows as it is: names of files and formulas have its signs in them."""
    return re.sub(r"([<*_|])", r"\\\1", text)


def write() -> None:
    """Writes both pages."""
    for name, page in (("cli", cli_page()), ("settings", settings_page())):
        (DOCS / f"{name}.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write()
