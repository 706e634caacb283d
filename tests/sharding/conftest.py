"""The images of all layouts, for archives too."""

from __future__ import annotations

import pytest

from tests.sharding.sources.layouts import TEST_LABELS, TRAIN, VAL_LABELS, Photos, jpeg


@pytest.fixture(scope="module")
def photos() -> Photos:
    return {name: jpeg(seed) for seed, name in enumerate([*TRAIN, *VAL_LABELS, *TEST_LABELS])}
