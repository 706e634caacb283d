"""Processes, devices and reductions. Imports torch.distributed, as model/collectives.py does; no other file does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from socket import socket
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from alexnet_fast import signals
from alexnet_fast.config import TrainConfig
from alexnet_fast.distributed.devices import check_gpus, started_by_torchrun
from alexnet_fast.errors import InputError, LostProcessError, TrainingError

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)
"""Of a collective, for which NCCL would wait for 10 minutes: as long as one process may wait for a server that hangs
(shards/fetch.py) while the others wait for it. Lost processes are found by heartbeat.py."""


@dataclass(frozen=True)
class Topology:
    """This process among `world_size`: `rank` 0 prints and writes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def run(worker: Callable[..., Any], gpus: int, *args: Any) -> Any:
    """Calls `worker(topology, *args)` in one process a GPU (one in all for the CPU); returns the first one's result.
    Under torchrun this process is already one of them. Otherwise several are started here, and Ctrl-C reaches each."""
    check_gpus(gpus)
    if started_by_torchrun():
        return _work(worker, gpus, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), args)
    if gpus < 2:
        return worker(Topology(0, 1, _device(gpus, 0)), *args)
    return run_spawned(worker, gpus, gpus, *args)


def run_spawned(worker: Callable[..., Any], gpus: int, processes: int, *args: Any) -> Any:
    """As `run`, in so many new processes: one a GPU; with `gpus` 0 on the CPU."""
    import torch.multiprocessing as mp

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    try:
        with signals.passed_on():
            mp.start_processes(
                _spawned, (worker, gpus, processes, args, results), nprocs=processes, start_method="spawn"
            )
    except mp.ProcessExitedException as error:
        if results.empty():
            raise TrainingError(f"{error}; its message is above. A kill may be the system's, out of memory.") from error
    if results.empty():  # stopped before training began, which the first one has printed
        sys.exit(0)
    result = results.get()
    if isinstance(result, BaseException):
        raise result
    return result


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawned(
    rank: int, worker: Callable[..., Any], gpus: int, processes: int, args: tuple[Any, ...], results: Any
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        with signals.start_up():
            result = _work(worker, gpus, rank, processes, args)
    except (InputError, TrainingError, OSError, KeyboardInterrupt) as error:
        results.put(error)
        sys.exit(1)  # the others may wait for this process: the parent ends them
    if rank == 0:
        results.put(result)


def _work(worker: Callable[..., Any], gpus: int, rank: int, world_size: int, args: tuple[Any, ...]) -> Any:
    device = _device(gpus, int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    dist.init_process_group(backend, rank=rank, world_size=world_size, device_id=device_id, timeout=TIMEOUT)
    all_take_part = True
    try:
        return worker(Topology(rank, world_size, device), *args)
    except BaseException as error:
        is_of_others = isinstance(error, RuntimeError) and is_of_peers(error)
        all_take_part = backend == "gloo" and not is_of_others and not isinstance(error, LostProcessError)
        if is_of_others:
            reason = str(error).splitlines()[0]
            raise LostProcessError(f"another process, or its machine, has ended: {reason}") from error
        raise
    finally:
        if all_take_part:  # else it may wait for work that another process takes no part in; NCCL for all it has begun
            dist.destroy_process_group()


def average_gradients(model: nn.Module, topology: Topology, config: TrainConfig) -> nn.Module:
    """The model whose gradients are averaged over all processes while they are computed; on GPUs that train in bf16,
    they travel in it. Batch norm's running statistics stay each process' own: training does not read them, and
    `share_buffers` comes before what does."""
    if topology.world_size == 1:
        return model
    wrapped = nn.parallel.DistributedDataParallel(
        model,
        device_ids=[topology.device.index] if topology.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        static_graph=config.accumulate == 1,  # DDP documents it with a backward pass a step
    )
    wrapped.broadcast_buffers = False  # the argument warns in torch 2.13, its successor is not in 2.11
    wrapped._set_ddp_runtime_logging_sample_rate(2**31 - 1)  # its timing waits for the GPU every 100th step
    if topology.device.type == "cuda" and config.precision == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, `average_gradients`' model adds to this process' gradients; a later pass averages."""
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def from_first(call: Callable[[], T], topology: Topology) -> T:
    """What `call` returns in the first process, in all of them; its InputError or OSError is raised in all."""
    answer: list[Any] = [None, None]
    if topology.first:
        try:
            answer[0] = call()
        except (InputError, OSError) as error:
            answer[1] = error
    if topology.world_size > 1:
        dist.broadcast_object_list(answer, 0)
    if answer[1] is not None:
        raise answer[1]
    result: T = answer[0]
    return result


def sum_over_processes(values: Tensor, topology: Topology) -> Tensor:
    if topology.world_size > 1:
        dist.all_reduce(values)
    return values


def merged(mine: dict[int, str], topology: Topology) -> dict[int, str]:
    """The entries of all processes."""
    each = [mine] * topology.world_size
    if topology.world_size > 1:
        dist.all_gather_object(each, mine)
    return {key: value for one in each for key, value in one.items()}


def any_stopped(stopped: bool, topology: Topology) -> bool:
    """Whether any process was stopped; on GPUs False, since asking the others would wait: log steps do it."""
    if topology.world_size == 1:
        return stopped
    if topology.device.type == "cuda":
        return False
    return bool(sum_over_processes(torch.tensor([float(stopped)]), topology).item())


def store_for_a_thread() -> dist.Store:
    """The store that all processes share, by a connection of its own."""
    store: dist.Store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
    return store


def is_of_peers(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does when another process is gone: gloo's errors are known by their text."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def share_buffers(model: nn.Module, topology: Topology) -> None:
    """Gives every process the first one's batch-norm statistics, so that all evaluate the same network."""
    if topology.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def barrier(topology: Topology) -> None:
    if topology.world_size > 1:
        dist.barrier()


def _device(gpus: int, local_rank: int) -> torch.device:
    return torch.device("cuda", local_rank) if gpus else torch.device("cpu")
