"""Our loader beside stock DALI, FFCV, slipstream, torchvision, webdataset and plain JPEG decoding, in turns.

    PYTHONPATH=. python tools/peers.py SHARDS_JPEG SHARDS_RAW [--full SHARDS_FULL] [--python OTHER_INTERPRETER]
                                       [--only CASE] [--turns 5] [--threads 2] [--batch 256] [--keep-freed] [--gpu]
                                       [--out tools/records/DATE_peers_HARDWARE]

Shard sets of the same photographs with a split `train`; SHARDS_FULL is one of `shard --shape full`. Every measurement
is a process of its own, see tools/peer_loaders.py. A peer that this interpreter cannot import runs under the first
OTHER_INTERPRETER that can; one that none can is left out, with the reason in the record. Also: opening a set of
ImageNet's size, made of links to the JPEG tars. With --gpu, ours and stock DALI alone, their batches on the first GPU.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from alexnet_fast.environment import environment
from alexnet_fast.files import write_json
from alexnet_fast.shards.format import MANIFEST, Manifest, Tar, index_name, tar_name
from alexnet_fast.shards.reader import ShardSet
from tools.peer_loaders import ALL_DALI, DALI_JPEG, DALI_RAW, DALI_RESIZED, Job, run, summary

IMAGENET = 1_281_167
OURS, DALI, FFCV, SLIPSTREAM, DECODE = "ours", "stock DALI", "FFCV", "slipstream", "simplejpeg, decode only"
JPEG_PEERS = {DALI: [*DALI_JPEG], FFCV: ["FFCV"], "torchvision": ["torchvision"], "webdataset": ["webdataset"]}
RAW_PEERS = {DALI: [*DALI_RAW], FFCV: ["FFCV"]}
ALL_RESIZED = {OURS: ["ours"], DALI: [*DALI_RESIZED], FFCV: ["FFCV"], SLIPSTREAM: ["slipstream"]}
ALL_RESIZED |= {"torchvision": ["torchvision"]}


@dataclass(frozen=True)
class Case:
    """`stored`: the shard set. `columns`: the loaders of each column of the table, of which the fastest counts.
    `resized`: random resized crops."""

    stored: str
    dtype: str
    columns: dict[str, list[str]]
    resized: bool = False


CASES = {
    "JPEG -> uint8": Case(
        "jpeg", "uint8", {OURS: ["ours"], **JPEG_PEERS, SLIPSTREAM: ["slipstream"], DECODE: ["simplejpeg"]}
    ),
    "JPEG -> float32": Case("jpeg", "float32", {OURS: ["ours"], **JPEG_PEERS}),
    "JPEG -> bf16": Case("jpeg", "bfloat16", {OURS: ["ours"]}),
    "raw -> uint8": Case("raw", "uint8", {OURS: ["ours"], **RAW_PEERS}),
    "raw -> float32": Case("raw", "float32", {OURS: ["ours"], **RAW_PEERS}),
    (SQUARE_CROPS := "JPEG -> uint8, resized crops"): Case("jpeg", "uint8", ALL_RESIZED, resized=True),
    (FULL_CROPS := "full JPEG -> uint8, resized crops"): Case("full", "uint8", ALL_RESIZED, resized=True),
}
ON_GPUS = {"ours", *ALL_DALI}
COLUMNS = [OURS, *JPEG_PEERS, SLIPSTREAM, DECODE]

TARGETS = [
    ("JPEG -> uint8", "JPEG -> uint8", DECODE, 0.80),
    ("JPEG -> uint8", "JPEG -> uint8", DALI, 1.2),
    ("JPEG -> uint8", "JPEG -> uint8", FFCV, 1.7),
    ("JPEG -> uint8", "JPEG -> uint8", "torchvision", 1.8),
    ("JPEG -> float32", "JPEG -> uint8", DECODE, 0.70),
    ("JPEG -> float32", "JPEG -> float32", DALI, 1.2),
    ("JPEG -> float32", "JPEG -> float32", FFCV, 2.7),
    ("JPEG -> bf16", "JPEG -> uint8", DECODE, 0.70),
    ("JPEG -> bf16", "JPEG -> float32", DALI, 1.2),
    ("JPEG -> bf16", "JPEG -> float32", FFCV, 2.7),
    ("raw -> uint8", "raw -> uint8", FFCV, 3.0),
    ("raw -> uint8", "raw -> uint8", DALI, 1.8),
    ("raw -> float32", "raw -> float32", FFCV, 3.0),
    ("raw -> float32", "raw -> float32", DALI, 1.4),
]
for crops in (SQUARE_CROPS, FULL_CROPS):
    TARGETS += [(crops, crops, SLIPSTREAM, 1.5), (crops, crops, FFCV, 1.8), (crops, crops, DALI, 1.8)]
    TARGETS += [(crops, crops, "torchvision", 3.0)]
"""Our case, the peer's case, the peer, at least so many times as fast."""

