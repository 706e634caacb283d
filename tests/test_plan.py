"""The plan keeps its promises: pure, exact, independent of ranks, distributed as the paper says."""

import hashlib

import numpy as np
import pytest

from alexnet_fast.loading.plan import Rows, epoch_plan, evaluation_rows, steps_per_epoch, training_rows


def rows_of(samples: int, batch: int, world: int = 1, **options: object) -> list[list[Rows]]:
    settings: dict[str, object] = {"margin": 32, "colour_std": 0.1, **options}
    return [
        list(training_rows(samples, batch, 5, rank=rank, world=world, **settings))  # type: ignore[arg-type]
        for rank in range(world)
    ]


def as_set(rows: list[Rows]) -> set[tuple[float, ...]]:
    return {
        (int(sample), *crop.tolist(), bool(mirror), *colour.tolist())
        for row in rows
        for sample, crop, mirror, colour in zip(row.samples, row.crop, row.mirror, row.colour, strict=True)
    }


def test_plan_is_a_pure_function() -> None:
    a, b = (epoch_plan(3, 7, 1000, margin=32, colour_std=0.1) for _ in range(2))
    for name in ("order", "crop", "mirror", "colour"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    for seed, epoch in ((3, 8), (4, 7), (7, 3)):
        other = epoch_plan(seed, epoch, 1000, margin=32, colour_std=0.1)
        assert not np.array_equal(a.order, other.order)
        assert not np.array_equal(a.crop, other.crop)


def test_plan_never_changes_between_versions() -> None:
    """A resumed run must meet the same samples even when NumPy was upgraded in between."""
    plan = epoch_plan(1, 2, 1000, margin=32, colour_std=0.1)
    data = plan.order.tobytes() + plan.crop.tobytes() + plan.mirror.tobytes()
    assert hashlib.sha256(data).hexdigest()[:16] == "d4e2f37a968e4628"
    assert plan.colour[:2].ravel() == pytest.approx(
        [-0.17939296, -0.01474562, 0.2251195, 0.05132566, 0.13179892, 0.02762164], abs=1e-7
    )


def test_every_sample_once_an_epoch() -> None:
    assert np.array_equal(np.sort(epoch_plan(0, 0, 999, margin=4, colour_std=0.1).order), np.arange(999))


@pytest.mark.parametrize("samples", [1000, 1001, 1023, 130])
def test_stream_is_the_same_for_any_number_of_ranks(samples: int) -> None:
    (alone,) = rows_of(samples, 64)
    for world in (2, 4):
        ranks = rows_of(samples, 64, world)
        for step, whole in enumerate(alone):
            parts = [rank[step] for rank in ranks]
            assert np.array_equal(np.concatenate([p.samples for p in parts]), whole.samples)
            assert np.array_equal(np.concatenate([p.crop for p in parts]), whole.crop)
            assert np.array_equal(np.concatenate([p.mirror for p in parts]), whole.mirror)
            assert np.array_equal(np.concatenate([p.colour for p in parts]), whole.colour)


def test_another_batch_changes_only_where_steps_end() -> None:
    (small,), (large,) = rows_of(1000, 32), rows_of(1000, 250)
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


def test_resuming_in_mid_epoch_gives_the_rest() -> None:
    (all_rows,) = rows_of(500, 64, epochs=range(0, 3))
    (rest,) = rows_of(500, 64, epochs=range(1, 3), first_step=5)
    expected = [r for r in all_rows if (r.epoch, r.step) >= (1, 5)]
    assert [(r.epoch, r.step) for r in rest] == [(r.epoch, r.step) for r in expected]
    for a, b in zip(rest, expected, strict=True):
        assert np.array_equal(a.samples, b.samples)
        assert np.array_equal(a.colour, b.colour)


def test_crops_flips_and_colours_are_distributed_as_the_paper_says() -> None:
    n = 66_000
    plan = epoch_plan(0, 0, n, margin=32, colour_std=0.1)
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


def test_augmentation_off_keeps_the_order() -> None:
    on = epoch_plan(0, 0, 100, margin=32, colour_std=0.1)
    off = epoch_plan(0, 0, 100, margin=32, colour_std=0.1, augment=False)
    assert np.array_equal(on.order, off.order)
    assert (off.crop == 16).all()
    assert not off.mirror.any()
    assert not off.colour.any()


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_evaluation_sees_every_sample_once(world: int) -> None:
    seen = [
        row.samples for rank in range(world) for row in evaluation_rows(1003, 100, margin=32, rank=rank, world=world)
    ]
    assert np.array_equal(np.concatenate(seen), np.arange(1003))
    assert max(len(s) for s in seen) <= 100
