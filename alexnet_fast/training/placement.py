"""Which part of the network and of each batch every process has: `--parallel`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.topology import Topology, average_gradients
from alexnet_fast.errors import InputError
from alexnet_fast.model.alexnet import AlexNet
from alexnet_fast.model.collectives import Peers
from alexnet_fast.model.parallel import HybridNet, synchronise_batch_norm, tower
from alexnet_fast.training.optim import make_optimizer


@dataclass(frozen=True)
class Placement:
    """What one process has, and the way back to the whole network."""

    model: AlexNet
    """What it trains: the parameters of `optimizer`."""
    optimizer: torch.optim.Optimizer
    wrapped: nn.Module
    """What a step calls: images in, logits out."""
    data: Topology
    """Its share of each batch: of towers the whole, which both processes see."""
    counts: bool
    """Whether its images count in the log: of towers only the first process' do."""
    dropout_rank: int
    """Which of the ranks' dropout it draws: where the network is split, all draw one process' masks."""
    whole: Callable[[], tuple[AlexNet, torch.optim.Optimizer]]
    """The network that this process' is a part of, and its optimizer, filled from all processes, which must all call
    it together. Both stay as they are until the next call."""


def check_processes(config: TrainConfig, world_size: int) -> None:
    """Raises InputError where the network cannot be shared by that many processes."""
    if config.parallel == "towers" and world_size != 2:
        there = f"there {'is' if world_size == 1 else 'are'} {world_size}"
        raise InputError(
            f"parallel towers needs exactly 2 processes, one a tower; {there}. "
            "Use --gpus 2 (on a CPU, torchrun --nproc-per-node 2), or --parallel data."
        )
    if config.parallel == "hybrid" and config.hidden < world_size:
        raise InputError(
            f"parallel hybrid splits {config.hidden} hidden units over {world_size} processes. "
            f"Use at most {config.hidden} processes, or --parallel data."
        )


def place(model: AlexNet, optimizer: torch.optim.Optimizer, topology: Topology, config: TrainConfig) -> Placement:
    """Returns this process' part of `model` and of its optimizer's state; every process calls it with the same ones.
    `config`: from `settings.resolve`. Raises InputError as `check_processes` does."""
    check_processes(config, topology.world_size)
    if config.sync_bn and topology.world_size > 1:
        synchronise_batch_norm(model.features)
    if config.parallel == "data" or topology.world_size == 1:
        wrapped = average_gradients(model, topology, config)
        return Placement(model, optimizer, wrapped, topology, True, topology.rank, lambda: (model, optimizer))
    peers = Peers.of_default_group()
    if config.parallel == "towers":
        part: AlexNet = tower(model, peers)
        data, counts = replace(topology, rank=0, world_size=1), topology.first
    else:
        part = HybridNet(model, average_gradients(model.features, topology, config), peers)
        data, counts = topology, True
    part.on(topology.device)
    own = make_optimizer(part, config)
    for whole_parameter, parameter in _pairs(model, part):
        _copy_state(optimizer, whole_parameter, own, parameter, lambda x: x[peers.own(len(x))].clone())

    def gather(like: Tensor, x: Tensor) -> Tensor:
        return torch.empty_like(like).copy_(peers.gather(x.detach(), 0, peers.parts(len(like))))  # in its memory order

    def whole() -> tuple[AlexNet, torch.optim.Optimizer]:
        for whole_parameter, parameter in _pairs(model, part):
            if parameter is not whole_parameter:
                whole_parameter.data = gather(whole_parameter, parameter)
            _copy_state(own, parameter, optimizer, whole_parameter, partial(gather, whole_parameter))
        return model, optimizer

    return Placement(part, own, part, data, counts, 0, whole)


def _pairs(whole: nn.Module, part: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    """Yields each parameter of the whole network and this process' part of it: the same one where it is not split."""
    return zip(whole.parameters(), part.parameters(), strict=True)


def _copy_state(
    source: torch.optim.Optimizer,
    parameter: Tensor,
    target: torch.optim.Optimizer,
    counterpart: Tensor,
    converted: Callable[[Tensor], Tensor],
) -> None:
    """Copies what `source` keeps for a parameter; tensors of its shape (momentum) are `converted` if it is split."""
    if parameter in source.state:
        target.state[counterpart] = {
            key: converted(value)
            if parameter is not counterpart and isinstance(value, Tensor) and value.shape == parameter.shape
            else value
            for key, value in source.state[parameter].items()
        }
