"""Text for terminals."""

import time

import pytest

from alexnet_fast.text import local_time, now, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a name, café, 犬", "a name, café, 犬"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("bell\x07 back\x08 \x7f \x9b31m", "bell\\x07 back\\x08 \\x7f \\x9b31m"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("caf\udce9", "caf\ufffd"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_times_are_shown_in_the_time_zone_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """East of Greenwich by 5 h 30 min, as POSIX writes it."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XXX-5:30")
        time.tzset()
        assert local_time("2026-11-30T21:44:25+00:00") == "2026-12-01 03:14"
        assert local_time(now())
    time.tzset()
    for wrong in ("", "2026-13-01", None, 3, ["x"]):
        assert local_time(wrong) == ""


def test_a_text_of_several_lines_keeps_them() -> None:
    assert printable("two\n\tlines\r\x1b", lines=True) == "two\n\tlines\\r\\x1b"
