"""A shard set for the paper's networks at their smallest."""

from pathlib import Path

import pytest

from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.sources import find_images
from tests.conftest import write


@pytest.fixture(scope="module")
def small_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper") / "small"
    write(find_images(image_folder), out, Options("raw", size=74))
    return out
