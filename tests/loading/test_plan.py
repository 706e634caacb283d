"""The plan keeps its promises: pure, exact, independent of ranks, distributed as the paper says."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.plan import Rows, ShuffleWindow, evaluation_rows, steps_per_epoch, training_rows
from tests.conftest import epoch_rows


def rows_of(samples: int, batch: int, world: int = 1, **options: object) -> list[list[Rows]]:
    settings: dict[str, object] = {"boxes": Boxes(256, 224), "colour_std": 0.1, **options}
    return [
        list(training_rows(samples, batch, 5, rank=rank, world_size=world, **settings))  # type: ignore[arg-type]
        for rank in range(world)
    ]


def window(samples: int, tars: int, open: int) -> ShuffleWindow:
    """Tars of near-equal size in stored order, as `alexnet-fast shard` makes them."""
    return ShuffleWindow((np.arange(samples) * tars // samples).astype(np.uint32), open)


def window_order(order: ShuffleWindow, epoch: int = 0) -> NDArray[np.int64]:
    return epoch_rows(5, epoch, len(order.tars), margin=0, colour_std=0, crops=False, window=order).samples


def as_set(rows: list[Rows]) -> set[tuple[float, ...]]:
    return {
        (int(sample), *crop.tolist(), bool(mirror), *colour.tolist())
        for row in rows
        for sample, crop, mirror, colour in zip(row.samples, row.crop, row.mirror, row.colour, strict=True)
    }


def test_another_seed_or_epoch_is_another_plan() -> None:
    a = epoch_rows(3, 7, 1000, margin=32, colour_std=0.1)
    for seed, epoch in ((3, 8), (4, 7), (7, 3)):
        other = epoch_rows(seed, epoch, 1000, margin=32, colour_std=0.1)
        assert not np.array_equal(a.samples, other.samples)
        assert not np.array_equal(a.crop, other.crop)


def test_plan_never_changes_between_versions() -> None:
    """A resumed run must meet the same samples even when NumPy was upgraded in between."""
    plan = epoch_rows(1, 2, 1000, margin=32, colour_std=0.1)
    data = plan.samples.tobytes() + plan.crop[:, :2].tobytes() + plan.mirror.tobytes()
    assert hashlib.sha256(data).hexdigest()[:16] == "d4e2f37a968e4628"
    assert plan.colour[:2].ravel() == pytest.approx(
        [-0.17939296, -0.01474562, 0.2251195, 0.05132566, 0.13179892, 0.02762164], abs=1e-7
    )
    data = window_order(window(1000, 20, 4)).tobytes()
    assert hashlib.sha256(data).hexdigest()[:16] == "4725a248526d4313"


@pytest.mark.parametrize("samples", [1000, 1001, 1023, 130])
@pytest.mark.parametrize("tars", [0, 13])
def test_stream_is_the_same_for_any_number_of_ranks(samples: int, tars: int) -> None:
    order = window(samples, tars, 3) if tars else None
    (alone,) = rows_of(samples, 64, window=order)
    for world in (2, 4):
        ranks = rows_of(samples, 64, world, window=order)
        for step, whole in enumerate(alone):
            parts = [rank[step] for rank in ranks]
            assert np.array_equal(np.concatenate([p.samples for p in parts]), whole.samples)
            assert np.array_equal(np.concatenate([p.crop for p in parts]), whole.crop)
            assert np.array_equal(np.concatenate([p.mirror for p in parts]), whole.mirror)
            assert np.array_equal(np.concatenate([p.colour for p in parts]), whole.colour)


def test_the_rows_of_an_epoch_are_numpy_s_draws() -> None:
    """Each column from a Philox generator of its own, whose key is the seed and the epoch; drawn here at once."""
    (rows,) = rows_of(500, 64, epochs=range(2, 3))
    draws = [np.random.Generator(np.random.Philox(key=[5, 2], counter=[0, 0, 0, column])) for column in range(4)]
    expected = {
        "samples": draws[0].permutation(np.arange(500, dtype=np.int32)),
        "crop": np.hstack([draws[1].integers(0, 33, (500, 2), np.uint16), np.full((500, 2), 224)]),
        "mirror": draws[2].integers(0, 2, 500, np.uint8),
        "colour": draws[3].standard_normal((500, 3), np.float32) * np.float32(0.1),
    }
    for name, values in expected.items():
        assert np.array_equal(np.concatenate([getattr(row, name) for row in rows]), values)


@pytest.mark.parametrize("order", [None, window(1000, 13, 3)], ids=["random", "window"])
def test_another_batch_changes_only_where_steps_end(order: ShuffleWindow | None) -> None:
    (small,), (large,) = rows_of(1000, 32, window=order), rows_of(1000, 250, window=order)
    assert as_set(small) == as_set(large)
    assert np.array_equal(np.concatenate([r.samples for r in small]), np.concatenate([r.samples for r in large]))


def test_steps_are_equal_and_no_longer_than_the_batch() -> None:
    for samples, batch in ((1000, 64), (129, 128), (1281167, 1024)):
        (rows,) = rows_of(samples, batch)
        lengths = [len(r.samples) for r in rows]
        assert len(rows) == steps_per_epoch(samples, batch) == -(-samples // batch)
        assert sum(lengths) == samples
        assert max(lengths) <= batch
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("order", [None, window(500, 13, 3)], ids=["random", "window"])
def test_resuming_in_mid_epoch_gives_the_rest(order: ShuffleWindow | None) -> None:
    (all_rows,) = rows_of(500, 64, epochs=range(0, 3), window=order)
    (rest,) = rows_of(500, 64, epochs=range(1, 3), first_step=5, window=order)
    expected = [r for r in all_rows if (r.epoch, r.step) >= (1, 5)]
    assert [(r.epoch, r.step) for r in rest] == [(r.epoch, r.step) for r in expected]
    for a, b in zip(rest, expected, strict=True):
        assert np.array_equal(a.samples, b.samples)
        assert np.array_equal(a.colour, b.colour)


def test_crops_flips_and_colours_are_distributed_as_the_paper_says() -> None:
    n = 66_000
    plan = epoch_rows(0, 0, n, margin=32, colour_std=0.1)
    for axis in (0, 1):
        counts = np.bincount(plan.crop[:, axis], minlength=33)
        assert len(counts) == 33  # offsets 0..32
        assert ((counts - n / 33) ** 2 / (n / 33)).sum() < 65  # chi-square, 32 degrees: p > 0.0005
    assert abs(np.corrcoef(plan.crop[:, 0], plan.crop[:, 1])[0, 1]) < 0.02
    assert abs(plan.mirror.mean() - 0.5) < 0.01
    assert np.allclose(plan.colour.mean(0), 0, atol=0.002)
    assert np.allclose(plan.colour.std(0), 0.1, rtol=0.02)
    assert np.allclose(np.corrcoef(plan.colour.T), np.eye(3), atol=0.02)
    assert abs((np.abs(plan.colour) < 0.1).mean() - 0.6827) < 0.01  # normal, not uniform


def test_colour_ends_where_it_should() -> None:
    rows = list(training_rows(20, 10, 0, boxes=Boxes(256, 224), colour_std=0.1, colour_epochs=1.5, epochs=range(4)))
    assert [bool(row.colour.any()) for row in rows] == [True] * 4 + [False] * 4
    assert all(row.crop.any() for row in rows)


def test_augmentation_off_keeps_the_order() -> None:
    on = epoch_rows(0, 0, 100, margin=32, colour_std=0.1)
    off = epoch_rows(0, 0, 100, margin=32, colour_std=0.1, crops=False)
    assert np.array_equal(on.samples, off.samples)
    assert (off.crop == (16, 16, 64, 64)).all()
    assert not off.mirror.any()
    assert np.array_equal(on.colour, off.colour)
    assert not epoch_rows(0, 0, 100, margin=32, colour_std=0).colour.any()


def open_tars(order: ShuffleWindow, samples: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    """(n,) how many tars are open as each of the samples comes up: some of their samples came, some are to come."""
    tars, n = order.tars[samples], len(samples)
    _, first = np.unique(tars, return_index=True)
    _, last = np.unique(tars[::-1], return_index=True)
    enters, leaves = np.bincount(first, minlength=n), np.bincount(n - last, minlength=n + 1)[:n]
    return np.cumsum(enters - leaves)


@pytest.mark.parametrize("open", [1, 2, 3, 16, 40])
def test_window_is_exact_and_keeps_few_tars_open(open: int) -> None:
    random = np.random.default_rng(0)
    sizes = {
        "equal": np.full(50, 200),
        "unequal": random.integers(1, 400, 50),
        "extreme": np.where(random.random(60) < 0.5, random.integers(0, 3, 60), 1000),  # some have no sample
    }
    for name, samples_of in sizes.items():
        tars = np.repeat(np.arange(len(samples_of), dtype=np.uint32), samples_of)
        for stored in (tars, random.permutation(tars)):
            order = ShuffleWindow(stored, open)
            for epoch in range(3):
                samples = window_order(order, epoch)
                assert np.array_equal(np.sort(samples), np.arange(len(stored)))
                most = open_tars(order, samples).max()
                assert most == open if name == "equal" else most <= open


def test_window_as_wide_as_the_set_is_the_global_shuffle() -> None:
    everything = epoch_rows(5, 1, 1000, margin=0, colour_std=0).samples
    assert np.array_equal(window_order(window(1000, 8, 8), 1), everything)
    assert np.array_equal(window_order(window(1000, 8, 1000), 1), everything)
    assert not np.array_equal(window_order(window(1000, 9, 8), 1), everything)
    assert len(window(0, 1, 8).order(np.random.default_rng(0))) == 0


def test_window_differs_in_every_epoch_and_changes_nothing_else() -> None:
    order = window(5000, 50, 4)
    lines = [order.tars[window_order(order, epoch)].astype(float) for epoch in range(4)]
    for a, b in pairwise(lines):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.5  # the line of the tars is another one
    shuffled, windowed = (epoch_rows(5, 0, 5000, margin=32, colour_std=0.1, window=w) for w in (None, order))
    for name in ("crop", "mirror", "colour"):
        assert np.array_equal(getattr(shuffled, name), getattr(windowed, name))


def mixing(
    order: ShuffleWindow | None, tars: NDArray[np.unsignedinteger], batch: int
) -> tuple[NDArray[np.float64], float]:
    """Of each batch, the number of tars that in equal parts would have its entropy; and the share of the pairs in
    one batch that are in one again in the next epoch."""
    n = len(tars)
    one, two = (epoch_rows(0, e, n, margin=0, colour_std=0, crops=False, window=order).samples for e in range(2))
    next_batch = np.empty(n, np.int64)
    next_batch[two] = np.arange(n) // batch
    mixed, again = [], 0
    for first in range(0, n, batch):
        samples = one[first : first + batch]
        shares = np.bincount(tars[samples]) / batch
        mixed.append(np.exp(-np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares)))))
        together = np.bincount(next_batch[samples])
        again += int((together * (together - 1) // 2).sum())
    return np.array(mixed), again / (n // batch * batch * (batch - 1) // 2)


def test_how_well_window_mixes() -> None:
    """The tar stands for the class, the worst case; 256 tars of 500, batches of 256.

    Measured, with 16 open against the global shuffle: a batch is worth 15.7 tars (at least 15.0, 7.9 at the ends)
    against 144; a pair meets again in the next epoch with 0.38 % against 0.20 %.
    """
    n, tars, batch, open = 128_000, 256, 256, 16
    order = window(n, tars, open)
    mixed, again = mixing(order, order.tars, batch)
    ends, middle = mixed[[0, 1, -2, -1]], mixed[len(mixed) // 10 : -len(mixed) // 10]
    assert np.median(middle) > 0.95 * open
    assert middle.min() > 0.9 * open
    assert ends.min() > 0.9 * open / 2
    everything, by_chance = mixing(None, order.tars, batch)
    assert np.median(everything) == pytest.approx(144, rel=0.05)
    assert by_chance == pytest.approx(batch / n, rel=0.1)
    # Two of a batch are from one tar with 1/16; then they meet again with a batch's share of the time a tar is open.
    assert again == pytest.approx(1 / open * batch / (open * n / tars) + by_chance, rel=0.1)

    samples = window_order(order)
    position = np.empty(n)
    position[samples] = np.arange(n)
    inside = np.arange(n) % (n // tars)
    by_tar = position.reshape(tars, -1)
    from_mean = (by_tar - by_tar.mean(1, keepdims=True)).ravel()
    assert abs(np.corrcoef(inside, from_mean)[0, 1]) < 0.02  # no trace of the stored order inside a tar
    apart = np.abs(np.diff(by_tar)).mean()  # neighbours in a tar: a third of the time it is open
    assert apart == pytest.approx(open * n / tars / 3, rel=0.05)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_sees_every_sample_once(world: int) -> None:
    seen = [
        row.samples
        for rank in range(world)
        for row in evaluation_rows(1003, 100, boxes=Boxes(256, 224), rank=rank, world_size=world)
    ]
    assert np.array_equal(np.concatenate(seen), np.arange(1003))
    assert max(len(s) for s in seen) <= 100
