"""Fixtures of the rooms that tests of several processes use too."""

from tests.cli.conftest import source_with_a_bad_file
from tests.paper.conftest import small_shards
from tests.report.conftest import nasty_page, run
from tests.shards.conftest import serve

__all__ = ["nasty_page", "run", "serve", "small_shards", "source_with_a_bad_file"]
