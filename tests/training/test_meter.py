"""The share of time without a batch in a log line, with the clocks of host and device in the test's hands."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alexnet_fast.distributed.topology import Topology
from alexnet_fast.training import metrics
from alexnet_fast.training.metrics import StepMeter


def test_waits_are_counted_once_the_device_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU they are known from the events that have come: the sums of a line wait for those."""
    clock = 0.0
    loader: Any = SimpleNamespace(wait_seconds=0.0, corrupt={})
    known_after_waiting = [1.0, 1.0, 4.0]
    monkeypatch.setattr(metrics, "perf_counter", lambda: clock)

    def wait_for_device(sums: torch.Tensor, topology: Topology) -> torch.Tensor:
        loader.wait_seconds = known_after_waiting.pop(0)
        return sums

    monkeypatch.setattr(metrics, "sum_over_processes", wait_for_device)
    meter = StepMeter(Topology(0, 1, torch.device("cpu")), loader, [0.0, 0.0, 0.0])
    clock = 100.0
    meter.start()
    lines = []
    for seconds in (10.0, 5.0, 5.0):
        meter.add(torch.tensor(30.0), torch.tensor(5), 10)
        clock += seconds
        lines.append(meter.read(stop=False)[0])
    assert [line["data_wait"] for line in lines] == [0.1, 0.0, 0.6]
    assert [line["images_per_second"] for line in lines] == [1.0, 2.0, 2.0]
    assert [(line["loss"], line["top1"]) for line in lines] == [(3.0, 50.0)] * 3
    assert meter.totals() == (1.5, 0.2, 20.0)
