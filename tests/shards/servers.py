"""Servers on loopback that serve a shard set and fail as they are told; what a test reads of a set behind one."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.shards.reader import ShardSet, Split

Fault = Callable[[str, int], str]
"""File name and number of the request for it, from 0 -> what goes wrong: drop, truncate, silent, stall, 503, or ''."""


class Server(ThreadingHTTPServer):
    """Serves a folder, with ranges; counts the requests for each file, and fails as it is told."""

    daemon_threads = True
    ranges = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.fault: Fault = lambda name, number: ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client went away: it had waited long enough


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = Path(self.path).name
        fault = self.server.fault(name, self.server.requests[name])
        self.server.requests[name] += 1
        if fault == "stall":
            self.rfile.read(1)  # until the client has gone
        if fault in ("drop", "stall"):
            return
        path = Path(self.translate_path(self.path))
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data = path.read_bytes()
        if self.server.ranges and (wanted := self.headers["Range"]):
            first, last = wanted.removeprefix("bytes=").split("-")
            if int(first) >= len(data):
                self.send_error(416)
                return
            data = data[int(first) : int(last) + 1]
        self.send_response(206 if self.server.ranges else 200)
        if fault != "silent":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        data = data[: len(data) // 2] if fault in ("truncate", "silent") else data
        self.server.bytes[name] += len(data)
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def samples(split: Split, numbers: list[int] | None = None) -> list[bytes]:
    return [view.tobytes() for view in split.read(np.array(numbers or range(len(split))))]


def tar_by_tar(split: Split) -> list[bytes]:
    """In stored order, the next tar leased while one is read."""
    parts = np.split(np.arange(len(split)), np.flatnonzero(np.diff(split.index["shard"])) + 1)
    got = []
    lease = split.lease(parts[0])
    for part, following in zip(parts, [*parts[1:], parts[0][:0]], strict=True):
        with closing(lease):
            lease = split.lease(following)
            got += samples(split, part.tolist())
    return got


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


def tars(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.tar*") if path.exists()}


def sizes(folder: Path, split: str = "train") -> list[int]:
    return [tar.bytes for tar in ShardSet(folder).manifest.splits[split]]


class Endless(BaseHTTPRequestHandler):
    """Answers any request with zeros without end, though at most MOST; `server.sent` counts what the network took."""

    MOST = 300 << 20
    timeout = 5
    """Seconds until it leaves a client that neither reads nor hangs up."""
    server: Any

    def do_GET(self) -> None:
        data = self.server.files.get(Path(self.path).name)
        self.send_response(self.server.status if data is None else 200)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.server.begin if data is None else data)
            while data is None and self.server.sent < self.MOST:
                self.wfile.write(bytes(1 << 18))
                self.server.sent += 1 << 18

    def log_message(self, *_: object) -> None:
        pass
