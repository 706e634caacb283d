"""Checkpoints -> networks on one device, in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.devices import check_gpus, choose_gpus
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.sharding.keys import class_id
from alexnet_fast.sharding.rule import DEFAULT, Rule
from alexnet_fast.shards.format import Pixels
from alexnet_fast.shards.reader import located
from alexnet_fast.training import checkpoint


@dataclass(frozen=True)
class Network:
    """`classes`: {"id", "name"} by class index. `pixels`: whose mean is subtracted from its input."""

    path: Path
    model: AlexNet
    config: TrainConfig
    classes: list[dict[str, str]]
    pixels: Pixels
    stored: int
    """Side that images are resized to before the crop, pixels."""
    rule: Rule = DEFAULT
    """By which the images it was trained on were made of their files."""
    epochs: int = 0
    """That it was trained; 0 where it was imported."""

    @property
    def crop(self) -> int:
        """Side of the input, pixels."""
        return self.config.crop

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def names(self) -> list[str]:
        """Of the classes; the id where there is no name."""
        return [entry["name"] or entry["id"] for entry in self.classes]


def open_network(path: Path, gpus: int | None = 0) -> Network:
    """A checkpoint, or a run folder's best. `gpus`: 0, the CPU; 1, the first GPU; None: a GPU where there is one.

    Raises InputError when there is no checkpoint or no such GPU.
    """
    state = checkpoint.load(checkpoint.find(path))
    gpus = choose_gpus(gpus, most=1)
    check_gpus(gpus)
    model = checkpoint.build_model(state).on(torch.device("cuda", 0) if gpus else torch.device("cpu"))
    config = TrainConfig(**state["config"])
    config = replace(config, shards=located(config.shards, state.get("shards_path")))
    # Older checkpoints have no `size`: training takes 7/8 of the stored side.
    stored = state.get("size") or -(-config.crop * 8 // 7)
    rule = Rule(**state.get("rule", {}))  # checkpoints of before it was kept have the default
    return Network(
        path, model, config, state["classes"], Pixels(**state["pixels"]), stored, rule, state.get("epoch", 0)
    )


def open_networks(paths: list[Path], gpus: int | None = 0) -> list[Network]:
    """Networks whose predictions can be averaged. Raises InputError when their classes differ."""
    networks = [open_network(path, gpus) for path in paths]
    for network in networks[1:]:
        check_classes(network, networks[0].classes, str(networks[0].path))
    return networks


def check_classes(network: Network, classes: list[dict[str, str]], where: str) -> None:
    """Raises InputError unless the network's class ids are these, in this order."""
    if _ids(network.classes) != _ids(classes):
        raise _other_classes(network, where)


def scores_of(network: Network, classes: list[dict[str, str]], where: str) -> nn.Module:
    """Returns the network's model, whose outputs are those of `classes` alone, in their order: its softmax goes over
    these. Raises InputError when the id of one is not among those of the network."""
    own, wanted = _ids(network.classes), _ids(classes)
    if own == wanted:
        return network.model
    if not set(wanted) <= set(own):
        raise _other_classes(network, where)
    return _SomeOutputs(network.model, torch.tensor([own.index(name) for name in wanted], device=network.device))


class _SomeOutputs(nn.Module):
    """`model`, of whose outputs (n, classes) it returns the columns `chosen`."""

    def __init__(self, model: nn.Module, chosen: Tensor) -> None:
        super().__init__()
        self._model, self._chosen = model, chosen

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self._model(x)
        return scores[:, self._chosen]


def _ids(classes: list[dict[str, str]]) -> list[str]:
    return [class_id(entry["id"]) for entry in classes]


def _other_classes(network: Network, where: str) -> InputError:
    return InputError(f"{network.path} was trained on other classes than those of {where}.")
