"""The record's README.md: its numbers as tables. What was not measured has a dash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tools.gpu_points.setup import Setup

Record = dict[str, Any]
BENCH_STAGES = "read", "decode", "loader", "copy", "step", "joint"
OURS = "paper", "paper, conv1 by 4x4 blocks", "paper, a convolution a tower", "paper without LRN", "half", "bn"
"""The networks and forms whose steps point 5 measures."""


def page(record: Record) -> str:
    """The whole page of a record such as `__main__.run_all` makes. A table that fails does not cost the others."""
    texts = []
    sections = [head, targets, steps, loaders, joints, decoders, handovers, lifetimes, parts, trainings, outcomes]
    for section in sections:
        try:
            texts.append("\n".join(section(record)) + "\n")
        except (LookupError, TypeError, ValueError) as error:
            texts.append(f"{section.__name__}: {error!r}; see numbers.json\n")
    return "\n".join(texts)


def numbers(record: Record, point: str) -> dict[str, Any]:
    found: dict[str, Any] = record["points"].get(point, {}).get("numbers", {})
    return found


def rate(record: Record, point: str, name: str) -> float | None:
    """The median images/s of a measurement, or its one number."""
    found = numbers(record, point).get(name, {}).get("images_per_second")
    value: float | None = found["median"] if isinstance(found, dict) else found
    return value


def bench_rate(record: Record, name: str, stage: str) -> float | None:
    """The median of one of its stages."""
    found = numbers(record, "10").get(name, {}).get("images_per_second", {}).get(stage)
    return found["median"] if found else None


def batches(record: Record) -> tuple[int, int]:
    """The small and the large one."""
    return Setup(record["device"], "").batches


def shown(value: Any, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def head(record: Record) -> list[str]:
    about = numbers(record, "1").get("environment", {})
    packages = about.get("packages", {})
    names = [name for name in packages if name.startswith(("torch", "nvidia-dali", "triton", "nvidia-nvjpeg"))]
    gpus = ", ".join(about.get("gpus", [])) or "no GPU"
    missing = numbers(record, "1").get("missing packages", [])
    return [
        f"# {gpus}: what only a GPU can settle",
        "",
        f"By `{' '.join(record['command'])}` at {about.get('commit')}, {record['date']}. {gpus}, driver "
        f"{about.get('driver')}, {about.get('processor')}, {about.get('cores')} cores, Python {about.get('python')}; "
        f"{', '.join(f'{name} {packages[name]}' for name in names)}.",
        "",
        f"Native code: {about.get('native')}, {about.get('libjpeg')}, {about.get('instructions')}. Triton: "
        f"{about.get('triton')}. libnvcuvid: {about.get('libnvcuvid')}. Missing packages: "
        f"{', '.join(missing) or 'none'}.",
        "",
        "Rates are images/s, medians of the turns in numbers.json, warm-up left out, images in the page cache."
        + (" All in small, to try the script out: no number means anything." if record["device"] == "cpu" else ""),
    ]


def targets(record: Record) -> list[str]:
    """Those of the issue, for an H100 or H200."""
    small, large = batches(record)
    fast, slow = (rate(record, "5", f"paper, batch {n}") for n in (large, small))
    replayed = bench_rate(record, f"bench, paper, raw, batch {small}", "step")
    slow = max(slow or 0, replayed or 0) or None  # bench takes steps as train does
    bare = rate(record, "5", f"paper without LRN, batch {large}")
    jpeg, raw = best_joint(record, "jpeg"), rate(record, "7", f"paper, batch {large}, raw")
    alone = rate(record, "7", f"paper, batch {large}, step alone")
    errors = [abs(one["data_wait"] - one["idle_by_events"]) for one in numbers(record, "7").values() if "gib" in one]
    rows: list[tuple[str, float | None, str, bool]] = [
        (f"paper's step at {large}, at least 40,000", fast, ",.0f", (fast or 0) >= 40_000),
        (f"at {small} of that, at least 75 %", quotient(slow, fast), ".1%", (quotient(slow, fast) or 0) >= 0.75),
        (
            "raw joint of the step alone, at least 95 %",
            quotient(raw, alone),
            ".1%",
            (quotient(raw, alone) or 0) >= 0.95,
        ),
        ("JPEG joint, at least 30,000", jpeg, ",.0f", (jpeg or 0) >= 30_000),
        ("LRN of the step, at most 10 %", share_of(fast, bare), ".1%", (share_of(fast, bare) or 1) <= 0.1),
        ("idle share shown, off by at most 1 point", max(errors, default=None), ".2%", max(errors, default=1) <= 0.01),
    ]
    lines = [
        [what, shown(value, form), "-" if value is None else ("no", "yes")[met]] for what, value, form, met in rows
    ]
    return ["## Targets", "", *table(["target", "measured", "met"], lines)]


def quotient(value: float | None, by: float | None) -> float | None:
    return value / by if value and by else None


def share_of(whole: float | None, without: float | None) -> float | None:
    """The share of a step's time that the part takes without which it has the rate `without`."""
    return 1 - whole / without if whole and without else None


