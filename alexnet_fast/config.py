"""Every setting of a training run, once: its name, default, unit and meaning. Recipes of them: recipes.py."""

from __future__ import annotations

import ast
import inspect
import math
import re
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from alexnet_fast.errors import InputError

CHOICES: dict[str, tuple[Any, ...]] = {
    "arch": ("paper", "half", "sixconv", "caffe", "onetower", "bn"),
    "lrn": ("towers", "all", "none"),
    "pool": (2, 3),
    "activation": ("relu", "tanh"),
    "init_layers": ("all", "conv"),
    "optimizer": ("sgd", "lars", "muon"),
    "schedule": ("plateau", "steps", "cosine", "poly"),
    "crops": ("random", "resized", "central"),
    "order": ("random", "window"),
    "precision": ("auto", "bf16", "fp16", "fp32"),
    "parallel": ("data", "towers", "hybrid"),
}
RESUMABLE = (
    *("shards", "threads", "cache", "cache_bytes", "parallel", "accumulate"),
    *("save_every", "keep", "log_every", "tensorboard", "layer_scales", "cuda_graphs"),
)
"""Settings that may differ when a run is resumed: they change no result (`accumulate` dropout's masks and batch
norm's statistics, which are each part's own)."""
MAY_DIFFER = ("epochs", *RESUMABLE)
"""Settings that may be given when a run is resumed; `epochs` as far as training/settings.py allows it."""
EPOCH_SHARES = ("colour_off", "conv1_slow", "conv1_freeze")
"""Settings that are a share of the epochs, from which on something else happens."""
REMOVABLE = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
PAPER_NETS_ONLY = ("lrn", "within_map_norm", "pool", "activation", "without", "bottleneck")
LEAST_CROP = 64
"""Side of the smallest input that AlexNet takes, pixels."""


