"""The table: claim, the paper's number, ours with its interval, verdict. For a terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_fast.config import RECIPES
from alexnet_fast.console import drawn
from alexnet_fast.environment import environment
from alexnet_fast.files import written
from alexnet_fast.paper.measures import BASE, Found
from alexnet_fast.paper.runs import Experiment
from alexnet_fast.paper.statistics import UNDECIDED, Estimate
from alexnet_fast.paper.systems import CLAIMS, NETWORKS, RECIPE, Claim
from alexnet_fast.shardset import ShardSet
from alexnet_fast.training.metrics import write_json

HEAD = ["claim", "paper", "ours [95 % interval]", "over", "verdict"]
NETWORK_HEAD = ["network", "what", "seeds", "training top-1", "val top-1, 1 view", "10 views"]
NOTES = (
    "Points of per cent, top-1 / top-5; differences are of error, above 0 where the paper is right. Same seeds are "
    "compared with each other: with two or more by Student's interval over the seeds, which is that of training again "
    "and judging by the same images; with one by the normal interval over the images, which is that of other images. "
    "A gap is training less validation top-1, 1 view, training images not augmented. Every network is judged as it was "
    "after its last epoch."
)
UNCHANGED = {"recipe", "shards", "seed", "threads", "cache", "cache_bytes", "log_every", "parallel"}
"""Settings that are not named as changes of the recipe: they are no part of it."""


@dataclass(frozen=True)
class Row:
    """`failed`: those of its networks that learnt nothing, with any seed."""

    claim: Claim
    estimates: list[Estimate]
    failed: list[str]

    @property
    def verdict(self) -> str:
        """By top-1."""
        if not self.claim.decides:
            return "-"
        if self.failed:
            return f"{UNDECIDED}: {', '.join(self.failed)} learnt nothing"
        return self.estimates[0].verdict()

    def cells(self) -> list[str]:
        ours = " / ".join(map(interval, self.estimates))
        return [self.claim.text, self.claim.paper, ours, self.estimates[0].over, self.verdict]


def rows(found: Found) -> list[Row]:
    """Of every claim whose networks are there."""
    failed = [name for name, of in found.items() if not all(scores.learnt for scores in of.values())]
    return [
        Row(claim, claim.measure(found), [name for name in claim.networks if name in failed])
        for claim in CLAIMS
        if not missing(claim, found)
    ]


def missing(claim: Claim, found: Found) -> list[str]:
    """Runs that a claim still needs at least."""
    return [
        f"{network} seed {seed}"
        for network, least in claim.networks.items()
        for seed in range(least)
        if seed not in found.get(network, {})
    ]


def interval(estimate: Estimate) -> str:
    unit = " times" if estimate.none else ""
    value = f"{estimate.value:.1f}{unit}"
    return value if math.isinf(estimate.high) else f"{value} [{estimate.low:.1f} to {estimate.high:.1f}]"


def network_cells(found: Found) -> list[list[str]]:
    """A row a network: means over its seeds, per cent."""
    table = []
    for name, of in found.items():
        each = of.values()
        means = [
            100 * float(np.mean([right.mean() for right in column]))
            for column in (
                [s.train_right for s in each],
                [s.right1[:, 0] for s in each],
                [s.right10[:, 0] for s in each],
            )
        ]
        table.append([name, NETWORKS[name].what, str(len(of)), *(f"{mean:.1f}" for mean in means)])
    return table


def changes(experiment: Experiment) -> dict[str, Any]:
    """Settings of the base network other than the recipe's."""
    recipe = RECIPES[RECIPE].as_dict()
    config = experiment.run(BASE, 0).config.as_dict()
    return {name: value for name, value in config.items() if value != recipe[name] and name not in UNCHANGED}


def setup(experiment: Experiment) -> str:
    """The data and the settings, in words."""
    config = experiment.run(BASE, 0).config
    named = {"Data": experiment.shards} | ({"To pre-train on": experiment.big} if experiment.big else {})
    lines = []
    for what, location in named.items():
        manifest = ShardSet(location, config.cache, config.cache_bytes or None).manifest
        images = {name: sum(tar.samples for tar in tars) for name, tars in manifest.splits.items()}
        lines.append(
            f"{what}: {location}, {len(manifest.classes):,} classes, {images['train']:,} training and "
            f"{images['val']:,} validation images of {manifest.size} px, of which the networks take "
            f"{config.crop or manifest.size * 7 // 8}."
        )
    changed = ", ".join(f"{name} {value}" for name, value in changes(experiment).items()) or "nothing"
    return "\n".join([*lines, f"Recipe: {RECIPE}; changed for all networks: {changed}."])


def write(out: Path, experiment: Experiment, left_out: dict[str, str]) -> dict[str, Any]:
    """paper.md and paper.json in the folder `out`; returns what the latter holds."""
    found = experiment.found()
    body = {**as_dict(experiment, found, left_out), "environment": environment()}
    with written(out / "paper.md") as file:
        file.write_text(as_markdown(experiment, found, left_out), encoding="utf-8")
    write_json(out / "paper.json", body)
    return body


def as_markdown(experiment: Experiment, found: Found, left_out: dict[str, str]) -> str:
    blocks = [setup(experiment), _grid(HEAD, [row.cells() for row in rows(found)]), NOTES]
    blocks += [_grid(NETWORK_HEAD, network_cells(found))]
    blocks += ["\n".join(["Left out:", "", *(f"- {name}: {why}" for name, why in left_out.items())])] * bool(left_out)
    return "\n\n".join(blocks) + "\n"


def as_text(found: Found, left_out: dict[str, str], width: int) -> str:
    shown = [row.cells() for row in rows(found)]
    lines = [f"left out: {name}: {why}" for name, why in left_out.items()]
    return "\n".join([*([drawn(HEAD, shown, width)] if shown else ["no claim's networks are there yet"]), *lines])


def as_dict(experiment: Experiment, found: Found, left_out: dict[str, str]) -> dict[str, Any]:
    claims = [
        {
            "name": row.claim.name,
            "claim": row.claim.text,
            "paper": row.claim.paper,
            "ours": [
                {"value": e.value, "interval": None if math.isinf(e.high) else [e.low, e.high]} for e in row.estimates
            ],
            "over": row.estimates[0].over,
            "verdict": row.verdict,
        }
        for row in rows(found)
    ]
    networks = [dict(zip(NETWORK_HEAD, cells, strict=True)) for cells in network_cells(found)]
    return {"claims": claims, "networks": networks, "changes": changes(experiment), "left_out": left_out}


def _grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *body])