def best_joint(record: Record, encoding: str) -> float | None:
    start = f"paper, batch {batches(record)[1]}, {encoding}"
    return max((rate(record, "7", name) or 0 for name in numbers(record, "7") if name.startswith(start)), default=None)


def steps(record: Record) -> list[str]:
    """Without a loader, images in the GPU's memory."""
    ends = f", batch {batches(record)[0]}"
    found = [name.removesuffix(ends) for name in numbers(record, "10") if name.endswith(ends)]
    names = [("10", name) for name in found if not name.startswith("bench")]
    names += [("5", name) for name in OURS]
    rows = []
    for point, name in names:
        row = [name if point == "10" else f"ours, {name}"]
        for batch in batches(record):
            one = numbers(record, point).get(f"{name}, batch {batch}", {})
            value = rate(record, point, f"{name}, batch {batch}")
            row += [shown(value), shown(value and 1000 * batch / value, ".2f"), shown(one.get("kernel_ms"), ".2f")]
            row += [shown(one.get("kernels")), shown(one.get("gib", {}).get("torch_peak"), ".1f")]
        rows.append(row)
    heads = [
        f"{what}, {batch}" for batch in batches(record) for what in ("images/s", "ms", "kernels' ms", "kernels", "GiB")
    ]
    return [
        "## The step alone",
        "",
        *table(["network", *heads], rows),
        "",
        "Where ms is more than the kernels' ms, the GPU waits for launches. profile.txt has the kernels.",
    ]


def loaders(record: Record) -> list[str]:
    rows = []
    for name in [name for name in numbers(record, "10") if name.startswith("bench, ")]:
        _, recipe, encoding, batch = name.split(", ")
        rates = [shown(bench_rate(record, name, stage)) for stage in BENCH_STAGES]
        rows.append([f"{recipe}, {encoding}, {batch}", *rates, shown(best_stock(record, encoding))])
    return [
        "## Loaders and `bench`",
        "",
        "Stock DALI, in its fastest form of those measured, gives float32 without colour.",
        "",
        *table(["recipe, set", *BENCH_STAGES, "stock DALI's loader"], rows),
    ]


def best_stock(record: Record, encoding: str) -> float | None:
    """The rate of DALI's own reader by its faster variant."""
    names = [name for name in numbers(record, "10") if name.startswith("stock DALI") and name.endswith(encoding)]
    return max((rate(record, "10", name) or 0 for name in names), default=None)