def default_crop(stored_side: int) -> int:
    """Returns the side of the network's input for stored images of that side: 7/8 of it, as 224 of 256; pixels."""
    return stored_side * 7 // 8


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. The defaults are the original's values; recipes.py names the source of each. Raises
    InputError for values that cannot be, alone or together."""

    recipe: str = "paper"
    """Where the other values came from."""
    shards: str = "shards/imagenet"
    """Folder of the shard set, or its URL."""
    arch: str = "paper"
    """paper, half, sixconv, caffe, onetower or bn: see model/alexnet.py."""
    lrn: str = "towers"
    """Local response normalisation: over the maps of each tower, over all, or none. Of the paper's nets."""
    within_map_norm: bool = False
    """The original's further normalisation after layer 2, over each map's 5x5 neighbours. Of the paper's nets."""
    pool: int = 3
    """Side of the pooling windows, which lie 2 apart: 3 overlaps, 2 does not. Of the paper's nets."""
    activation: str = "relu"
    """relu or tanh. Of the paper's nets."""
    without: str = ""
    """Layers left out, of conv2 to conv5, fc6, fc7, separated by spaces. Of the paper's nets."""
    bottleneck: int = 0
    """Linear units before the last layer, for many classes; 0: none. Of the paper's nets."""
    init: str = ""
    """A checkpoint that the weights start from: of all layers whose name and shape are the same."""
    init_layers: str = "all"
    """What is taken from it: all, or conv."""
    epochs: int = 90
    """Passes over the training images."""
    batch: int = 128
    """Images a step, over all processes."""
    accumulate: int = 1
    """Parts that each process computes its images of a step in, one after another: less memory, the same step."""
    optimizer: str = "sgd"
    """sgd; lars: the rate of each layer's weights follows from their norm and their gradient's; muon, of bn: sgd, but
    the updates of convolutions are made orthogonal."""
    trust: float = 0.001
    """Of lars: a step's share of the weights' norm at a learning rate of 1."""
    muon_rate: float = 0.12
    """Of muon: the peak learning rate of convolutions, for this batch: the share of the weights that a step changes."""
    lr: float = 0.01
    """Peak learning rate of the weights, for this batch."""
    bias_lr_factor: float = 2.0
    """Learning rate of the biases divided by that of the weights."""
    momentum: float = 0.9
    """Share of the last update that is added to the next, 0 or more."""
    nesterov: bool = False
    """Of sgd and muon: Nesterov's momentum, as torch has it."""
    weight_decay: float = 5e-4
    """On weights; never on biases, batch norm or the convolutions that Muon trains."""
    schedule: str = "steps"
    """plateau: divided by 10, three times at most, when the validation top-1 stalls; steps: divided by 250 in all
    over four equal phases (cuda-convnet2); cosine: to 0; poly: to 0 as a parabola."""
    patience: int = 5
    """Of plateau: epochs without a better validation top-1 that count as a stall."""
    conv1_slow: float = 1.0
    """Share of the epochs after which conv1 learns at a tenth of the rate, 0 to 1."""
    conv1_freeze: float = 1.0
    """Share of the epochs after which conv1 does not learn at all, 0 to 1."""
    warmup_epochs: float = 0.0
    """The learning rate rises linearly from 0 over these."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, 0 to 1."""
    dropout: float = 0.5
    """Share of the units of fc6 and fc7 that a step leaves out, at least 0 and below 1."""
    dropout_from: float = 0.0
    """Epochs at the beginning without dropout. Not of the paper's nets."""
    hidden: int = 4096
    """Units of fc6 and fc7."""
    crop: int = 0
    """Side of the network's input, pixels; 0: 7/8 of the stored side, as 224 of 256."""
    grow_from: float = 1.0
    """Side of the network's input in the first epoch, divided by `crop`; it grows in steps of 16 pixels."""
    grow_until: float = 0.7
    """Share of the epochs after which the side is `crop`, 0 to 1."""
    crops: str = "random"
    """random: crops of the input's size, and mirror images; resized: parts of other sizes, by scale and ratio, resized
    to it, and mirror images; central: neither. true and false, as in earlier versions: random and central."""
    scale: str = "0.08,1"
    """Of crops resized: the least and the largest share of an image's area."""
    ratio: str = "3/4,4/3"
    """Of crops resized: the least and the largest width divided by height."""
    brightness: float = 0.0
    """Pixels are multiplied by 1 minus this to 1 plus this."""
    contrast: float = 0.0
    """The same for their distance from the image's mean grey."""
    saturation: float = 0.0
    """The same for their distance from their own grey."""
    erasing: float = 0.0
    """Share of the images in which a box is filled with the mean colour."""
    mixup: float = 0.0
    """Pairs of images are blended, with weights of Beta(mixup, mixup); 0: not."""
    cutmix: float = 0.0
    """Pairs of images exchange a box, of an area of Beta(cutmix, cutmix); 0: not. With mixup each has half of them."""
    colour_std: float = 0.1
    """Standard deviation of the PCA colour jitter, in standard deviations of the pixels along each component."""
    colour_off: float = 1.0
    """Share of the epochs after which there is no colour jitter, 0 to 1."""
    order: str = "random"
    """random: a global shuffle; window: of few tars at a time, for disks that want sequential reads."""
    window: int = 16
    """Tars open at a time in the order window."""
    precision: str = "auto"
    """auto: bf16 where the hardware has it, else fp16 on a GPU, else fp32. Or bf16, fp16, fp32."""
    compile: bool = False
    """torch.compile the network. Slower on the CPUs it was measured on."""
    cuda_graphs: bool = True
    """On one GPU, replay small steps as CUDA graphs where the first ones are faster so: see training/replay.py."""
    parallel: str = "data"
    """What several processes share: data, the batch; towers, the paper's net; hybrid, the batch in the convolutions
    and the net in the linear layers. See model/parallel.py."""
    sync_bn: bool = False
    """Of bn: batch norm takes its statistics over the images of all processes, not over each process' own."""
    seed: int = 0
    """Of all random numbers: initial weights, order, crops, colour, dropout."""
    threads: int = 0
    """Threads a process that decode images; 0: the cores divided by the processes."""
    cache: str = ""
    """Folder that keeps the tars of a URL; empty: the user's cache folder."""
    cache_bytes: int = 0
    """Most bytes of tars in it; 0: no limit."""
    log_every: int = 20
    """Steps between two lines of the log."""
    save_every: int = 0
    """Steps between two checkpoints inside an epoch; 0: only at its end."""
    keep: int = 1
    """Earlier checkpoints kept beside last.pt; each takes as much disk, 490 MB for the paper's net."""
    tensorboard: bool = False
    """Also log for TensorBoard, in the run's folder tensorboard."""
    layer_scales: bool = False
    """Also log each layer's norms of gradient and weights, and the size of its update relative to them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "crops", crops_of(self.crops))
        for name, choices in CHOICES.items():
            self._check(name, getattr(self, name) in choices, _any_of(choices))
        for layer in self.without.split():
            if layer not in REMOVABLE:
                raise InputError(f"without is {layer}; it must be {_any_of(REMOVABLE)}.")
        if self.arch in ("caffe", "onetower", "bn"):
            for name in PAPER_NETS_ONLY:
                default = type(self).__dataclass_fields__[name].default
                self._check(name, getattr(self, name) == default, f"{default!r} with arch {self.arch}")
        if self.arch not in ("caffe", "onetower", "bn"):  # their weights are scaled by the share that dropout keeps
            self._check("dropout_from", self.dropout_from == 0, f"0 with arch {self.arch}")
        if self.nesterov:
            self._check("optimizer", self.optimizer != "lars", "sgd or muon with nesterov")
            self._check("momentum", self.momentum > 0, "above 0 with nesterov")
        if self.optimizer == "muon":  # other nets would compute something else with kernels of another norm
            self._check("arch", self.arch == "bn", "bn with optimizer muon, or optimizer sgd")
        if self.sync_bn:
            self._check("arch", self.arch == "bn", "bn with sync_bn")
            self._check("compile", not self.compile, "off with sync_bn")
        if self.parallel == "towers":
            self._check("arch", self.arch in ("paper", "sixconv"), "paper or sixconv with parallel towers")
            self._check("lrn", self.lrn != "all", "towers or none with parallel towers")
        if self.parallel != "data":
            self._check("optimizer", self.optimizer == "sgd", f"sgd with parallel {self.parallel}")
            self._check("compile", not self.compile, f"off with parallel {self.parallel}")
            # with fp16 each process would scale its own part of the gradients by itself
            self._check("precision", self.precision != "fp16", f"bf16 or fp32 with parallel {self.parallel}")
        for name in ("epochs", "batch", "accumulate", "patience", "log_every", "hidden", "window"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name, most in (("scale", 1.0), ("ratio", math.inf)):
            usual = type(self).__dataclass_fields__[name].default
            self._check(
                name, self.crops == "resized" or getattr(self, name) == usual, f"{usual} unless crops is resized"
            )
            low, high = span(getattr(self, name))
            self._check(name, 0 < low <= high <= most, f"two numbers above 0 such as {usual}, the least first")
        self._check("erasing", self.erasing <= 1, "from 0 to 1")
        for name in ("label_smoothing", "dropout"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._check("grow_from", 0 < self.grow_from <= 1, "above 0 and at most 1")
        for name in (*EPOCH_SHARES, "grow_until"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for field in fields(self):
            if not isinstance(field.default, str):
                self._check(field.name, getattr(self, field.name) >= 0, "0 or more")
        self._check("seed", self.seed < 2**32, "below 4294967296")

    def _check(self, name: str, is_right: bool, expected: str) -> None:
        if not is_right:
            raise InputError(f"{name} is {getattr(self, name)}; it must be {expected}.")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def meanings() -> dict[str, str]:
    """Returns what each setting means, by name: the text below it in TrainConfig, in one line."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(TrainConfig)).body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: inspect.cleandoc(ast.literal_eval(text.value)).replace("\n", " ")
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)
    }


