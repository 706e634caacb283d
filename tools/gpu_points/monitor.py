"""Power, clocks and memory of the GPUs while something runs, by nvidia-smi."""

from __future__ import annotations

import shutil
import subprocess
from statistics import mean
from types import TracebackType

FIELDS = {"power.draw": "watts", "clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "memory.used": "used_mib"}
INTERVAL_MS = 250


class Monitor:
    """Asks nvidia-smi from entering to leaving; measures nothing where there is none."""

    def __init__(self) -> None:
        self.summary: dict[str, float] = {}
        """Mean and largest of each field, over all readings of all GPUs."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Monitor:
        if shutil.which("nvidia-smi"):
            query = [f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}"]
            self._process = subprocess.Popen(
                ["nvidia-smi", *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process:
            self._process.terminate()
            self.summary = summarise(self._process.communicate()[0])


def summarise(output: str) -> dict[str, float]:
    """The mean and the largest of each column of nvidia-smi's readings, without those that it could not read."""
    columns: dict[str, list[float]] = {name: [] for name in FIELDS.values()}
    for line in output.splitlines():
        values = [value.strip() for value in line.split(",")]
        for name, value in zip(columns, values, strict=False):
            if value.replace(".", "", 1).isdigit():
                columns[name].append(float(value))
    found = {name: values for name, values in columns.items() if values}
    return {f"{how}_{name}": of(values) for name, values in found.items() for how, of in (("mean", mean), ("max", max))}
