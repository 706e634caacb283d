"""Which stage is the limit and what to change: rules on measured rates. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet_fast.text import duration

IMAGENET, EPOCHS = 1_281_167, 90
"""Training images of ILSVRC-2012, and the paper's epochs."""
NEAR = 1.25
"""A part of the loader is its limit when it is less than this many times as fast."""
ABOUT = 1.1
"""Two rates within this factor are called about the same."""
SHARE = 0.1
"""Of the cores' time: what the loader may take from a network on the same cores without being mentioned."""
TOGETHER = 0.8
"""Of the rate that both alone allow: below it the loader and the network slow each other down."""
SPREAD = 1.5
"""Fastest by slowest turn of a stage: above it something else ran."""


@dataclass(frozen=True, kw_only=True)
class BenchSetup:
    """What the rates were measured with. `cores` are those this process may use, `gpus` those torch finds."""

    shards: str
    encoding: str
    size: int
    image_bytes: float
    """Mean of the stored images."""
    arch: str
    batch: int
    crop: int
    precision: str
    device: str
    gpus: int
    threads: int
    cores: int
    libnvcuvid: str | None = None
    """`environment.nvcuvid`; None where no GPU decodes."""

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"


def find_limit(rates: Mapping[str, float]) -> str:
    """The slowest stage: step, read, copy, decode, or loader for what comes after decoding.

    `rates`: images/s of read, decode, loader, step, joint and, on a GPU, copy.
    """
    loader = rates["loader"]
    if rates["step"] <= loader:
        return "step"
    parts = ("read", "copy", "decode")  # decode includes the others
    return next((part for part in parts if part in rates and rates[part] < NEAR * loader), "loader")


def expected(rates: Mapping[str, float], setup: BenchSetup) -> float:
    """Images/s of loader and step together: the slower one's, or what is left where they share the same cores."""
    loader, step = rates["loader"], rates["step"]
    return 1 / (1 / loader + 1 / step) if setup.on_cpu else min(loader, step)


def advise(rates: Mapping[str, float], setup: BenchSetup) -> list[str]:
    """Sentences: first what is the limit, then what to change. `rates` as in `find_limit`."""
    rules = {"step": _network, "read": _reading, "copy": _copying, "decode": _loading, "loader": _loading}
    sentences = rules[find_limit(rates)](rates, setup)
    allowed = expected(rates, setup)
    if rates["joint"] < TOGETHER * allowed:
        fewer = f" Try --threads {setup.threads - 1}." if setup.threads > 1 else ""
        sentences.append(
            f"Loader and network together reach {100 * rates['joint'] / allowed:.0f} % of what the two allow alone: "
            f"they slow each other down, or something else runs on these cores.{fewer}"
        )
    return sentences


def _network(rates: Mapping[str, float], setup: BenchSetup) -> list[str]:
    times = rates["loader"] / rates["step"]
    faster = "about" if times < ABOUT else f"{number(times)} times"
    only_just = ", but only just" * (times < ABOUT)
    sentences = [f"The network is the limit{only_just}: the loader alone is {faster} as fast."]
    if setup.on_cpu:
        share = 1 / (1 + times)
        if share > SHARE:
            raw = " Raw images in the shard set would give most of that back." if setup.encoding != "raw" else ""
            sentences.append(f"The loader takes {100 * share:.0f} % of the cores' time.{raw}")
        sentences.append(f"What would help: {_a_gpu(setup)}, a smaller crop, or more cores.")
    else:
        better = " --precision bf16 computes faster." if setup.precision == "fp32" else ""
        sentences.append(f"A larger batch often uses a GPU better: try --batch {2 * setup.batch}.{better}")
    return sentences


def _reading(rates: Mapping[str, float], setup: BenchSetup) -> list[str]:
    speed = rates["read"] * setup.image_bytes / 1e6
    fewer = ", or a JPEG set, which has a tenth of the bytes" if setup.encoding != "jpeg" else ""
    return [
        f"Reading is the limit: {number(speed)} MB/s in random order.",
        f"What would help: a faster disk, or memory enough to keep the set in{fewer}.",
    ]


def _copying(rates: Mapping[str, float], setup: BenchSetup) -> list[str]:
    speed = rates["copy"] * 3 * setup.crop**2 / 1e9
    ways = ["a JPEG shard set, of which the GPU decodes its share itself"] * (setup.encoding != "jpeg")
    limit = f"The copy to the GPU is the limit: {number(speed)} GB/s of uint8 crops."
    return [limit, _would_help([*ways, "a smaller crop"])]


def _loading(rates: Mapping[str, float], setup: BenchSetup) -> list[str]:
    """Where decoding, or what comes after it, is the limit."""
    share = min(rates["loader"] / rates["decode"], 1)
    threads = [f"more --threads ({setup.threads} of {setup.cores} cores used)"] * (setup.threads < setup.cores)
    if find_limit(rates) == "decode":
        what, ways = "copying crops takes" if setup.encoding == "raw" else "decoding takes", threads
        if setup.encoding == "jpeg":
            more = f"{number(3 * setup.size**2 / setup.image_bytes)} times the bytes"
            ways.append(f"a raw or mixed shard set (alexnet-fast shard --encoding raw: {more})")
        elif setup.encoding == "mixed":
            ways.append("a larger share of raw images in the set")
        if setup.encoding != "raw" and setup.on_cpu:
            ways.append("the decoder of " + _a_gpu(setup))
    else:
        what, share = "flips, colour and conversion take", 1 - share
        ways = [_a_gpu(setup) + ", which does them at no cost"] if setup.on_cpu else threads
    if not setup.on_cpu:
        ways.append(f"a larger batch (--batch {2 * setup.batch})")
    return [f"The loader is the limit: {what} {100 * share:.0f} % of its time.", _would_help(ways)]


def _a_gpu(setup: BenchSetup) -> str:
    return "a GPU (--gpus 1)" if setup.gpus else "a GPU"


def _would_help(ways: list[str]) -> str:
    text = ", or ".join([", ".join(ways[:-1]), ways[-1]] if len(ways) > 1 else ways) or "more or faster cores"
    return f"What would help: {text}."


def noise(turns: Mapping[str, list[float]]) -> list[str]:
    """A sentence where the turns of a stage differ too much to be trusted."""
    factor, worst = max((max(rates) / min(rates), name) for name, rates in turns.items())
    if factor < SPREAD:
        return []
    return [
        f"The turns of {worst} differ by a factor of {number(factor)}: something else ran on this machine. "
        "Measure again when it is idle."
    ]


def imagenet(rate: float) -> str:
    """What ImageNet takes at so many images/s."""
    epoch = IMAGENET / rate
    return (
        f"ImageNet's {IMAGENET:,} images at {number(rate)} images/s: {duration(epoch)} an epoch, "
        f"{duration(EPOCHS * epoch)} for {EPOCHS}, evaluation not counted."
    )


def number(value: float) -> str:
    """With two digits at least: 7,900; 25; 1.3."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
