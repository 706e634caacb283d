"""Reads a range of a file from a web server; from one without ranges the file itself, a piece at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any

_SKIPPED = 1 << 20
"""Bytes of the file's beginning that are read at a time where they are not wanted."""


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
            piece = await _read(answer.content, min(start - skipped, _SKIPPED))
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
