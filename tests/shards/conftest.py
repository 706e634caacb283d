"""What the tests of a set behind a URL share: servers, small blocks, and what is printed for the user."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_fast.shards import cache_folder, fetch
from tests.shards.servers import Server


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BLOCK", 20_000)
    monkeypatch.setattr(fetch, "SMALLEST_BLOCK", 5_000)
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.3)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(fetch, "print_notice", texts.append)
    monkeypatch.setattr(cache_folder, "_notice_once", texts.append)
    return texts
