"""The progress of long work, on standard error: a live line on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alexnet_fast.text import duration, printable

PLAIN_SECONDS = 10.0
"""Between two lines where there is no terminal."""
REDRAWS_A_SECOND = 4
"""Of the live line, by a thread: it shows the time that passes in a long step, too."""


class Progress:
    """A line with a bar, a text, the time so far and the time left; `quiet`: prints nothing, for all processes but the
    first.

    `with Progress("sharding", total) as progress: progress.update(done, "610 images/s")`
    """

    def __init__(self, title: str, total: int, done: int = 0, *, unit: str = "", quiet: bool = False) -> None:
        """`total`: of the things to do, `done` of which are done already; `unit`: one of them, where their number is to
        be shown."""
        self._unit, self._text, self._done = unit, "starting", done
        self._title, self._total, self._first = title, max(total, 1), done
        self._started = self._printed = time.monotonic()
        self._console = Console(stderr=True, quiet=quiet)
        self._is_live = self._console.is_terminal and not quiet
        self._live = Live(
            console=self._console, transient=True, refresh_per_second=REDRAWS_A_SECOND, get_renderable=self._line
        )

    def __enter__(self) -> Progress:
        if self._is_live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, done: int, text: str) -> None:
        """Shows that `done` things are done, and a text; where there is no terminal, every PLAIN_SECONDS."""
        self._text, self._done = text, done
        if self._is_live:
            return
        if time.monotonic() - self._printed >= PLAIN_SECONDS or done >= self._total:
            self._printed = time.monotonic()
            self.print(f"{self._title} {100 * done // self._total:3d} %  {self._number()}{text}  {self._times()}")

    def advance(self, done: int) -> None:
        """Shows that `done` things are done, beside the last text; costs nothing."""
        self._done = done

    def _line(self) -> RenderableType:
        """Returns one line where it fits, else the text below the bar."""
        line = Table.grid(padding=(0, 1))
        bar, text, times = ProgressBar(self._total, self._done, width=20), self._number() + self._text, self._times()
        fits = len(f"{self._title} {text} {times} ") + 20 <= self._console.width
        line.add_row(self._title, bar, *[text] * fits, times)
        return line if fits else Group(line, Text(text))

    def _number(self) -> str:
        return f"{self._unit} {self._done:,}/{self._total:,}  " if self._unit else ""

    def _times(self) -> str:
        """Returns the time so far and, where it is known, the time left."""
        done, passed = self._done, time.monotonic() - self._started
        rate = (done - self._first) / max(passed, 1e-9)
        left = f", {duration((self._total - done) / rate)} left" if rate and done < self._total else ""
        return f"{duration(passed)}{left}"

    def begin(self, total: int) -> None:
        """Sets the total and starts the clock: the time before, for a listing say, is not in the rate."""
        self._total, self._started = max(total, 1), time.monotonic()

    def counter(self, things: str) -> Callable[..., None]:
        """Returns a function to call with the number of things just done, and of those beside them that will be counted
        when their whole group is done; it shows all of them and their rate."""
        counted = self._first

        def count(more: int, beside: int = 0) -> None:
            nonlocal counted
            counted += more
            done = counted + beside
            rate = (done - self._first) / max(time.monotonic() - self._started, 1e-9)
            self.update(done, f"{done:,}/{self._total:,} {things}  {rate:,.0f} {things}/s")

        return count

    def print(self, text: str) -> None:
        """Prints a line that stays, above the live one."""
        self._console.print(printable(text, lines=True), markup=False, highlight=False, soft_wrap=True)


def draw_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Returns a table as text, at most `width` columns wide: long cells are wrapped."""
    table = Table(*map(escape, head), box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(width=width, color_system=None, highlight=False)
    with console.capture() as text:
        console.print(table)
    return "\n".join(line.rstrip() for line in text.get().strip("\n").splitlines())


def print_notice(text: str) -> None:
    """Prints a line on standard error, from one process a machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Console(stderr=True).print(printable(text, lines=True), markup=False, highlight=False, soft_wrap=True)
