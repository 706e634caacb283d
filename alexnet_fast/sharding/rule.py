"""The rule by which a file becomes a picture, where there are several ways; a shard set's manifest holds it."""

from __future__ import annotations

from dataclasses import dataclass

WHITE = "#ffffff"


@dataclass(frozen=True)
class Rule:
    """`orient`: turn an image as its EXIF orientation says, which torchvision ignores for ImageNet. `background`:
    #rrggbb, what is seen through transparent pixels."""

    orient: bool = False
    background: str = WHITE


DEFAULT = Rule()


def hex_colour(name: str) -> str:
    """Returns a colour, `white` or `#fff`, say, as `#rrggbb`. Raises ValueError where it is none."""
    from PIL import ImageColor

    levels = ImageColor.getrgb(name)
    if len(levels) != 3:
        raise ValueError(f"{name!r} is not opaque")
    return "#" + bytes(levels).hex()