MEMORY = {
    True: "glibc keeps freed memory for all of them.",
    False: "The peers run as they come; our loader makes glibc keep freed memory by itself.",
}

Rates = dict[str, dict[str, list[float]]]
"""Images a second by case, loader, turn."""


class Interpreters:
    """Which one runs which loader."""

    def __init__(self, others: tuple[str, ...]) -> None:
        self.paths = [sys.executable, *others]
        self.about = [run("versions", python=path) for path in self.paths]

    def of(self, loader: str) -> str | None:
        found = (path for path, about in zip(self.paths, self.about, strict=True) if loader not in about["missing"])
        return next(found, None)

    def reason(self, loader: str) -> str:
        return "; ".join(f"{Path(path).name}: {about['missing'][loader]}" for path, about in self.each())

    def each(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return zip(self.paths, self.about, strict=True)


def extract(shards: ShardSet, folder: Path) -> None:
    """The stored JPEGs as files images/<class>/<sample>.jpg, for ImageFolder."""
    split = shards.split("train")
    for sample, label in enumerate(split.labels.tolist()):
        path = folder / "images" / f"{label:04d}" / f"{sample:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(split.read(np.array([sample]))[0].tobytes())


def for_peers(shards: ShardSet, folder: Path, threads: int, interpreters: Interpreters) -> Path:
    """The same images as the peers read them."""
    folder.mkdir()
    if shards.manifest.encoding == "jpeg":
        extract(shards, folder)
    if ffcv := interpreters.of("FFCV"):
        run("beton", Job("FFCV", "uint8", str(shards.folder.resolve()), str(folder), threads), ffcv)
    return folder


def warm(folders: list[Path]) -> None:
    """Into the page cache."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass


def in_turns(jobs: dict[str, dict[str, Job]], interpreters: Interpreters, turns: int) -> tuple[Rates, dict[str, str]]:
    """The rates, and for what could not run, why."""
    rates: Rates = {case: {} for case in jobs}
    skipped: dict[str, str] = {}
    for turn in range(turns):
        for case, loaders in jobs.items():
            for loader, job in loaders.items():
                name = f"{case}, {loader}"
                python = interpreters.of(loader)
                if python is None:
                    skipped[name] = interpreters.reason(loader)
                if python is None or name in skipped:
                    continue
                try:
                    rate = run("rate", job, python)["images_per_second"]
                except RuntimeError as error:
                    skipped[name] = str(error)
                    rates[case].pop(loader, None)  # half of the turns are no result
                    continue
                rates[case].setdefault(loader, []).append(rate)
                print(f"turn {turn + 1}: {name:38s} {rate:8,.0f} images/s", flush=True)
    return rates, skipped


def best(rates: Rates, case: str, column: str) -> str | None:
    """The column's fastest loader by the median."""
    there = [loader for loader in CASES[case].columns.get(column, []) if loader in rates.get(case, {})]
    return max(there, key=lambda loader: median(rates[case][loader]), default=None)


def compared(rates: Rates) -> list[dict[str, Any]]:
    """Every target of a measured case with the median of the turns' ratios; none where the peer could not run."""
    rows = []
    for case, peer_case, column, target in TARGETS:
        if case not in rates or peer_case not in rates:
            continue
        peer = best(rates, peer_case, column)
        row: dict[str, Any] = {"case": case, "peer": f"{column}, {peer_case}", "target": target, "ratio": None}
        if peer and OURS in rates[case]:
            ratios = [a / b for a, b in zip(rates[case][OURS], rates[peer_case][peer], strict=True)]
            row |= {"loader": peer, "ratio": median(ratios), "low": min(ratios), "high": max(ratios)}
        rows.append(row)
    return rows


def imagenet_sized(source: ShardSet, folder: Path) -> Path:
    """A set of 1,281,167 samples: its tars are links to the source's, again and again, the last one cut short."""
    split, tars = source.split("train"), source.manifest.splits["train"]
    parts = [split.index[split.index["shard"] == number] for number in range(len(tars))]
    listed: list[Tar] = []
    rows = []
    left = IMAGENET
    while left:
        number = len(listed) % len(tars)
        part = parts[number][:left].copy()
        part["shard"] = len(listed)
        name = tar_name("train", len(listed))
        (folder / name).symlink_to((source.folder / tars[number].file).resolve())
        listed.append(replace(tars[number], file=name, samples=len(part)))
        rows.append(part)
        left -= len(part)
    np.save(folder / index_name("train"), np.concatenate(rows))
    manifest: Manifest = replace(source.manifest, splits={"train": listed}, counts={})
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder


def opening(source: ShardSet, turns: int, threads: int, batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shards = imagenet_sized(source, Path(folder))
        job = Job("ours", "uint8", str(shards), threads=threads, batch=batch)
        every = [run("open", job) for _ in range(turns)]
    small = [run("open", replace(job, shards=str(source.folder.resolve()))) for _ in range(turns)]
    alone = [run("imports") for _ in range(turns)]
    return {
        **{key: median([one[key] for one in every]) for key in every[0]},
        "turns": every,
        "of_the_source": {key: median([one[key] for one in small]) for key in small[0]},
        "imports_alone": {
            name: {key: median([one[name][key] for one in alone]) for key in alone[0][name]} for name in alone[0]
        },
    }


def verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


def cell(rates: Rates, case: str, column: str) -> str:
    loader = best(rates, case, column)
    if loader is None:
        return "-"
    turns = rates[case][loader]
    variant = f" ({loader.removeprefix('DALI ')})" if column == DALI else ""
    return f"{median(turns):,.0f} [{min(turns):,.0f}-{max(turns):,.0f}]{variant}"


def table(rates: Rates) -> list[str]:
    columns = [column for column in COLUMNS if any(best(rates, case, column) for case in rates)]
    lines = [f"| images/s | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return lines + [f"| {case} | {' | '.join(cell(rates, case, column) for column in columns)} |" for case in rates]


def ratio_line(row: dict[str, Any]) -> str:
    start = f"- ours, {row['case']}, to {row['peer']}"
    if row["ratio"] is None:
        return f"{start}: not measured (target x{row['target']:.2f})"
    spread = f"x{row['ratio']:.2f} [{row['low']:.2f}-{row['high']:.2f}]"
    return f"{start}: {spread}, target x{row['target']:.2f}: {verdict(row['ratio'] >= row['target'])}"


def opening_lines(row: dict[str, Any]) -> list[str]:
    alone = [f"{name} {part['seconds']:.2f} s, {part['peak_mb']:.0f} MB" for name, part in row["imports_alone"].items()]
    small = row["of_the_source"]
    return [
        f"Opening {row['samples']:,.0f} samples in {row['tars']:,.0f} tars, torch imported already:",
        "",
        f"- ShardSet() to the first batch {row['seconds']:.2f} s, target < 2 s: {verdict(row['seconds'] < 2)}",
        f"- peak memory {row['peak_mb']:.0f} MB ({row['of_files_mb']:.0f} MB of it mapped: libraries, index, tars), "
        f"target < 300 MB: {verdict(row['peak_mb'] < 300)}",
        f"- the same with {small['samples']:,.0f} samples: {small['seconds']:.2f} s, {small['peak_mb']:.0f} MB",
        f"- an epoch's plan {row['plan_seconds']:.3f} s, target < 0.5 s: {verdict(row['plan_seconds'] < 0.5)}",
        f"- imports alone: {'; '.join(alone)}; ours with torch, before ShardSet() {row['imported_mb']:.0f} MB",
    ]


def report(record: dict[str, Any], rates: Rates) -> str:
    lines = [
        f"{record['unique_images']:,} stored photographs, crop and mirror at random (slipstream: central crops where "
        f"they are not resized, no mirror images)"
        f"{', batches on the GPU' * record['gpu']}; {record['threads']} threads or "
        f"processes, batch {record['batch']}, warm page cache. {record['processor']}, {record['date']}.",
        "",
        f"Every measurement is a process of its own. Batches to warm up: {record['warm_up']}; then the clock runs over "
        f"at least {record['images']:,} images and {record['seconds']:g} s, in which no loader is started anew. "
        f"Turns: {record['turns']}, the cases in turn; median [low-high]; a ratio is the median of the turns' ratios.",
        f"Our floats have PCA colour, the peers' have none. {MEMORY[record['keep_freed']]} Of stock DALI the fastest "
        "variant counts.",
        "",
        *table(rates),
        "",
        *map(ratio_line, record["ratios"]),
        "",
        *([*opening_lines(record["opening"]), ""] if "opening" in record else []),
        "Could not run: "
        + ("; ".join(f"{name} ({why})" for name, why in record["skipped"].items()) or "nothing")
        + ".",
    ]
    return "\n".join(lines) + "\n"


def is_chosen(name: str, only: tuple[str, ...]) -> bool:
    return not only or any(part in name for part in only)


@click.command()
@click.argument("jpeg", type=click.Path(path_type=Path))
@click.argument("raw", type=click.Path(path_type=Path))
@click.option("--full", type=click.Path(path_type=Path), help="Set of images that keep their shape, 400 pixels.")
@click.option("--python", "others", multiple=True, help="Interpreter for peers that this one lacks; may be repeated.")
@click.option("--only", multiple=True, help="Cases whose name holds this, or `opening`; may be repeated.")
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--images", default=5000, show_default=True, help="To clock at least, each time.")
@click.option("--seconds", default=3.0, show_default=True, help="To clock at least, each time.")
@click.option("--warm-up", default=1, show_default=True, help="Batches before the clock starts.")
@click.option("--keep-freed", is_flag=True, help="Make glibc keep freed memory for the peers too.")
@click.option("--gpu", is_flag=True, help="Batches on the first GPU: ours and stock DALI's.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the record.")
def main(
    jpeg: Path,
    raw: Path,
    full: Path | None,
    others: tuple[str, ...],
    only: tuple[str, ...],
    turns: int,
    threads: int,
    batch: int,
    images: int,
    seconds: float,
    warm_up: int,
    keep_freed: bool,
    gpu: bool,
    out: Path | None,
) -> None:
    interpreters = Interpreters(others)
    sets = {"jpeg": jpeg.resolve(), "raw": raw.resolve()} | ({"full": full.resolve()} if full else {})
    cases = {name: case for name, case in CASES.items() if case.stored in sets and is_chosen(name, only)}
    sets = {name: path for name, path in sets.items() if any(case.stored == name for case in cases.values())}
    jpegs = ShardSet(jpeg.resolve())
    how: dict[str, Any] = {
        "threads": threads,
        "batch": batch,
        "images": images,
        "seconds": seconds,
        "warm_up": warm_up,
        "keep_freed": keep_freed,
        "gpu": gpu,
    }
    with tempfile.TemporaryDirectory() as name:
        files = {kind: for_peers(ShardSet(sets[kind]), Path(name, kind), threads, interpreters) for kind in sets}
        jobs = {
            case: {
                loader: Job(
                    loader, spec.dtype, str(sets[spec.stored]), str(files[spec.stored]), resized=spec.resized, **how
                )
                for loaders in spec.columns.values()
                for loader in loaders
                if not gpu or loader in ON_GPUS
            }
            for case, spec in cases.items()
        }
        warm([*sets.values(), Path(name)])
        rates, skipped = in_turns(jobs, interpreters, turns)
    record: dict[str, Any] = {
        "date": str(date.today()),
        "shards": [path.name for path in sets.values()],
        "unique_images": len(jpegs.split("train")),
        "turns": turns,
        **how,
        **environment(),
        "interpreters": [about["packages"] for about in interpreters.about],
        "images_per_second": {c: {name: summary(turns) for name, turns in row.items()} for c, row in rates.items()},
        "ratios": compared(rates),
        "skipped": skipped,
    }
    if is_chosen("opening", only):
        record["opening"] = opening(jpegs, turns, threads, batch)
    text = report(record, rates)
    print(text)
    if out:
        out.mkdir(parents=True)
        write_json(out / "numbers.json", record)
        (out / "README.md").write_text(f"# Our loader beside its peers\n\n{text}")


if __name__ == "__main__":
    main()
