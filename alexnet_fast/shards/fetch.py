"""Files behind a URL, by way of fsspec: read in blocks, again where the network fails."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing, suppress
from typing import Any

import numpy as np

from alexnet_fast.console import print_notice
from alexnet_fast.environment import install_command
from alexnet_fast.errors import InputError
from alexnet_fast.shards.format import MOST_MANIFEST_BYTES

BLOCK = 8 << 20
"""Bytes of a request."""
SMALLEST_BLOCK = 64 << 10
SKIPPED = 1 << 20
"""Bytes that are read at a time of what comes before a range, from a web server without ranges."""
STALL_SECONDS = 30.0
"""A request that takes longer is given up, and a smaller one made."""
OUTAGE_SECONDS = 600.0
"""The longest time without a single block; then the file is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two tries: they double each time."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
"""Which of our extras installs what fsspec needs for a kind of URL."""

Bytes = Generator[bytes, None, None]


class Remote:
    """Reads the files below a URL. While the network fails, reading takes longer, with one notice an outage."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        kind = url.partition("://")[0]
        self._is_web = kind in ("http", "https")
        proxies = {"client_kwargs": {"trust_env": True}} if self._is_web else {}
        try:
            self._files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **proxies)
        except ImportError as error:
            install = install_command(EXTRAS[kind]) if kind in EXTRAS else "pip, as that says"
            raise InputError(f"{url} cannot be read: {error}. Install what is missing with: {install}") from error
        except Exception as error:  # every store has its own kinds
            raise InputError(f"{url} cannot be used ({error}). Check the address and credentials.") from error
        self._root = root.rstrip("/")
        self._noticed = -np.inf
        self._answered = False

    def __reduce__(self) -> tuple[type[Remote], tuple[str]]:
        """Pickled, it connects anew in the other process."""
        return Remote, (self.url,)

    def blocks(self, name: str, total: int | None = None, most: int = MOST_MANIFEST_BYTES) -> Bytes:
        """The bytes of a file, in order, continued after each failure.

        `total`: bytes to read; None: to its end, and `most` bytes at the most. Raises InputError when the file is not
        there, may not be read, is shorter than `total` or longer than `most`, when nothing has come for OUTAGE_SECONDS,
        and when there is no such host from the start.
        """
        start, size, pause, since = 0, BLOCK, FIRST_PAUSE, time.monotonic()
        limit = most if total is None else total
        while total is None or start < total:
            # Where the end is not known, the range begins with a byte that is there: one past the end is an error.
            first = start if total is not None else max(start - 1, 0)
            end = start + size if total is None else min(start + size, total)
            at = first
            try:
                with closing(self._range(f"{self._root}/{name}", first, end)) as answer:
                    for data in answer:
                        block = data[max(start - at, 0) :][: limit - start]
                        at += len(data)
                        if block:
                            self._answered = True
                            yield block
                            start, pause, since = start + len(block), FIRST_PAUSE, time.monotonic()
                        if start == total or at > start:  # nothing more, or no more than `most`, is wanted
                            break
                if at == first and (total or not start):
                    raise OSError("it sent nothing")
            except Exception as error:  # every store has its own kinds
                self._check_retry(name, error, time.monotonic() - since)
                if isinstance(error, asyncio.TimeoutError):
                    size = max(size // 4, SMALLEST_BLOCK)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if total is None and at > limit:
                raise InputError(
                    f"{self.url}/{name} does not end after {limit:,} bytes, the most that it can have. Check the "
                    "address: something else answers there."
                )
            if total is None and at != end:  # before it the file ends; beyond it a server without ranges has
                return

    def _range(self, path: str, start: int, end: int) -> Bytes:
        """The bytes [start, end) in one piece; from a web server without ranges the file from `start` on, in several.
        Other stores' libraries return an answer whole."""
        if self._is_web:
            yield from read_range(self._files, path, start, end, STALL_SECONDS)
            return
        if self._files.async_impl:
            from fsspec.asyn import sync

            cat = self._files._cat_file
            data: bytes = sync(self._files.loop, cat, path, start=start, end=end, timeout=STALL_SECONDS)
        else:
            data = self._files.cat_file(path, start=start, end=end)
        yield data[start:] if len(data) > end - start else data

    def _check_retry(self, name: str, error: Exception, seconds: float) -> None:
        """Raises InputError when another try is pointless; prints a notice when an outage begins."""
        file, reason = f"{self.url}/{name}", str(error) or type(error).__name__
        if refusal := _refusal(error):
            raise InputError(f"{file} {refusal} ({reason}). Check the address and your access to it.") from error
        if not self._answered and _is_unknown_host(error):
            raise InputError(f"{file} is on no host that is known ({reason}). Check the address, and the network.")
        if seconds > OUTAGE_SECONDS:
            raise InputError(
                f"nothing came from {file} for {seconds / 60:.0f} minutes ({reason}). Check the network; "
                "what has been fetched is kept, so the same command continues from there."
            ) from error
        if time.monotonic() - self._noticed > OUTAGE_SECONDS:
            print_notice(f"{file} does not come ({reason}); trying again for {OUTAGE_SECONDS / 60:.0f} minutes")
            self._noticed = time.monotonic()


