"""The table: claim, the paper's number, ours with its interval, verdict. For a terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alexnet_fast.console import draw_table
from alexnet_fast.environment import environment
from alexnet_fast.files import write_json, written
from alexnet_fast.paper.claims import CLAIMS, NETWORKS, RECIPE, Claim
from alexnet_fast.paper.measures import BASE, Found
from alexnet_fast.paper.runs import Experiment
from alexnet_fast.paper.statistics import UNDECIDED, Estimate
from alexnet_fast.recipes import RECIPES
from alexnet_fast.shards.reader import ShardSet

HEAD = ["claim", "paper", "ours [95 % interval]", "over", "verdict"]
NETWORK_HEAD = ["network", "what", "seeds", "training top-1", "top-1, 1 view", "10 views"]
NOTES = (
    "Points of per cent, top-1 / top-5; differences are of error, above 0 where the paper is right, and a verdict is "
    "by the sign of the first number, not by its size. Two networks are compared by the means of their seeds, with "
    "Student's interval from the spread of both, pooled: that of training again and judging by the same images. One "
    "seed of each decides nothing. What is compared within a network (views, averages) is so over its seeds, or where "
    "there is one over the images, which is the interval of other images. A gap is training less validation top-1, 1 "
    "view, training images not augmented. Every network is judged as it was after its last epoch."
)
UNCHANGED = {"recipe", "shards", "seed", "threads", "cache", "cache_bytes", "log_every", "parallel"}
"""Settings that are not listed as changes of the recipe: they are no part of it."""


@dataclass(frozen=True)
class ClaimRow:
    """`estimates`: empty where a run was left out. `verdict`: by top-1."""

    claim: Claim
    estimates: list[Estimate]
    verdict: str

    @property
    def over(self) -> str:
        return self.estimates[0].over if self.estimates else "-"

    def cells(self) -> list[str]:
        ours = " / ".join(map(interval, self.estimates)) or "-"
        return [self.claim.text, self.claim.paper, ours, self.over, self.verdict]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.claim.name,
            "claim": self.claim.text,
            "paper": self.claim.paper,
            "ours": [
                {"value": e.value, "interval": None if math.isinf(e.high) else [e.low, e.high]} for e in self.estimates
            ],
            "over": self.over,
            "verdict": self.verdict,
        }


def rows(found: Found, chosen: Sequence[Claim], left_out: Iterable[str]) -> list[ClaimRow]:
    """Of every claim whose networks are there, and of the chosen ones that lack a run that was left out."""
    failed = [name for name, seeds in found.items() if not all(scores.learnt for scores in seeds.values())]
    table = []
    for claim in CLAIMS:
        lacking = missing(claim, found)
        lacks = [run for run in lacking if run in left_out] if claim in chosen else []
        if lacks:
            table.append(ClaimRow(claim, [], f"not tried: {', '.join(lacks)} left out"))
        elif not lacking and (claim in chosen or not claim.by_name):
            estimates = claim.measure(found)
            verdict = estimates[0].verdict() if claim.decides else "-"
            if learnt_nothing := ", ".join(name for name in claim.networks if name in failed):
                verdict = f"{UNDECIDED}: " * claim.decides + f"{learnt_nothing} learnt nothing"
            table.append(ClaimRow(claim, estimates, verdict))
    return table


def missing(claim: Claim, found: Found) -> list[str]:
    """Runs that a claim still needs."""
    needed = ((network, seed) for network, count in claim.networks.items() for seed in range(count))
    return [f"{network} seed {seed}" for network, seed in needed if seed not in found.get(network, {})]


def interval(estimate: Estimate) -> str:
    value = f"{estimate.value:.1f}{' times' if estimate.none else ''}"
    return value if math.isinf(estimate.high) else f"{value} [{estimate.low:.1f} to {estimate.high:.1f}]"


def network_cells(found: Found) -> list[list[str]]:
    """A row a network: means over its seeds, per cent."""
    table = []
    for name, seeds in found.items():
        columns = zip(*((s.train_right, s.right1[:, 0], s.right10[:, 0]) for s in seeds.values()), strict=True)
        means = (100 * float(np.mean([right.mean() for right in column])) for column in columns)
        table.append([name, NETWORKS[name].what, str(len(seeds)), *(f"{mean:.1f}" for mean in means)])
    return table


def changes(experiment: Experiment) -> dict[str, Any]:
    """Settings of the base network other than the recipe's."""
    recipe, config = RECIPES[RECIPE].as_dict(), experiment.run(BASE, 0).config.as_dict()
    return {name: value for name, value in config.items() if value != recipe[name] and name not in UNCHANGED}


def setup(experiment: Experiment) -> str:
    """The data and the settings, in words."""
    config = experiment.run(BASE, 0).config
    lines = []
    for what, location in {"Data": experiment.shards, "To pre-train on": experiment.big}.items():
        if location:
            manifest = ShardSet(location, config.cache, config.cache_bytes or None).manifest
            lines.append(
                f"{what}: {location}, {len(manifest.classes):,} classes, {manifest.images('train'):,} training and "
                f"{manifest.images('val'):,} validation images of {manifest.size} px, of which the networks take "
                f"{config.crop or manifest.size * 7 // 8}."
            )
    if experiment.split != "val":
        lines.append(f"Judged by the split {experiment.split}.")
    changed = ", ".join(f"{name} {value}" for name, value in changes(experiment).items()) or "nothing"
    return "\n".join([*lines, f"Recipe: {RECIPE}; changed for all networks: {changed}."])


def write(experiment: Experiment, left_out: dict[str, str]) -> dict[str, Any]:
    """Writes paper.md and paper.json into the experiment's folder; returns what the latter holds."""
    found = experiment.found()
    table = rows(found, experiment.claims, left_out)
    networks = network_cells(found)
    body = {
        "claims": [row.as_dict() for row in table],
        "networks": [dict(zip(NETWORK_HEAD, cells, strict=True)) for cells in networks],
        "changes": changes(experiment),
        "left_out": left_out,
        "environment": environment(),
    }
    blocks = [_grid(HEAD, [row.cells() for row in table]), NOTES, _grid(NETWORK_HEAD, networks)]
    if left_out:
        blocks.append("\n".join(["Left out:", "", *(f"- {name}: {why}" for name, why in left_out.items())]))
    with written(experiment.out / "paper.md") as file:
        file.write_text("\n\n".join([setup(experiment), *blocks]) + "\n", encoding="utf-8")
    write_json(experiment.out / "paper.json", body)
    return body


def as_text(found: Found, chosen: Sequence[Claim], left_out: dict[str, str], width: int) -> str:
    cells = [row.cells() for row in rows(found, chosen, left_out)]
    table = draw_table(HEAD, cells, width) if cells else "no claim's networks are there yet"
    return "\n".join([table, *(f"left out: {name}: {why}" for name, why in left_out.items())])


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body])
