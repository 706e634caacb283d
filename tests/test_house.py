"""The rooms of the package in the order of the data: each imports only rooms above it, and no file is in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import alexnet_fast

ROOT = Path(alexnet_fast.__file__).parent
ROOMS = [
    *("errors", "text", "files", "console", "memory", "signals", "random", "config", "recipes", "native", "commit"),
    *("environment", "shards", "sharding", "loading", "model", "distributed", "evaluation", "training", "inference"),
    *("interchange", "report", "paper", "demo", "bench", "cli", "wheel"),
]
"""A folder, or a file beside them. The package's own `__init__` and `__main__` are above and below all."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == ROOT.name:
            module = (node.module or "").removeprefix(ROOT.name).lstrip(".")
            found |= {
                name if name in MODULES else module for name in (f"{module}.{a.name}".lstrip(".") for a in node.names)
            }
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix(f"{ROOT.name}.") for a in node.names if a.name.startswith(f"{ROOT.name}.")}
    return found - {""}


IMPORTS = {name: imported(path) - {name} for name, path in MODULES.items()}


def test_every_file_is_in_a_room() -> None:
    assert {name.split(".")[0] for name in MODULES} - {"", "__main__"} == set(ROOMS)


def test_a_room_imports_only_rooms_above_it() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        for other in others
        if name not in ("", "__main__") and ROOMS.index(other.split(".")[0]) > ROOMS.index(name.split(".")[0])
    ]
    assert upwards == []


def test_no_circle() -> None:
    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = IMPORTS[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    assert [name for name in MODULES if name and name in reached(name)] == []


def test_one_job_a_file_and_a_function() -> None:
    long_files, long_functions = [], []
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 350:
            long_files.append(name)
        long_functions += [
            f"{name}.{node.name}: {(node.end_lineno or 0) - node.lineno + 1}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
        ]
    assert (long_files, long_functions) == ([], [])


def test_only_two_rooms_know_torch_distributed_and_one_file_dali() -> None:
    def users(text: str) -> set[str]:
        return {name for name, path in MODULES.items() if text in path.read_text(encoding="utf-8")}

    assert {name.split(".")[0] for name in users("torch.distributed") - {"model.collectives"}} <= {"distributed"}
    assert users("from nvidia.dali") == {"loading.dali"}