def _refusal(error: Exception) -> str:
    """What is wrong, in words, where another try would not change the answer; empty for a failure that may pass."""
    status = getattr(error, "code" if type(error).__name__ == "HttpError" else "status", None)  # gcsfs, aiohttp
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "is not there"
    if status == 416 or getattr(error, "errno", None) == errno.EINVAL:
        return "is shorter than its manifest says"
    is_client_error = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    # By name: their packages may not be there.
    is_final = any(word in type(error).__name__ for word in ("Credentials", "Certificate", "InvalidU", "ParamValid"))
    return "cannot be read" if isinstance(error, PermissionError) or is_client_error or is_final else ""


def _is_unknown_host(error: BaseException | None) -> bool:
    """Whether the cause is an unknown host; a name server that does not answer is none."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            return error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
        error = error.__cause__ or error.__context__
    return False


def read_range(files: Any, url: str, start: int, end: int, seconds: float) -> Generator[bytes, None, None]:
    """The bytes [start, end) in one piece; fewer where the file ends. No more of an answer is read, however long it is.

    A server without ranges sends the whole file: then these are its bytes from `start` to its end, in pieces of
    `end - start`, with empty ones for what comes before `start`. Closing the iterator closes the connection. `files`:
    fsspec's file system. Raises what aiohttp raises, FileNotFoundError where there is no such file, and
    asyncio.TimeoutError where a piece takes longer than `seconds`.
    """
    from fsspec.asyn import sync

    pieces = _pieces(files, url, start, end)
    try:
        while True:
            try:
                piece: bytes = sync(files.loop, pieces.__anext__, timeout=seconds)
            except StopAsyncIteration:
                return
            yield piece
    finally:
        with suppress(RuntimeError, asyncio.TimeoutError):  # after a timeout it may still be ending
            sync(files.loop, pieces.aclose, timeout=seconds)


async def _pieces(files: Any, url: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
    import aiohttp

    options = {**files.kwargs}
    # A range of a file that is compressed on its way would be one of the compressed bytes.
    wanted = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **wanted}
    options["timeout"] = aiohttp.ClientTimeout(total=None)  # each piece has its own
    session = await files.set_session()
    async with session.get(files.encode_url(url), **options) as answer:  # what is left unread ends the connection
        files._raise_not_found_for_status(answer, url)
        if answer.status == 206:
            yield await _read(answer.content, end - start)
            return
        skipped = 0
        while skipped < start:
            piece = await _read(answer.content, min(start - skipped, SKIPPED))
            if not piece:
                return
            skipped += len(piece)
            yield b""
        while piece := await _read(answer.content, end - start):
            yield piece


async def _read(content: Any, size: int) -> bytes:
    """The next `size` bytes; fewer at the end."""
    pieces, left = [], size
    while left and (piece := await content.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
