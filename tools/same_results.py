"""Fixed results of the command line alone, as sha256, to show that a change of the code changes none of them.

    python -m tools.same_results make OUT.json [--keep FOLDER]
    python -m tools.same_results resume FOLDER OUT.json
    python -m tools.same_results compare BEFORE.json AFTER.json [--common]

`make` shards small sources, trains short runs on the CPU, and uses their networks. `--keep` leaves the sets, the runs
and unfinished copies of them in FOLDER; `resume` resumes those copies with this checkout and uses those networks:
its results are the same keys as `make`'s, to be compared with --common. Hashes hold for one machine and one set of
package versions. Dates, durations, memory and paths are left out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click
import torch

from tools.same_results_hashes import Results, array_hash, checkpoint_hashes, file_hash, stable, value_hash
from tools.same_results_sources import CLASSES, LAYOUTS, SIZE, pictures, torchvision_weights

ROOT = Path(__file__).resolve().parents[1]
ENCODINGS = {"jpeg": "", "raw": "", "mixed": "--budget 1200KB"}
SETS = {
    "keep": ("folders", "--keep"),
    "quality": ("folders", "--quality 60 --size 80 --seed 7"),
    "classes": ("folders", "--classes {folder}/classes.txt"),
    "val-fraction": ("whole", "--val-fraction 0.25 --seed 5"),
    "split-half": ("whole", "--split half"),
    "two-workers": ("webdataset", "--workers 2"),
}
"""Beside every layout in every encoding: the source and its options."""
EPOCHS, EPOCH_STEPS, SAVED_STEP = 2, 5, 7
"""Of 84 images in steps of 16; the checkpoint in mid-epoch that unfinished copies begin from."""
TRAIN = f"--gpus 0 --epochs {EPOCHS} --batch 16 --threads 1 --save-every {SAVED_STEP} --set hidden=32 --set log_every=1"


class Run(NamedTuple):
    shards: str
    settings: str
    processes: int = 1
    precision: str = "fp32"


RUNS = {
    "paper": Run("folders-jpeg", "--recipe paper --lr 0.02 --set layer_scales=true"),
    "fast": Run("folders-raw", "--recipe fast --lr 0.02"),
    "large": Run("folders-mixed", "--recipe large"),
    "onetower": Run("folders-jpeg", "--recipe paper --arch onetower --set dropout=0"),
    "sixconv": Run("folders-mixed", "--recipe paper --arch sixconv --accumulate 2 --set bottleneck=10"),
    "half": Run("folders-raw", "--recipe paper --arch half --set conv1_slow=0.3 --set conv1_freeze=0.6"),
    "caffe": Run("folders-raw", "--recipe fast --arch caffe --set optimizer=sgd --set schedule=steps"),
    "claims": Run(
        "folders-raw",
        "--recipe paper --set lrn=all --set within_map_norm=true --set pool=2 --set activation=tanh "
        "--set without=conv4 --set crops=false",
    ),
    "bf16": Run("folders-raw", "--recipe fast", precision="bf16"),
    "window": Run(
        "folders-jpeg",
        "--recipe fast --order window --seed 3 --set window=2 --set crop=64 --set colour_std=0.4 --set colour_off=0.5 "
        "--set schedule=poly",
    ),
    "init": Run("folders-raw", "--recipe paper --set init={folder}/runs/paper/last.pt --set init_layers=conv"),
    "data-2": Run("folders-jpeg", "--recipe fast --parallel data", 2),
    "towers-2": Run("folders-jpeg", "--recipe paper --parallel towers", 2),
    "hybrid-2": Run("folders-mixed", "--recipe paper --parallel hybrid", 2),
}
INTERRUPTED = "window"
"""Trained once more, interrupted by SIGTERM in mid-epoch and resumed."""
USES = {
    "eval-1": "eval {runs}/fast --per-class --predictions {out}/eval-1.npz",
    "eval-10": "eval {runs}/fast --views 10 --predictions {out}/eval-10.npz",
    "eval-two": "eval {runs}/fast {runs}/onetower --predictions {out}/eval-two.npz",
    "eval-two-searched": "eval {runs}/fast {runs}/paper/last.pt --split train --views 10 --weights search",
    "eval-test": "eval {runs}/caffe --split test --submission {out}/eval-test.txt",
    "predict": "predict {runs}/fast {images} --views 10 --top 3",
    "features-images": "features {runs}/fast {images} --out {out}/features-images.npz",
    "features-shards": "features {runs}/paper --layer conv3 --out {out}/features-shards.npz",
    "import-torchvision": "import {out}/foreign.pth {out}/torchvision.pt",
    "export-torchvision": "export {out}/torchvision.pt {out}/torchvision.pth",
    "export-safetensors": "export {runs}/fast {out}/fast.safetensors",
    "export-onnx": "export {runs}/paper {out}/paper.onnx",
    "import-safetensors": "import {out}/fast.safetensors {out}/safetensors.pt",
}
WRITTEN = (".npz", ".txt", ".pth", ".safetensors", ".pt", ".onnx")
GIVEN_SHARDS = ("eval", "features-shards", "import-torchvision")


def command(line: str, processes: int = 1) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "alexnet_fast", *line.split()]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, "-m", "alexnet_fast", "--", *line.split()]


def start(line: list[str]) -> subprocess.Popen[str]:
    """With this checkout's package and one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, env=environment, cwd=ROOT, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def call(line: str, processes: int = 1) -> str:
    """Its standard output. Raises ClickException when it fails."""
    process = start(command(line, processes))
    output, errors = process.communicate(timeout=600)
    if process.returncode != 0:
        raise click.ClickException(f"alexnet-fast {line}: exit code {process.returncode}\n{errors}")
    return output


