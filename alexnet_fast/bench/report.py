"""The result of `bench` as a table, as JSON and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alexnet_fast import native
from alexnet_fast.bench.advice import EPOCHS, IMAGENET, BenchSetup, advise, find_limit, imagenet, noise, number
from alexnet_fast.loading.share import best_share

STAGES = {
    "read": "stored bytes in random order",
    "decode": "read, JPEG to uint8 crops",
    "loader": "as trained: + flips, colour",
    "copy": "uint8 crops to the GPU",
    "step": "network, images in memory",
    "joint": "the loader feeds the network",
}
"""In the order in which an image meets them."""


@dataclass(frozen=True)
class BenchReport:
    """`turns`: images/s of every stage, turn by turn; none of `copy` where there is no GPU. `shares`: of `joint`,
    images/s by the share of the JPEGs that the host decoded, 0 to 1; empty where the host decodes all or none."""

    setup: BenchSetup
    turns: dict[str, list[float]]
    shares: dict[float, float] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, float]:
        """The medians."""
        return {stage: median(rates) for stage, rates in self.turns.items() if rates}

    @property
    def limit(self) -> str:
        return find_limit(self.rates)

    @property
    def advice(self) -> list[str]:
        return advise(self.rates, self.setup) + noise({stage: self.turns[stage] for stage in self.rates})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        epoch = IMAGENET / self.rates["joint"]
        return {
            "setup": asdict(self.setup),
            "images_per_second": {
                stage: {"median": median(rates), "low": min(rates), "high": max(rates), "turns": rates}
                if rates
                else None
                for stage, rates in self.turns.items()
            },
            "host_shares": [{"share": share, "images_per_second": rate} for share, rate in self.shares.items()],
            "limit": self.limit,
            "advice": self.advice,
            "imagenet_seconds": {"epoch": epoch, f"{EPOCHS}_epochs": EPOCHS * epoch},
        }

    def as_text(self, width: int | None = None) -> str:
        """The table and the advice under it."""
        table = Table(caption=f"{len(self.turns['joint'])} turns, warm-up not counted", caption_justify="left")
        for head in ("stage", "what", "images/s", "low-high"):
            table.add_column(head, justify="right" if head in ("images/s", "low-high") else "left")
        setup = self.setup
        for stage, rates in self.turns.items():
            is_limit = stage == self.limit
            what = "read, copy uint8 crops" if (stage, setup.encoding) == ("decode", "raw") else STAGES[stage]
            columns = [number(median(rates)), f"{number(min(rates))}-{number(max(rates))}"] if rates else ["no GPU"]
            table.add_row(stage + " <" * is_limit, what, *columns, style="bold" if is_limit else "")
        console = Console(width=width)
        with console.capture() as capture:
            console.print(table)
        found = native.description()
        decoder = f"none, {found['native_reason']}"
        if found["instructions"]:
            decoder = f"{found['native']}, {found['libjpeg'] or 'no libjpeg'}, {found['instructions']}"
        if setup.libnvcuvid:
            decoder += f"; libnvcuvid: {setup.libnvcuvid}"
        about = (
            f"{setup.shards}: {setup.encoding}, {setup.size} px; {setup.arch}, batch {setup.batch}, crop "
            f"{setup.crop}, {setup.precision}, on {setup.device}; {setup.threads} of {setup.cores} cores decode"
            f" (native: {decoder})"
        )
        texts = [about, capture.get().rstrip(), *self._tried(), *self.advice, imagenet(self.rates["joint"])]
        return "\n".join(texts)

    def _tried(self) -> list[str]:
        """A sentence where the host's share of the JPEGs was tried."""
        if not self.shares:
            return []
        names = {share: {0.0: "none", 1.0: "all"}.get(share, f"{100 * share:.1f} %") for share in self.shares}
        tried = [f"{names[share]} {number(rate)} images/s" for share, rate in self.shares.items()]
        best = names[best_share(self.shares)]
        return [f"JPEGs decoded on the host, the others on the GPU: {', '.join(tried)}; {best} is taken."]

    def draw(self, out: Path) -> None:
        """A PNG: a bar a stage, the limit dark, with the turns' low and high."""
        from matplotlib.figure import Figure  # takes a second to import

        stages, medians = list(self.rates), np.array(list(self.rates.values()))
        low, high = (np.array([end(self.turns[stage]) for stage in stages]) for end in (min, max))
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.add_subplot()
        colours = ["black" if stage == self.limit else "lightgrey" for stage in stages]
        errors = [medians - low, high - medians]
        axes.barh(stages, medians, xerr=errors, color=colours, edgecolor="grey", ecolor="grey", capsize=3)
        for place, end in enumerate(high):
            axes.text(end * 1.1, place, number(medians[place]), va="center", fontsize=9)
        axes.set(xscale="log", xlim=(medians.min() / 5, high.max() * 4))
        axes.invert_yaxis()
        axes.set(xlabel="images/s, median and range of the turns", title=self.advice[0])
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(out, dpi=110)
