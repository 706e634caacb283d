"""Times, durations, byte counts and names as text."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def now() -> str:
    """Returns the time in UTC, to the second, for files: `2026-11-30T21:44:25+00:00`."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def local_time(text: object) -> str:
    """Returns a time of `now` in this machine's time zone, for people: `2026-11-30 22:44`; nothing where `text` is not
    a time."""
    try:
        return f"{datetime.fromisoformat(str(text)).astimezone():%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return ""


def duration(seconds: float) -> str:
    """Returns seconds, or the two largest units: `59 s`, `1 h 52 min`, `7 d 0 h`."""
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        whole = round(seconds / part)
        if whole * part >= length:
            return f"{whole * part // length} {unit} {whole * part % length // part} {smaller}"
    return f"{seconds:.0f} s"


def printable(text: str, *, lines: bool = False) -> str:
    """Returns text for a terminal, in which the names of files and classes may hold anything: control characters, and
    those that turn the direction of writing, as `\\x1b`; bytes that are no UTF-8 as replacement characters.

    `lines`: the text itself is of several lines, so that line ends and tabs stay.
    """

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode("ascii")

    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _CONTROL.sub(escaped, text))


def byte_text(number: float, *, round_up: bool = False) -> str:
    """Returns `0.51 MB` or `138.27 GB`, of 10^6 and 10^9 bytes. `round_up`: no fewer than `number`, for a need."""
    unit, name = (10**9, "GB") if number >= 10**9 else (10**6, "MB")
    return f"{-(-number // (unit // 100)) / 100 if round_up else number / unit:,.2f} {name}"


def number_of(count: int, thing: str) -> str:
    """Returns `1 epoch` or `12,000 epochs`."""
    return f"{count:,} {thing}{'s' * (count != 1)}"