def say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def make_sets(folder: Path) -> Results:
    """Sources in folder/sources, shard sets in folder/sets; the sha256 of each file of the sets."""
    images = pictures()
    for layout, write in LAYOUTS.items():
        write(folder / "sources" / layout, images)
    (folder / "classes.txt").write_text("".join(f"{wnid}\n" for wnid in list(CLASSES)[1:3]))
    pairs = [(layout, kind) for layout in LAYOUTS for kind in ENCODINGS]
    sets = {f"{layout}-{kind}": (layout, f"--encoding {kind} {ENCODINGS[kind]}") for layout, kind in pairs}
    results: Results = {}
    for name, (layout, options) in (sets | SETS).items():
        say(f"set {name}")
        out = folder / "sets" / name
        line = f"shard --size {SIZE} --workers 1 --src {folder}/sources/{layout} --out {out} "
        call(line + options.format(folder=folder))
        results |= {f"sets/{name}/{path.name}": file_hash(path) for path in sorted(out.iterdir())}
    result = json.loads(call(f"verify {folder}/sets/folders-mixed --workers 1 --json -"))
    return results | {"sets/folders-mixed: verify": value_hash(result)}


def train_line(folder: Path, name: str, run: Path) -> str:
    one = RUNS[name]
    settings = one.settings.format(folder=folder)
    return f"train {TRAIN} --precision {one.precision} {settings} --shards {folder}/sets/{one.shards} --run {run}"


def resume_line(folder: Path, name: str, run: Path) -> str:
    return f"train --gpus 0 --shards {folder}/sets/{RUNS[name].shards} --run {run} --resume"


def make_runs(folder: Path) -> Results:
    """Runs in folder/runs, their unfinished copies in folder/unfinished; what each has learnt."""
    results: Results = {}
    for name, one in RUNS.items():
        say(f"run {name}")
        run = folder / "runs" / name
        call(train_line(folder, name, run), one.processes)
        results |= {f"runs/{name}/{key}": value for key, value in checkpoint_hashes(run).items()}
        leave_unfinished(run, folder / "unfinished" / name)
    say("run interrupted")
    run = folder / "runs" / "interrupted"
    interrupt(train_line(folder, INTERRUPTED, run), run)
    call(resume_line(folder, INTERRUPTED, run))
    return results | {f"runs/interrupted/{key}": value for key, value in checkpoint_hashes(run).items()}


def leave_unfinished(run: Path, unfinished: Path) -> None:
    """`run` as it would be had it been killed after its checkpoint in mid-epoch; shares its files. A best.pt of the
    last epoch replaced an earlier one, which is lost; the resumed run writes it again."""
    unfinished.mkdir(parents=True)
    for name in ("config.json", "environment.json", "log.jsonl"):
        shutil.copy(run / name, unfinished)
    os.link(run / f"step-{SAVED_STEP:08d}.pt", unfinished / "last.pt")
    best = torch.load(run / "best.pt", map_location="cpu", weights_only=True)
    if best["epoch"] < EPOCHS:
        os.link(run / "best.pt", unfinished / "best.pt")


