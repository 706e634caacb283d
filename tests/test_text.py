"""Text for terminals."""

import pytest

from alexnet_fast.text import printable


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


def test_a_text_of_several_lines_keeps_them() -> None:
    assert printable("two\n\tlines\r\x1b", lines=True) == "two\n\tlines\\r\\x1b"
