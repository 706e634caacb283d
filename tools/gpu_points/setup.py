"""What every point of tools/gpu is given, and where it puts its numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Skipped(Exception):
    """Raised by a point that cannot run on this machine; its text says why."""


@dataclass(frozen=True)
class Setup:
    """`device`: cuda, or cpu for everything in small. `work`: folder of images, shard sets and runs. `images`: folder
    with train/<class>/ and val/<class>/; empty: they are drawn."""

    device: str
    work: str
    images: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def size(self) -> int:
        """Stored side, pixels."""
        return 256 if self.on_gpu else 74

    @property
    def crop(self) -> int:
        return self.size * 7 // 8

    @property
    def batches(self) -> tuple[int, int]:
        """The paper's, and a large one."""
        return (128, 1024) if self.on_gpu else (4, 8)

    @property
    def seconds(self) -> float:
        """What a rate is measured for, in each turn."""
        return 0.5 if self.on_gpu else 0.02

    @property
    def turns(self) -> int:
        return 3 if self.on_gpu else 1

    @cached_property
    def threads(self) -> int:
        return len(os.sched_getaffinity(0))

    @property
    def settings(self) -> dict[str, Any]:
        """Of a configuration, besides recipe and batch."""
        small = {} if self.on_gpu else {"hidden": 32}
        return {"precision": "bf16", "crop": self.crop, "threads": self.threads, **small}

    def shards(self, encoding: str) -> Path:
        return Path(self.work, encoding)

    def need_gpus(self, count: int = 1) -> None:
        """Raises Skipped where there are fewer."""
        found = 0
        if self.on_gpu:
            import torch

            found = torch.cuda.device_count()
        if found < count:
            raise Skipped("needs a GPU, skipped" if count == 1 else f"needs {count} GPUs, skipped")


@dataclass
class Results:
    """A point's numbers, on the disk after each of them: a point that is ended at its limit keeps what it has."""

    path: Path
    numbers: dict[str, Any] = field(default_factory=dict)

    def put(self, name: str, value: Any) -> None:
        self.numbers[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.numbers))
        unfinished.replace(self.path)
