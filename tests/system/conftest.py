"""Fixtures of the rooms that tests of several processes use too, and a browser."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import source_with_a_bad_file
from tests.paper.conftest import small_shards
from tests.report.conftest import nasty_page, run
from tests.shards.conftest import serve

__all__ = ["nasty_page", "run", "serve", "small_shards", "source_with_a_bad_file"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Headless Chromium: flags and a page -> what it prints."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs chromium or google-chrome")
    profile = tmp_path_factory.mktemp("browser")

    def open_page(page: Path, *flags: str) -> str:
        quiet = "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --disable-sync"
        offline = "--disable-background-networking --disable-component-update --proxy-server=127.0.0.1:9"
        line = [found, *quiet.split(), *offline.split(), f"--user-data-dir={profile}", *flags, page.as_uri()]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout

    return open_page