def joints(record: Record) -> list[str]:
    found = numbers(record, "7")
    rows = []
    for name, one in found.items():
        if name.endswith("step alone"):
            alone = rate(record, "7", name)
            rows.append([name, shown(alone), *["-"] * 6])
            continue
        value, trials = one["images_per_second"], one["trials"]
        rows.append(
            [
                *(name, shown(value), shown(quotient(value, rate(record, "7", f"{step_of(name)}, step alone")), ".1%")),
                *(shown(one["data_wait"], ".2%"), shown(one["idle_by_events"], ".2%")),
                *(shown(one["gib"].get("torch_peak"), ".1f"), shown(one["gib"].get("device_in_use"), ".1f")),
                ", ".join(f"{share}: {shown(speed)}" for share, speed in trials.items()) or "-",
            ]
        )
    heads = ["what", "images/s", "of the step alone", "data wait shown", "idle by events", "GiB of torch", "GiB of all"]
    return [
        "## Loader and step together",
        "",
        "Steps are launched kernel by kernel. Idle by events: of the time, what lies between the end of a step and the "
        "start of the next, with the pass over the batch's pixels.",
        "",
        *table([*heads, "trials by host share"], rows),
    ]


def step_of(name: str) -> str:
    """Recipe and batch of a joint measurement."""
    return ", ".join(name.split(", ")[:2])


def decoders(record: Record) -> list[str]:
    keys = "build_seconds", "first_batch_seconds", "gib"
    rows = [
        [name, shown(rate(record, "6", name)), *(shown(one.get(key), ".2f") for key in keys)]
        for name, one in numbers(record, "6").items()
        if isinstance(one, dict)
    ]
    heads = ["decoder", "images/s", "s to build", "s to the first batch", "GiB"]
    return ["## Decoding alone", "", *table(heads, rows)]


def handovers(record: Record) -> list[str]:
    rows = []
    for name, one in numbers(record, "4").items():
        if isinstance(one, dict):
            launches = [shown(one["launch_us"][key], ",.1f") for key in ("p50", "p99", "max")]
            rows.append([name, shown(one["images_per_second"]), *launches, shown(one["cores_in_use"], ".2f")])
    heads = ["hand-over", "images/s", "launch p50, us", "p99, us", "longest, us", "cores in use"]
    return ["## Hand-over from DALI, beside queued steps", "", *table(heads, rows)]


def lifetimes(record: Record) -> list[str]:
    rows = [[name, *map(str, one.values())] for name, one in numbers(record, "3").get("checksums", {}).items()]
    heads = ["batches", "number", "differ when read late", "differ when read at once, twice"]
    return ["## Memory of batches, read behind queued work", "", *table(heads, rows)]


def parts(record: Record) -> list[str]:
    rows = [
        [part, form, shown(one["median"], ".3f")]
        for part, forms in numbers(record, "5").items()
        if "images_per_second" not in forms
        for form, one in forms.items()
    ]
    return ["## Parts of the step", "", *table(["part", "form", "ms"], rows)]


def trainings(record: Record) -> list[str]:
    rows = []
    for name, one in {**numbers(record, "8"), **numbers(record, "11")}.items():
        speed, wait = shown(one["images_per_second"]), shown(one["data_wait"], ".2%")
        losses = f"{one['first_loss']:.3f} to {one['last_loss']:.3f}"
        rows.append([name, speed, wait, shown(one["process_seconds"]), losses])
    resumed = [f"- {name}: {value}" for name, value in numbers(record, "9").items()]
    heads = ["`train`", "images/s", "data wait", "s in all", "loss"]
    return ["## Whole runs", "", *table(heads, rows), "", *resumed]


def outcomes(record: Record) -> list[str]:
    rows = []
    for number, one in record["points"].items():
        gpu = one["gpu"]
        power = [shown(gpu.get(f"{how}_{what}")) for what in ("watts", "sm_mhz") for how in ("mean", "max")]
        memory = gpu.get("max_used_mib")
        rows.append([number, one["title"], one["outcome"].replace("|", "/"), shown(one["seconds"]), *power])
        rows[-1].append(shown(memory and memory / 1024, ".1f"))
    heads = ["point", "what", "outcome", "s", "W, mean", "W, most", "SM MHz, mean", "most", "GiB of all, most"]
    return [
        "## Points",
        "",
        *table(heads, rows),
        "",
        f"Limits: {record['minutes']:g} minutes in all; output.txt has what each printed.",
    ]
