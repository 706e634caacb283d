"""The host's share of the JPEGs beside a GPU: what is tried, by which clock, and what it leaves as it is."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_fast import native
from alexnet_fast.loading import decoders, pipeline, share
from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.cpu import CropReader
from alexnet_fast.loading.idle import HostMoment
from alexnet_fast.loading.pipeline import Pipeline
from alexnet_fast.loading.plan import training_rows
from alexnet_fast.loading.share import MEASURED, SETTLING, STARTING, ShareTrials, host_threads
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training.replay import TURNS, WARM_UP
from tests.cuda_stand_ins import Gpu, Stream

CROP = 84
BATCH, STEP = 100, 0.01
LOG_EVERY = 20
"""Steps that the host is ahead of a GPU at most: a log line waits for it."""


def trained(trials: ShareTrials, seconds: Callable[[float], float], ahead: int) -> list[float]:
    """Returns the share of each batch until the trials are done. `seconds`: what a batch takes with a share, if the
    step is not longer. The host is `ahead` batches ahead of the device: one that it has just queued is done then."""
    gpu = Gpu()
    shares: list[float] = []
    ends = [0.0] * ahead
    asked = gpu.steps.record_event()
    while not trials.done:
        shares.append(trials.share)
        gpu.steps.work(max(seconds(trials.share), STEP))
        ends.append(gpu.steps.ends)
        gpu.now = ends.pop(0)
        before, asked = asked, gpu.steps.record_event()
        trials.used(shares[-1], BATCH, before, asked)
        assert len(shares) < 200 + STARTING
    assert gpu.waits == 0
    return shares


@pytest.mark.parametrize("ahead", [0, 5])
@pytest.mark.parametrize(
    ("by_share", "best"),
    [
        ({1.0: 0.012, 0.0: 0.036, 0.75: 0.010}, 0.75),
        ({1.0: 0.012, 0.0: 0.036, 0.75: 0.013}, 1.0),  # the two are in each other's way
        ({1.0: 0.036, 0.0: 0.012, 0.25: 0.0125}, 0.0),
        ({1.0: 0.005, 0.0: 0.002, 0.5: 0.003}, 1.0),  # all faster than the step: nothing gained by DALI
    ],
)
def test_the_share_with_the_highest_rate_is_taken(by_share: dict[float, float], best: float, ahead: int) -> None:
    trials = ShareTrials()
    shares = trained(trials, by_share.__getitem__, ahead)
    assert trials.share == best
    assert trials.rates == pytest.approx({one: BATCH / max(took, STEP) for one, took in by_share.items()})
    counts = [shares.count(one) for one in by_share]
    assert list(dict.fromkeys(shares)) == list(by_share)
    taken = SETTLING + MEASURED + ahead  # until the last one's end has come
    assert counts == [STARTING + taken, taken, taken]


@pytest.mark.parametrize(("decode", "best"), [({1.0: 0.02, 0.0: 0.033}, 1.0), ({1.0: 0.06, 0.0: 0.033}, None)])
def test_queued_steps_do_not_make_a_slower_share_the_best(decode: dict[float, float], best: float | None) -> None:
    """Steps of 30 ms, up to 5 of them and 2 batches ahead of the device. Both at once decode as fast as both alone, so
    some is best where all and none are slower than the step."""
    gpu, trials = Gpu(), ShareTrials()
    decoder = Stream(gpu)
    decoded: deque[tuple[float, float]] = deque()
    queued: deque[float] = deque()
    asked = gpu.steps.record_event()

    def submit() -> None:
        part = trials.share
        decoder.work(max(part * decode[1.0], (1 - part) * decode[0.0]))
        decoded.append((part, decoder.ends))

    submit()
    while not trials.done:
        submit()
        part, ready = decoded.popleft()
        gpu.now = max(gpu.now, ready)
        gpu.steps.work(0.03 if part == 1 else 0.0299)  # noise
        queued.append(gpu.steps.ends)
        if len(queued) > 5:
            gpu.now = max(gpu.now, queued.popleft())
        before, asked = asked, gpu.steps.record_event()
        trials.used(part, BATCH, before, asked)
    some = [one for one in trials.rates if 0 < one < 1]
    assert [trials.share] == (some if best is None else [best])
    assert trials.rates[trials.share] == pytest.approx(BATCH / 0.03, rel=0.01)


@pytest.mark.parametrize("at", range(0, STARTING + 3 * (SETTLING + MEASURED), 5))
def test_a_step_that_settles_does_not_spoil_a_trial(at: int) -> None:
    """At the start every second step is launched kernel by kernel, far slower, while Replay times both ways; batch `at`
    takes seconds, as steps of another size are recorded or compiled with it. No share is better than all here."""
    trials, taken = ShareTrials(), 0
    clock = 0.0
    while not trials.done:
        began, taken = clock, taken + 1
        is_launched = WARM_UP < taken <= WARM_UP + 2 * TURNS + LOG_EVERY and taken % 2
        clock += 0.02 if is_launched or taken <= WARM_UP else 0.01
        clock += 5.0 if taken == at else 0.0
        trials.used(trials.share, BATCH, HostMoment(began), HostMoment(clock))
    assert trials.share == 1.0
    assert trials.rates == pytest.approx(dict.fromkeys((1.0, 0.0, 0.5), BATCH / 0.01))


def test_nothing_is_tried_between_where_one_is_far_faster() -> None:
    trials = ShareTrials()
    trained(trials, {1.0: 0.012, 0.0: 0.5}.__getitem__, 0)
    assert (trials.share, set(trials.rates)) == (1.0, {1.0, 0.0})


def test_batches_of_an_earlier_trial_do_not_count() -> None:
    """Those that were submitted before the share changed are used after it."""
    trials = ShareTrials()
    for at in range(STARTING + SETTLING + MEASURED):
        trials.used(1.0, BATCH, HostMoment(at), HostMoment(at + 1))
    assert trials.share == 0.0
    for _ in range(100):
        trials.used(1.0, BATCH, HostMoment(0), HostMoment(1))
    assert (trials.share, trials.rates) == (0.0, {1.0: BATCH})


@pytest.mark.parametrize(
    ("threads", "part", "raw", "ours"),
    [
        *[(16, 1.0, 0.0, 16), (16, 0.0, 0.0, 0), (16, 0.75, 0.0, 12)],
        *[(16, 0.0, 0.5, 4), (16, 1.0, 0.5, 16), (16, 0.0, 1.0, 16)],
        *[(2, 0.9, 0.0, 1), (2, 0.1, 0.0, 1), (1, 0.5, 0.0, 1)],
    ],
)
def test_threads_are_shared_as_the_work(threads: int, part: float, raw: float, ours: int) -> None:
    assert host_threads(threads, part, raw) == ours


def test_trials_in_the_loader(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch, fed_to_dali: list[int]) -> None:
    """As on a GPU, but both decode on the CPU: the samples stay those of the plan, the threads as many as given."""
    if native.decoder() == "none":
        pytest.skip("needs the compiled code and its libjpeg")
    from alexnet_fast.loading.dali import JpegDecoder

    monkeypatch.setattr(share, "STARTING", 0)
    monkeypatch.setattr(share, "SETTLING", 3)
    monkeypatch.setattr(share, "MEASURED", 2)
    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    threads: list[tuple[str, int]] = []
    for kind in (JpegDecoder, CropReader):

        def made(self: Any, *, init: Any = kind.__init__, name: str = kind.__name__, **about: Any) -> None:
            threads.append((name, about["threads"]))
            init(self, **about)

        monkeypatch.setattr(kind, "__init__", made)
    split = ShardSet(jpeg_shards).split("train")
    rows = list(training_rows(len(split), 12, 0, boxes=Boxes(split.size, CROP), colour_std=0.1, epochs=range(6)))
    loader = Pipeline(split, rows, max_batch=12, crop=CROP, device=torch.device("cpu"), threads=8)
    trials = loader.trials
    assert trials
    seconds = {1.0: 3.0, 0.0: 2.0, 0.375: 1.0}
    clock = 0.0

    def now() -> HostMoment:
        nonlocal clock
        clock += seconds[trials.share] / 3  # it is looked at three times a batch
        return HostMoment(clock)

    monkeypatch.setattr(pipeline, "moments", lambda device: now)
    batches = list(loader)
    assert [sorted(batch.rows.samples) for batch in batches] == [sorted(row.samples) for row in rows]
    for batch, row in zip(batches, rows, strict=True):
        for sample, crop in zip(batch.rows.samples, batch.rows.crop, strict=True):
            assert np.array_equal(crop, row.crop[row.samples == sample][0])
    assert trials.done
    assert trials.share == 0.375
    assert list(trials.rates) == [1.0, 0.0, 0.375]
    # 12 JPEGs of each batch in the trial of none, 12 - round(0.375 * 12) from then on
    assert fed_to_dali == [12] * fed_to_dali.count(12) + [8] * fed_to_dali.count(8)
    assert len(fed_to_dali) == fed_to_dali.count(12) + fed_to_dali.count(8)
    assert threads == [("CropReader", 8), ("CropReader", 1), ("JpegDecoder", 8), ("CropReader", 3), ("JpegDecoder", 5)]


def test_an_evaluation_tries_nothing(jpeg_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "needs_dali", lambda device: True)
    split = ShardSet(jpeg_shards).split("val")
    exact = Pipeline(split, [], max_batch=4, crop=CROP, device=torch.device("cpu"), strict=True)
    assert exact.trials is None
    assert exact._decoders.share == 0
