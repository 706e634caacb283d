"""The share of time that the loader says the device waited, against a simulated device whose idle time is known."""

from collections import deque

import pytest

from alexnet_fast.loading.idle import HostMoment, IdleTime, Moment
from tests.cuda_stand_ins import Gpu, Stream

STEP, LAUNCHES, QUEUE, LAUNCH, LOG = 0.030, 190, 1024, 6e-6, 0.003
"""Seconds of a step on the device, its kernels, how many the driver queues before the host has to wait, seconds the
host takes for one, and for a log line."""
STEPS, LOG_EVERY = 400, 20


def simulated(decode: float, on_device: bool) -> tuple[float, float, float]:
    """Returns the true share of time in which the device did nothing, that of `IdleTime` by moments of the device, and
    that by moments of the host. `decode`: seconds a batch, of the host's threads or of the device's decoder: two
    batches are prepared ahead. The host waits for the device every LOG_EVERY steps, as a log line does."""
    gpu = Gpu()
    steps, copies, decoder = gpu.steps, Stream(gpu), Stream(gpu)
    idle, by_host = IdleTime(), IdleTime()
    queued: deque[float] = deque()
    decoded: deque[float] = deque()
    busy = started = 0.0

    def submit() -> None:
        decoder.work(decode)
        decoded.append(decoder.ends)

    def moment() -> Moment:
        event = gpu.event()
        event.record()
        return event

    for step in range(STEPS):
        asked, asked_host = moment(), HostMoment(gpu.now)
        while len(decoded) < 2:
            submit()
        ready = decoded.popleft()
        if on_device:
            copies.ends = max(copies.ends, ready)
        else:
            gpu.now = max(gpu.now, ready)
        submit()
        copies.work(0.0005)
        steps.wait_stream(copies)
        if step:
            idle.add(asked, moment())
            by_host.add(asked_host, HostMoment(gpu.now))
        else:
            started = steps.ends
        for _ in range(LAUNCHES):
            gpu.now += LAUNCH
            while queued and queued[0] <= gpu.now:
                queued.popleft()
            if len(queued) >= QUEUE:
                gpu.now = queued.popleft()
            steps.work(STEP / LAUNCHES)
            queued.append(steps.ends)
        busy += STEP
        assert gpu.waits == step // LOG_EVERY  # measuring waits for nothing
        if step % LOG_EVERY == LOG_EVERY - 1:
            steps.synchronize()
            gpu.now += LOG
    seconds = gpu.now - started
    return 1 - busy / seconds, idle.seconds / seconds, by_host.seconds / seconds


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(("decode", "idle"), [(0.015, 0.0), (0.024, 0.0), (0.033, 1 - 30 / 33)])
def test_the_share_shown_is_that_of_the_device(decode: float, idle: float, on_device: bool) -> None:
    true, shown, by_host = simulated(decode, on_device)
    assert true == pytest.approx(idle, abs=0.01)
    assert shown == pytest.approx(true, abs=0.01)
    if not on_device and decode == 0.024:
        assert by_host > 0.5  # where the host's clock would have been far off


def test_a_wait_counts_once_its_end_has_come() -> None:
    gpu = Gpu()
    idle = IdleTime()
    gpu.steps.work(2.0)
    asked = gpu.steps.record_event()
    gpu.steps.ends = 5.0
    idle.add(asked, gpu.steps.record_event())
    assert idle.seconds == 0
    gpu.now = 4.0
    assert idle.seconds == 0
    gpu.now = 5.0
    assert idle.seconds == idle.seconds == pytest.approx(3.0)
    assert gpu.waits == 0


def test_on_a_cpu_it_is_the_time_of_the_host() -> None:
    idle = IdleTime()
    idle.add(HostMoment(1.0), HostMoment(1.25))
    idle.add(HostMoment(7.0), HostMoment(8.0))
    assert idle.seconds == pytest.approx(1.25)
    assert HostMoment().elapsed_time(HostMoment()) >= 0
