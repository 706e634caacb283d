"""What `eval` measured of a run's network, kept in the run's folder for its report."""

from __future__ import annotations

import json
from typing import Any

from alexnet_fast.files import append
from alexnet_fast.inference.networks import Network
from alexnet_fast.inference.predictions import Predictions, summary
from alexnet_fast.text import now
from alexnet_fast.training import checkpoint

EVALUATIONS = "evaluations.jsonl"
"""A line of JSON each, in a run's folder."""
KEYS = ("images", "views", "precision", "damaged", "top1", "top5", "top1_interval", "top5_interval")
"""Of `summary`: what a line has of it."""


def keep(networks: list[Network], found: Predictions) -> list[str]:
    """Adds the accuracy of a network to the file of the run whose checkpoint it is; returns a line that says so, or
    why it cannot. Keeps nothing, and returns no line, for several networks, a checkpoint in no run folder, and images
    without labels."""
    network, *others = networks
    file = checkpoint.find(network.path)
    if others or not file.with_name("config.json").is_file() or found.accuracy() is None:
        return []
    scores = summary(found)
    line: dict[str, Any] = {
        "time": now(),
        "checkpoint": file.name,
        "epochs": network.epochs,
        "shards": found.shards,
        "split": found.split.name,
        "crop": network.crop,
        **{key: scores[key] for key in KEYS},
    }
    path = file.with_name(EVALUATIONS)
    try:
        append(path, json.dumps(line).encode() + b"\n")
    except OSError as error:
        return [f"not kept for the report: {path} cannot be written ({error.strerror})"]
    return [f"kept for the report: {path}"]
