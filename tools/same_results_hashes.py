"""Hashes of files, values and checkpoints for tools/same_results.py: of what is a result, not of when and where."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

Results = dict[str, Any]
"""By name: a sha256, or a few numbers."""
TIMES = ("seconds", "images_per_second", "data_wait", "peak_gib", "time")
PATHS = ("shards", "init", "cache")
"""Settings that name places."""


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def value_hash(value: Any) -> str:
    """Of numbers, texts, tensors and arrays, in dictionaries and lists; the order of a dictionary does not count."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str} {value.shape}".encode())
        digest.update(value.tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} values".encode())
        for one in value:
            _feed(digest, one)
    else:
        digest.update(repr(value).encode())


def stable(value: Any, folders: list[Path]) -> Any:
    """A command's JSON without TIMES, and without these folders in its texts."""
    if isinstance(value, dict):
        return {key: stable(one, folders) for key, one in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [stable(one, folders) for one in value]
    if isinstance(value, str):
        for folder in folders:
            value = value.replace(str(folder), "")
    return value


def array_hash(path: Path, folders: list[Path]) -> str:
    """Of what a file holds: an archive's arrays, a checkpoint's tensors, an ONNX graph with its weights; without
    these folders in names of images."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        texts = {name: stable(array.tolist(), folders) for name, array in arrays.items() if array.dtype.kind == "U"}
        return value_hash(arrays | texts)
    if path.suffix == ".safetensors":  # whose metadata are in another order every time
        size = int.from_bytes(path.read_bytes()[:8], "little")
        header = json.loads(path.read_bytes()[8 : 8 + size])
        about = header["__metadata__"]
        header["__metadata__"] = without_paths({**about, "config": json.loads(about["config"])})
        return value_hash([header, hashlib.sha256(path.read_bytes()[8 + size :]).hexdigest()])
    if path.suffix in (".pt", ".pth"):
        state = torch.load(path, map_location="cpu", weights_only=True)
        return value_hash(without_paths(state))
    if path.suffix == ".onnx":  # without the version of the program that wrote it
        return hashlib.sha256(onnx.load(str(path)).graph.SerializeToString(deterministic=True)).hexdigest()
    return file_hash(path)


def without_paths(state: dict[str, Any]) -> dict[str, Any]:
    if "config" not in state:
        return state
    return {**state, "config": {name: value for name, value in state["config"].items() if name not in PATHS}}


def checkpoint_hashes(run: Path) -> Results:
    """What a run has learnt: losses and accuracies as numbers, hashes of the log and of all in last.pt and best.pt."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    last = without_paths(torch.load(run / "last.pt", map_location="cpu", weights_only=True))
    parts = ("model", "optimizer", "config")
    return {
        "losses": [line["loss"] for line in log if "loss" in line],
        "accuracies": [[line["val_top1"], line["val_top5"]] for line in log if "val_top1" in line],
        "log": value_hash(log),
        **{part: value_hash(last[part]) for part in parts},
        "rest": value_hash({name: value for name, value in last.items() if name not in parts}),
        "best": array_hash(run / "best.pt", []),
    }