def without_effect(config: TrainConfig) -> dict[str, str]:
    """Returns the settings that change nothing beside the others, each with the setting that it goes with."""
    goes_with = {
        "trust": ("optimizer=lars", config.optimizer == "lars"),
        "muon_rate": ("optimizer=muon", config.optimizer == "muon"),
        "patience": ("schedule=plateau", config.schedule == "plateau"),
        "grow_until": ("grow_from below 1", config.grow_from < 1),
        "dropout_from": ("dropout above 0", config.dropout > 0),
        "window": ("order=window", config.order == "window"),
        "init_layers": ("init=CHECKPOINT", bool(config.init)),
        "cache": ("a shard set at a URL", "://" in config.shards),
        "cache_bytes": ("a shard set at a URL", "://" in config.shards),
    }
    return {name: other for name, (other, is_there) in goes_with.items() if not is_there}


def crops_of(value: Any) -> Any:
    """Returns the setting `crops` by its name of now: true and false are of earlier versions."""
    return {"true": "random", "false": "central"}.get(str(value).lower(), value)


def span(text: str) -> tuple[float, float]:
    """Returns the two numbers of a setting such as `0.08,1` or `3/4,4/3`; two NaN where it is none."""
    number = r"(\d{1,9}(?:\.\d{1,9})?)(?:/(\d{1,9}))?"
    found = re.fullmatch(f"{number}, *{number}", str(text), re.ASCII)
    if found is None or not int(found[2] or 1) or not int(found[4] or 1):
        return math.nan, math.nan
    return float(found[1]) / float(found[2] or 1), float(found[3]) / float(found[4] or 1)


def _any_of(choices: tuple[object, ...]) -> str:
    return f"{', '.join(str(choice) for choice in choices[:-1])} or {choices[-1]}"


def config_from(values: Any, where: Path) -> TrainConfig:
    """The configuration that the file `where` holds. Raises InputError for what this version does not know."""
    if not isinstance(values, dict):
        raise InputError(f"{where} is corrupt: it holds no settings.")
    if unknown := values.keys() - {field.name for field in fields(TrainConfig)}:
        raise InputError(
            f"{where} has settings that this version of alexnet-fast does not know ({', '.join(sorted(unknown))}): "
            "it is of a newer one. Install that."
        )
    try:
        return TrainConfig(**values)
    except (InputError, TypeError) as error:
        raise InputError(f"{where} holds settings that cannot be right: {error}") from error
