"""The command that tests the paper's claims."""

from __future__ import annotations

import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from alexnet_fast import signals
from alexnet_fast.cli.options import (
    check_alone,
    check_settings,
    json_option,
    path_type,
    several_gpus_option,
    show,
    with_settings,
)
from alexnet_fast.errors import InputError
from alexnet_fast.files import locked


class DurationType(click.ParamType[float]):
    """Converts `2h`, `90min` or `1.5h` to seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?(h|min|m|s)", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not a time like 2h, 90min or 1.5h.", param, ctx)
        return float(match[1]) * {"h": 3600, "min": 60, "m": 60, "s": 1}[match[2]]


@click.command("paper", short_help="Try every claim of the paper on your data.")
@click.option("--list", "list_only", is_flag=True, help="Show the claims, the paper's numbers and what each needs.")
@click.option("--shards", help="Folder of the shard set, or its URL.")
@click.option("--big", metavar="SHARDS", help="A second shard set, to pre-train on before --shards.")
@click.option("--split", metavar="NAME", default="val", show_default=True, help="Judge networks by these images.")
@click.option("--out", type=path_type, default="runs/paper", show_default=True, help="Folder of runs and table.")
@click.option("--only", metavar="NAME,...", help="These claims.  [default: all]")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Of every network, at least.")
@click.option("--budget", type=DurationType(), help="Leave out runs that would end later than so long from now: 2h.")
@click.option("--epochs", type=click.IntRange(1), help="Of every network.  [default: 90]")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, for all networks.")
@several_gpus_option
@json_option
def paper_command(
    list_only: bool,
    shards: str | None,
    big: str | None,
    split: str,
    out: Path,
    only: str | None,
    seeds: int,
    budget: float | None,
    epochs: int | None,
    settings: tuple[str, ...],
    gpus: int | None,
    json_file: str | None,
) -> None:
    """Try every claim of the paper on your data: train the networks it needs, and write one table.

    Each network and seed has a run folder below --out. After a stop the same command resumes; what is finished is not
    done again, and the table shows all of it: OUT/paper.md, OUT/paper.json. Beside it are the paper's figures 1, 3
    and 4. Started twice at a time, on two GPUs say, the two share the runs.
    """
    from alexnet_fast.paper import claims

    if list_only:
        check_alone("--list", {"json_file"})
    chosen = claims.choose(only.split(",") if only else [])
    width = max(shutil.get_terminal_size((130, 24)).columns, 80)
    if list_only:
        show(claims.as_list(width), claims.as_json(), json_file)
        return
    if shards is None:
        raise click.UsageError("Missing option '--shards'.")
    given = with_settings({"epochs": epochs}, settings)
    if fixed := given.keys() & {"shards", "init", "seed"}:
        raise InputError(f"--set {min(fixed)}: paper sets it itself, by network and seed. Leave it out.")

    from alexnet_fast.distributed.devices import choose_gpus
    from alexnet_fast.paper import figures, runs, table

    gpus = choose_gpus(gpus, most=1)
    log = partial(click.echo, err=True)
    experiment = runs.Experiment(out, chosen, shards, big, given, split)
    check_settings(given, [experiment.run(name, 0).config for name in claims.NETWORKS])
    experiment = runs.fit(experiment, log)
    runs.check(experiment, gpus)
    out.mkdir(parents=True, exist_ok=True)

    def save_table(left_out: dict[str, str]) -> dict[str, Any]:
        with locked(out / runs.LOCK, wait=True):
            return table.write(experiment, left_out)

    outcome = runs.run_all(experiment, seeds=seeds, gpus=gpus, budget=budget, log=log, save_table=save_table)
    found = experiment.found()
    with locked(out / runs.LOCK, wait=True):
        drawn = [] if outcome.stopped else figures.write(experiment, found, log)
    text = table.as_text(found, chosen, outcome.left_out, width)
    show("\n".join([text, str(out / "paper.md"), *map(str, drawn)]), save_table(outcome.left_out), json_file)
    if outcome.stopped:
        log("Stopped; what is done is kept. Resume with the same command.")
        sys.exit(signals.INTERRUPTED)
    sys.exit(1 if outcome.failed else 0)


COMMANDS = (paper_command,)
