"""ResNet-18 trained from our loader and from torch's DataLoader with torchvision's transforms: as accurate?

    python -m tools.resnet18_accuracy SHARDS [--seeds 3] [--epochs 3] [--crop 64] [--batch 64] --out RECORD

Both read the same stored images, and train the network of tools/examples/resnet18.py in its own loop from the same
weights, a seed's. Random resized crops of 35 to 100 % of the area, mirror images, MixUp(0.2); then, of the validation
images, the shorter side is resized to 8/7 of the crop, of which the centre counts. Each does all of that in its own
way; ours without PCA colour, which torchvision lacks. Two processes side by side, one thread each. CPU only.

RECORD/runs.jsonl keeps each training that is finished, and the same command trains only those that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import click
import torch
from scipy.stats import ttest_ind, ttest_rel
from torch.utils.data import DataLoader, default_collate

from alexnet_fast import Loader, MapDataset, MixUp, ShardSet
from alexnet_fast.environment import environment
from alexnet_fast.files import write_json
from tools.peer_loaders import loaded

SCALE, ALPHA = (0.35, 1.0), 0.2
Loaders = tuple[Any, Any]
"""Of a training's batches and of the validation's, (images, targets): images 0-255 less the set's mean, float32."""


@dataclass(frozen=True)
class Settings:
    epochs: int
    crop: int
    batch: int
    lr: float

    @property
    def resize(self) -> int:
        """To what the shorter side of validation images is resized, pixels."""
        return self.crop * 8 // 7


def ours(shard_set: ShardSet, seed: int, settings: Settings) -> Loaders:
    how: Any = {"batch": settings.batch, "crop": settings.crop, "threads": 1}
    augmented: Any = {"scale": SCALE, "augment": [MixUp(ALPHA)], "colour_std": 0.0}
    train, val = shard_set.split("train"), shard_set.split("val")
    training = Loader.training(train, num_epochs=settings.epochs, seed=seed, **augmented, **how)
    return training, Loader.evaluation(val, resize=settings.resize, **how)


def torchvision(shard_set: ShardSet, seed: int, settings: Settings) -> Loaders:
    """It draws the order from the seed, all else from torch's global generator."""
    v2 = loaded("torchvision.transforms.v2")
    crop, batch = settings.crop, settings.batch
    pixels = [v2.ToImage(), v2.ToDtype(torch.float32), v2.Normalize(shard_set.manifest.pixels.mean, [1.0] * 3)]
    augmented = v2.Compose([v2.RandomResizedCrop(crop, SCALE), v2.RandomHorizontalFlip(), *pixels])
    central = v2.Compose([v2.Resize(settings.resize), v2.CenterCrop(crop), *pixels])
    mixup = v2.MixUp(alpha=ALPHA, num_classes=len(shard_set.classes))
    train, val = MapDataset(shard_set.split("train"), augmented), MapDataset(shard_set.split("val"), central)
    order = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(len(train), generator=order) for _ in range(settings.epochs)]
    steps = [step.tolist() for epoch in epochs for step in epoch.split(batch)]
    training = DataLoader(train, batch_sampler=steps, collate_fn=lambda items: mixup(*default_collate(items)))
    return training, DataLoader(val, batch)


SIDES: dict[str, Callable[[ShardSet, int, Settings], Loaders]] = {"ours": ours, "torchvision": torchvision}


def train(shards: Path, side: str, seed: int, settings: Settings, runs: Path) -> None:
    """Trains and evaluates, and adds a line to `runs`."""
    torch.set_num_threads(1)
    timm, fit = loaded("timm"), loaded("tools.examples.resnet18").fit
    shard_set = ShardSet(shards)
    torch.manual_seed(seed)
    net = timm.create_model("resnet18", num_classes=len(shard_set.classes))
    loaders = SIDES[side](shard_set, seed, settings)
    started = perf_counter()
    epochs = [(round(loss, 4), round(top1, 3)) for loss, top1 in fit(net, *loaders, settings.epochs, settings.lr)]
    losses, top1 = zip(*epochs, strict=True)
    run = {"side": side, "seed": seed, "loss": losses, "top1": top1, "seconds": round(perf_counter() - started, 1)}
    with runs.open("a") as file:
        file.write(json.dumps(run) + "\n")
    print(f"seed {seed}, {side:11s}  top-1 {top1[-1]:.2f} %  {run['seconds']:,.0f} s", flush=True)


def compared(accuracies: dict[str, list[float]]) -> dict[str, Any]:
    """The mean of ours less that of torchvision's, a value a seed each, with Student's 95 % interval of the seeds'
    differences and Welch's of the two means; the difference counts where one of them leaves out 0."""
    a, b = accuracies["ours"], accuracies["torchvision"]
    intervals = {
        "paired": [float(end) for end in ttest_rel(a, b).confidence_interval()],
        "welch": [float(end) for end in ttest_ind(a, b, equal_var=False).confidence_interval()],
    }
    differs = any(low > 0 or high < 0 for low, high in intervals.values())
    verdict = "differs" if differs else "no difference beyond the seeds' spread"
    return {"difference": mean(a) - mean(b), **intervals, "verdict": verdict}


def finished(runs: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Its lines by side and seed."""
    lines = map(json.loads, runs.read_text().splitlines() if runs.exists() else ())
    return {(run["side"], run["seed"]): run for run in lines}


def same_settings(out: Path, about: dict[str, Any]) -> None:
    """Keeps them in the record. Raises UsageError where it has trainings with other ones."""
    path = out / "settings.json"
    if path.exists() and (there := json.loads(path.read_text())) != about:
        raise click.UsageError(f"{out} has trainings with {there}, not {about}. Name another folder.")
    write_json(path, about)


@click.command()
@click.argument("shards", type=click.Path(path_type=Path))
@click.option("--seeds", type=click.IntRange(2), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--crop", default=64, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--lr", default=0.05, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the record.")
def main(shards: Path, seeds: int, epochs: int, crop: int, batch: int, lr: float, out: Path) -> None:
    settings, manifest = Settings(epochs, crop, batch, lr), ShardSet(shards).manifest
    about = {"shards": shards.name, "size": manifest.size, "plan": manifest.plan, **asdict(settings)}
    out.mkdir(parents=True, exist_ok=True)
    same_settings(out, about)
    runs = out / "runs.jsonl"
    missing = [(side, seed) for seed in range(seeds) for side in SIDES if (side, seed) not in finished(runs)]
    with ProcessPoolExecutor(len(SIDES), get_context("spawn"), max_tasks_per_child=1) as pool:
        for job in [pool.submit(train, shards, side, seed, settings, runs) for side, seed in missing]:
            job.result()
    done = finished(runs)
    accuracies = {side: [done[side, seed]["top1"][-1] for seed in range(seeds)] for side in SIDES}
    result = compared(accuracies)
    write_json(out / "numbers.json", {**about, "top1": accuracies, **result, **environment()})
    for side, values in accuracies.items():
        print(f"{side:11s}  {mean(values):.2f} %  [{', '.join(f'{value:.2f}' for value in values)}]")
    print(f"ours less torchvision's: {result['difference']:+.2f}")
    for name in ("paired", "welch"):
        print(f"95 %, {name}: {result[name][0]:+.2f} to {result[name][1]:+.2f}")
    print(result["verdict"])


if __name__ == "__main__":
    main()
