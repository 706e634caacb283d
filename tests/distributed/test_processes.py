"""How a process joins and leaves the others, without any: torch.distributed is replaced."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from alexnet_fast.distributed import topology
from alexnet_fast.errors import InputError, LostProcessError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments with which the group was begun, and whether it was ended."""
    made: dict[str, Any] = {"ended": False}
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **about: made.update(backend=backend, **about))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: made.update(ended=True))
    return made


@pytest.mark.parametrize(("gpus", "backend"), [(2, "nccl"), (0, "gloo")])
def test_a_collective_may_take_longer_than_a_server_that_hangs(gpus: int, backend: str, calls: dict[str, Any]) -> None:
    assert topology._work(lambda topology: topology.rank, gpus, 1, 2, ()) == 1
    assert (calls["backend"], calls["ended"]) == (backend, True)
    assert calls["timeout"] > timedelta(minutes=10)


@pytest.mark.parametrize(
    ("gpus", "error", "ended"),
    [
        (2, InputError("wrong"), False),
        (2, KeyboardInterrupt(), False),
        (2, RuntimeError("CUDA error"), False),
        (2, dist.DistBackendError("NCCL error"), False),
        (0, InputError("wrong"), True),
        (0, LostProcessError("gone"), False),
        (0, RuntimeError("[gloo] Connection closed by peer"), False),
        (0, RuntimeError("another"), True),
    ],
)
def test_after_an_error_no_process_waits_for_the_others(
    gpus: int, error: BaseException, ended: bool, calls: dict[str, Any]
) -> None:
    """Ending the group waits for what was begun: with NCCL after any error, with gloo where another process is lost."""

    def work(topology: topology.Topology) -> None:
        raise error

    with pytest.raises(BaseException) as raised:  # noqa: PT011
        topology._work(work, gpus, 0, 2, ())
    assert calls["ended"] == ended
    of_peers = "gloo" in str(error) or isinstance(error, dist.DistError)
    assert (raised.value is error) != of_peers
    assert isinstance(raised.value, LostProcessError) == (of_peers or isinstance(error, LostProcessError))