def interrupt(line: str, run: Path) -> None:
    """Sends SIGTERM once some steps are logged. Raises ClickException when the run does not stop and save then."""
    process, log = start(command(line)), run / "log.jsonl"
    while process.poll() is None and not (log.exists() and len(log.read_bytes().splitlines()) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    steps = sum('"step"' in text for text in log.read_text().splitlines())
    if process.returncode != 0 or "Stopped in epoch" not in output or steps % EPOCH_STEPS == 0:
        raise click.ClickException(f"not interrupted in mid-epoch, but after {steps} steps:\n{output}{errors}")


def use_networks(folder: Path, out: Path) -> Results:
    """Results of the networks of folder/runs; files go to `out`."""
    places = {"runs": folder / "runs", "images": folder / "sources" / "folders" / "test", "out": out}
    foreign = out / "foreign.pth"
    torch.save(torchvision_weights(), foreign)
    results: Results = {}
    for name, line in USES.items():
        say(name)
        shards = f" --shards {folder}/sets/folders-jpeg" * name.startswith(GIVEN_SHARDS)
        gpus = " --gpus 0" * (not name.startswith(("export", "import")))
        body = json.loads(call(line.format(**places) + shards + gpus + " --json -"))
        if name == "export-onnx":
            body.pop("note")  # has the largest difference on noise, which is drawn without a seed
        results[f"uses/{name}"] = value_hash(stable(body, [out, folder]))
        if name == "eval-1":
            results["uses/eval-1: accuracy"] = [body["top1"], body["top5"]]
    written = sorted(path for path in out.iterdir() if path.suffix in WRITTEN)
    results |= {f"uses/{path.name}": array_hash(path, [out, folder]) for path in written}
    for path in (foreign, *out.glob("torchvision.*")):  # 230 MB each
        path.unlink()
    return results


def save(out: Path, results: Results) -> None:
    """Also what the hashes hold for: this checkout's commit, versions and processor."""
    about = call("--version --verbose").splitlines()
    out.write_text(json.dumps({"results": results, "about": about}, indent=1) + "\n")
    say(f"{len(results)} results: {out}")


path_type = click.Path(path_type=Path, resolve_path=True)


@click.group()
def main() -> None:
    pass


@main.command()
@click.argument("out", type=path_type)
@click.option("--keep", type=path_type, metavar="FOLDER", help="Leave sets and runs there, which must be new.")
def make(out: Path, keep: Path | None) -> None:
    """Make all results and write their sha256."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary) / "made"
        folder.mkdir(parents=True)
        results = make_sets(folder) | make_runs(folder)
        (folder / "uses").mkdir()
        save(out, results | use_networks(folder, folder / "uses"))


@main.command()
@click.argument("folder", type=path_type)
@click.argument("out", type=path_type)
def resume(folder: Path, out: Path) -> None:
    """Resume copies of the unfinished runs in FOLDER and use its finished ones, with this checkout."""
    results: Results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, one in RUNS.items():
            say(f"resume {name}")
            run = Path(temporary) / name
            shutil.copytree(folder / "unfinished" / name, run)
            call(resume_line(folder, name, run), one.processes)
            results |= {f"runs/{name}/{key}": value for key, value in checkpoint_hashes(run).items()}
            shutil.rmtree(run)
        results |= use_networks(folder, Path(temporary))
    save(out, results)


@main.command()
@click.argument("before", type=path_type)
@click.argument("after", type=path_type)
@click.option("--common", is_flag=True, help="Only the results that both have.")
def compare(before: Path, after: Path, common: bool) -> None:
    """List the results that differ; exit code 1 when there are any."""
    first, second = (json.loads(path.read_text()) for path in (before, after))
    ours, theirs = first["results"], second["results"]
    names = ours.keys() & theirs.keys() if common else ours.keys() | theirs.keys()
    if not names:
        raise click.ClickException("the two have no result in common.")
    for line in sorted(set(first["about"]) ^ set(second["about"])):
        click.echo(f"only one was made with {line.strip()}", err=True)
    different = [name for name in sorted(names) if name not in ours or name not in theirs or ours[name] != theirs[name]]
    for name in different:
        missing = [path.name for path, found in ((before, ours), (after, theirs)) if name not in found]
        click.echo(f"{name}: " + (f"not in {missing[0]}" if missing else "differs"))
    click.echo(f"{len(names) - len(different)} of {len(names)} results are the same.")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
