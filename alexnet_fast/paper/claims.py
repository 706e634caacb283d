"""The networks of the paper, each as changes of its recipe, and its claims about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from alexnet_fast.config import REMOVABLE, TrainConfig
from alexnet_fast.console import draw_table
from alexnet_fast.errors import InputError
from alexnet_fast.paper.measures import BASE, Found, averaging, difference, error, gap, joining, slower, views
from alexnet_fast.paper.statistics import Estimate
from alexnet_fast.recipes import make_config

RECIPE = "paper"
PRETRAINED, TUNED, SIX = "sixconv-big", "sixconv-tuned", "sixconv"
TUNED_EPOCHS = 54 / 90
"""Notes of 146-2012-2011: 54 epochs of fine-tuning; the published net has 90."""
TUNED_CONV1_FREEZE = 7 / 54
"""The same notes: conv1 frozen by epoch 7."""


@dataclass(frozen=True)
class Variant:
    """A network: `settings` change the recipe. `big`: trained on the second shard set. `start`: the network whose
    weights of the same seed it starts from, at a tenth of the learning rate, with a new last layer."""

    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    big: bool = False
    start: str = ""


NETWORKS = {
    BASE: Variant("the published net"),
    "no-dropout": Variant("no dropout", {"dropout": 0.0}),
    "no-crops": Variant("no random crops and mirror images", {"crops": "central"}),
    **{f"no-{name}": Variant(f"{name} left out", {"without": name}) for name in REMOVABLE if name.startswith("conv")},
    "no-fc7": Variant("fc6 or fc7 left out, which is the same network", {"without": "fc7"}),
    "half": Variant("one GPU's half net", {"arch": "half"}),
    "no-lrn": Variant("no local response normalisation", {"lrn": "none"}),
    "no-overlap": Variant("pools of 2x2", {"pool": 2}),
    "no-colour": Variant("no PCA colour", {"colour_std": 0.0}),
    "tanh": Variant("tanh in place of ReLU, which starts from narrower weights, no biases", {"activation": "tanh"}),
    SIX: Variant("six convolutions", {"arch": "sixconv"}),
    PRETRAINED: Variant(
        "six convolutions, on the big release, behind a linear bottleneck", {"arch": "sixconv"}, big=True
    ),
    TUNED: Variant(
        "six convolutions, pre-trained on the big release, fine-tuned at lr / 10 for 0.6 of the epochs",
        {"arch": "sixconv"},
        start=PRETRAINED,
    ),
}


@dataclass(frozen=True)
class Claim:
    """`paper`: its number, top-1 / top-5 in points of per cent. `networks`: those that it compares, and how many seeds
    of each it needs. `measure`: one of measures.py. `needs`: which shard sets; `by_name`: as --shards itself, so it is
    tried only when it is named. `decides`: False of a plain number, which belongs to its data."""

    name: str
    text: str
    paper: str
    networks: dict[str, int]
    measure: Callable[[Found], list[Estimate]]
    needs: str = ""
    decides: bool = True
    by_name: bool = False


def _better(name: str, text: str, paper: str, than: str = "", network: str = BASE, needs: str = "") -> Claim:
    """That the error of `network` is lower than that of another, which without `than` is the one called `name`."""
    than = than or name
    networks = {each: 1 for each in NETWORKS if each in (than, network)}
    measure = partial(difference, worse=than, better=network)
    return Claim(name, f"{text} the error", paper, networks, measure, needs)


def _narrows(network: str, text: str) -> Claim:
    """That the gap to the training images is narrower than without what `network` lacks."""
    paper, measure = '"substantial overfitting" without', partial(gap, network=network)
    return Claim(network, f"{text} the gap", paper, {BASE: 1, network: 1}, measure)


def _number(name: str, text: str, paper: str, networks: dict[str, int], needs: str = "", own: str = "") -> Claim:
    """The error of one network, or of the average of several. `own`: the only shard set that it is about."""
    needs = f"as --shards: {own}" if own else needs
    measure = partial(error, members=networks)
    return Claim(name, f"error of {text}", paper, networks, measure, needs, decides=False, by_name=bool(own))


FIVE = {BASE: 5}
SEVEN = {BASE: 5, TUNED: 2}
BIG = "--big: Fall 2011"
CLAIMS = [
    _number("one-cnn", "one CNN", "40.7 / 18.2 (2012)", {BASE: 1}),
    Claim("views", "10 views lower the error", "1.5 / 1.3 (2010)", {BASE: 1}, views),
    _narrows("no-dropout", "dropout narrows"),
    _narrows("no-crops", "crops and flips narrow"),
    _number("five-cnns", "five CNNs", "38.1 / 16.4 (2012; test images - / 16.4)", FIVE),
    Claim("averaging", "averaging five lowers the error", "2.6 / 1.8 (2012)", FIVE, partial(averaging, members=FIVE)),
    *[
        _better(f"no-{layer.split()[-1]}", f"{layer} lowers", "about 2 (top-1; any of the middle layers)")
        for layer in ("conv4", "conv3", "conv5", "conv2", "fc6 or fc7")
    ],
    _better("half", "two towers, not the half net, lower", "1.7 / 1.2 (2010)"),
    _better("no-lrn", "LRN lowers", "1.4 / 1.2 (2012)"),
    _better("no-overlap", "overlapping pools lower", "0.4 / 0.3 (2012)"),
    _better("no-colour", "PCA colour lowers", "more than 1 (top-1)"),
    Claim(
        "tanh",
        "ReLU needs fewer epochs than tanh",
        "6 times fewer to 25 % training error (CIFAR-10)",
        {BASE: 1, "tanh": 1},
        partial(slower, network="tanh"),
    ),
    _better("sixconv", "a sixth convolution lowers", "not stated", than=BASE, network=SIX),
    _number("tuned", "one CNN, pre-trained", "39.0 / 16.6 (2012)", {TUNED: 1}, BIG),
    _better("pretraining", "pre-training and a sixth convolution lower", "1.7 / 1.6 (2012)", BASE, TUNED, BIG),
    _better("pretraining-alone", "pre-training lowers", "not stated", SIX, TUNED, BIG),
    _number("seven-cnns", "seven CNNs, two pre-trained", "36.7 / 15.4 (2012; test images - / 15.3)", SEVEN, BIG),
    Claim(
        "joining",
        "two pre-trained ones lower the error of five",
        "1.4 / 1.0 (2012)",
        SEVEN,
        partial(joining, before=FIVE, after=SEVEN),
        BIG,
    ),
    _number(
        "ilsvrc-2010",
        "one CNN, ILSVRC-2010",
        "37.5 / 17.0 (test images; with 1 view 39.0 / 18.3)",
        {BASE: 1},
        own="ILSVRC-2010, with --split test",
    ),
    _number(
        "fall-2009", "six convolutions, Fall 2009", "67.4 / 40.9", {SIX: 1}, own="Fall 2009, made with --split half"
    ),
]
"""In order of importance: a short budget leaves out the last ones first."""


def choose(only: Sequence[str]) -> list[Claim]:
    """The claims of these names; with none all but those that need a --shards of their own. Raises InputError for other
    names."""
    names = [claim.name for claim in CLAIMS]
    if wrong := [name for name in only if name not in names]:
        raise InputError(f"--only {wrong[0]}: expected some of {','.join(names)}.")
    return [claim for claim in CLAIMS if claim.name in only or not (only or claim.by_name)]


def configure(
    network: str, seed: int, shards: str, big: str | None, given: dict[str, Any], start: str = ""
) -> TrainConfig:
    """The recipe with `given` settings, then the network's own. `start`: the checkpoint of its predecessor."""
    recipe, this = make_config(RECIPE, **given), NETWORKS[network]
    config = replace(recipe, shards=shards, seed=seed, **this.settings)
    if this.big:
        config = replace(config, shards=big or "", bottleneck=recipe.hidden // 2)  # 146-2011: 2 x 1024 after 4096
    if this.start:
        config = replace(
            config,
            init=start,
            lr=recipe.lr / 10,  # 146-2012-2011: .001 of .01, conv1 at a tenth of it until it is frozen
            epochs=max(round(recipe.epochs * TUNED_EPOCHS), 1),
            conv1_slow=0.0,
            conv1_freeze=TUNED_CONV1_FREEZE,
        )
    return config


def plan(claims: Sequence[Claim], seeds: int) -> list[tuple[str, int]]:
    """The runs, a network and a seed each: what each claim needs, in their order; then the second seed of all networks,
    the third, ... Before a network comes the one that it starts from."""
    needed = [
        (name, seed)
        for claim in claims
        for network, count in claim.networks.items()
        for seed in range(count)
        for name in (NETWORKS[network].start, network)
        if name
    ]
    more = [(name, seed) for seed in range(seeds) for name, _ in needed]
    return list(dict.fromkeys(needed + more))


def as_json() -> dict[str, Any]:
    """Returns what `as_list` shows."""
    return {
        "claims": [
            {name: getattr(claim, name) for name in ("name", "text", "paper", "networks", "needs")} for claim in CLAIMS
        ],
        "networks": {
            name: {"what": network.what, "settings": network.settings, "big": network.big, "start": network.start}
            for name, network in NETWORKS.items()
        },
    }


def as_list(width: int) -> str:
    """Every claim with the paper's number and what it needs, and the networks."""
    claims, networks = [], []
    for claim in CLAIMS:
        needed = ", ".join(f"{name} x{count}" if count > 1 else name for name, count in claim.networks.items())
        claims.append([claim.name, claim.text, claim.paper, needed, claim.needs])
    for name, network in NETWORKS.items():
        changes = [f"{setting}={str(value).lower()}" for setting, value in network.settings.items()]
        changes += ["bottleneck, half of hidden wide"] * network.big
        changes += [f"init={network.start}, lr / 10, conv1 slowed and frozen"] * bool(network.start)
        networks.append([name, network.what, ", ".join(changes)])
    heads = ["--only", "claim", "paper", "networks x seeds", "shard sets"]
    table = draw_table(["network", "what", f"changes of the recipe {RECIPE}"], networks, width)
    return draw_table(heads, claims, width) + "\n\n" + table
