"""The command `alexnet-fast` and its options. What takes long to import is imported inside the commands."""

from __future__ import annotations

import logging
import os
import platform
import sys
from io import TextIOWrapper
from typing import Any

import click

from alexnet_fast import __version__
from alexnet_fast.cli import data, paper, results, train
from alexnet_fast.environment import environment, limit_threads
from alexnet_fast.errors import InputError, LostProcessError, TrainingError, descriptor_error
from alexnet_fast.text import printable


class Commands(click.Group):
    """The group of commands; shows errors that are meant for the user in a line or two, without a traceback."""

    def main(self, *args: Any, **how: Any) -> Any:
        """Has what the terminal's encoding lacks printed as ?, such as in names of files that are not UTF-8."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **how)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order of their use, for --help."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, TrainingError, OSError) as error:
            if ctx.params["debug"]:
                raise
            if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine, each of which may lack something
                click.echo(f"Error: {printable(str(descriptor_error(error) or error), lines=True)}", err=True)
            if isinstance(error, LostProcessError):
                sys.stderr.flush()
                os._exit(1)  # at once: torch's threads may still wait for the lost process
            ctx.exit(1 if isinstance(error, TrainingError) else 2)


@click.group(
    cls=Commands,
    invoke_without_command=True,  # for --version
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.option("--verbose", is_flag=True, help="With --version: commit, packages, driver, GPUs and processor.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, version: bool, verbose: bool, debug: bool) -> None:
    """Train AlexNet on ImageNet-style data, as fast as the hardware allows."""
    if version:
        click.echo(f"alexnet-fast, version {__version__}")
        if verbose:
            facts = environment()
            packages, facts["gpus"] = facts.pop("packages"), ", ".join(facts["gpus"])
            for name, value in facts.items():
                if name not in ("alexnet_fast", "command"):
                    click.echo(f"{name}: {value or 'none'}")
            click.echo("\n".join(["packages:", *(f"  {name}=={number}" for name, number in packages.items())]))
        ctx.exit()
    if verbose:
        raise click.UsageError("--verbose goes with --version.")
    if ctx.invoked_subcommand is None:
        raise click.UsageError("Missing command.")
    if platform.system() != "Linux":
        raise InputError(
            "alexnet-fast runs on Linux, for which NVIDIA's DALI has wheels. Elsewhere use its Docker image or, on "
            "Windows, WSL 2 (wsl --install)."
        )
    limit_threads()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that may not be written


for command in (*data.COMMANDS, *train.COMMANDS, *results.COMMANDS, *paper.COMMANDS):
    main.add_command(command)
