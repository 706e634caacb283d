"""Collects the messages of the libtiff that Pillow brings: by itself it prints them, without the file's name."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import local
from typing import Any

from PIL import _imaging

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
"""Of libtiff: its function's name, a printf format, and a va_list, which on all common machines is a pointer."""
_MOST = 300
"""Characters of a message."""
_thread = local()


@contextmanager
def errors() -> Iterator[list[str]]:
    """Collects the errors that libtiff reports in this thread. Nothing is printed, its warnings neither."""
    _handlers()
    _thread.errors = found = list[str]()
    try:
        yield found
    finally:
        _thread.errors = None


@cache
def _handlers() -> tuple[Any, Any]:
    """Sets the handlers, which must live as long as the process; does nothing where libtiff's symbols are hidden."""
    library, c_library = ctypes.CDLL(_imaging.__file__), ctypes.CDLL(None)

    def on_error(function: bytes | None, form: bytes, arguments: int) -> None:
        found = getattr(_thread, "errors", None)
        if found is not None:
            text = ctypes.create_string_buffer(_MOST)
            c_library.vsnprintf(text, ctypes.c_size_t(_MOST), form, ctypes.c_void_p(arguments))
            found.append(text.value.decode(errors="replace"))

    def on_warning(function: bytes | None, form: bytes, arguments: int) -> None:
        pass

    handlers = _HANDLER(on_error), _HANDLER(on_warning)
    for name, handler in zip(("TIFFSetErrorHandler", "TIFFSetWarningHandler"), handlers, strict=True):
        set_handler = getattr(library, name, None)
        if set_handler is not None:
            set_handler.argtypes, set_handler.restype = [_HANDLER], ctypes.c_void_p
            set_handler(handler)
    return handlers
