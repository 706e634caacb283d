"""Fixtures of the rooms that tests of several processes use too."""

from tests.paper.conftest import small_shards
from tests.shards.conftest import serve

__all__ = ["serve", "small_shards"]
