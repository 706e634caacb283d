"""Sample images for the demo: printed cut-outs over soft backgrounds with confetti.

A class is a colour, a texture and a shape, by its name: `red_striped_disc`. Every class has at least two others that
differ from it in only one of the three, and predictions from two of the three are right at most 70 % of the time.
Neither a flip nor a small shift of RGB changes the class.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from alexnet_fast.random import Generator, drawn_image

Array = NDArray[np.float64]
Rgb = tuple[int, int, int]
Wave = Callable[[Array, Array], Array]

CLASSES = (  # sorted: the place of a class is its label
    "blue_ringed_heart",
    "blue_ringed_star",
    "blue_striped_star",
    "gold_dotted_disc",
    "gold_dotted_heart",
    "gold_ringed_heart",
    "gold_ringed_star",
    "red_dotted_disc",
    "red_striped_disc",
    "red_striped_star",
)
HUES = {"blue": 214.0, "gold": 43.0, "red": 355.0}  # degrees
TEXTURES: dict[
    str, Callable[[Array, Array], Array]
] = {  # over a shape's own coordinates, as phases: marked where positive
    "dotted": lambda u, v: np.cos(u) + np.cos(v) - 0.9,
    "ringed": lambda u, v: np.sin(np.hypot(u, v)),
    "striped": lambda u, v: np.sin(u),
}
TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)
STAR = np.tile([1, 0.45], 5)  # tips and notches
OUTLINES: dict[str, Array] = {  # polygons within about a unit circle: x to the right, y down
    "disc": 0.9 * np.stack([np.sin(TURN), np.cos(TURN)], 1),
    "heart": np.stack([np.sin(TURN) ** 3, np.cos(np.outer(TURN, range(5))) @ [-2, -13, 5, 2, 1] / 16], 1),
    "star": np.stack([STAR * np.sin(TURN[::6]), -STAR * np.cos(TURN[::6])], 1),
}
OVERSAMPLING = 2  # drawn this many times larger, then averaged


def draw_samples(
    out: Path, *, train_per_class: int = 200, val_per_class: int = 40, size: int = 112, seed: int = 0
) -> None:
    """Draws JPEG images of ten classes under out/train/<class>/ and out/val/<class>/.

    Width and height are `size` to 1.3 `size` pixels. Image k of a class depends on `seed`, `size`, the split,
    the class and k alone, so a larger set begins with the smaller one.
    """
    for split, (folder, count) in enumerate((("train", train_per_class), ("val", val_per_class))):
        for label, name in enumerate(CLASSES):
            (out / folder / name).mkdir(parents=True, exist_ok=True)
            for k in range(count):
                image = draw_sample(name, size, drawn_image(seed, split, label, k))
                image.save(out / folder / name / f"{k:04d}.jpg", quality=92)


def draw_sample(name: str, size: int, rng: Generator) -> Image.Image:
    """One RGB image of the class `name`, width and height `size` to 1.3 `size` pixels."""
    colour, texture, shape = name.split("_")
    width, height = (OVERSAMPLING * rng.integers(size, int(1.3 * size) + 1, 2)).tolist()
    side = min(width, height)
    canvas = _background(width, height, rng)
    _scatter_confetti(canvas, rng)

    radius = side * rng.uniform(0.22, 0.36)
    slack = 0.5 * side - radius  # keeps the shape inside the central square, which is what training sees
    centre = np.rint(np.array([width, height]) / 2 + rng.uniform(-slack, slack, 2)).astype(int)
    axes = radius * _random_axes(rng)
    points = OUTLINES[shape] @ axes
    _cast_shadow(canvas, centre + points + radius * rng.uniform([-0.12, 0.05], [0.12, 0.2]))

    half = int(1.2 * radius)
    cloth = _cloth(half, np.linalg.inv(axes), TEXTURES[texture], HUES[colour], rng)
    left, top = (centre - half).tolist()
    canvas.paste(cloth, (left, top), _mask(cloth.size, half + points))
    return _expose(canvas.reduce(OVERSAMPLING), rng)


def _background(width: int, height: int, rng: Generator) -> Image.Image:
    """A smooth mesh of nine colours, light or dark."""
    hue, value = rng.uniform(0, 360), rng.uniform(0.5, 1)
    mesh = [_rgb(rng.normal(hue, 40), rng.uniform(0.15, 0.65), rng.uniform(0.8, 1) * value) for _ in range(9)]
    return _gradient(mesh, 3, (width, height))


def _scatter_confetti(canvas: Image.Image, rng: Generator) -> None:
    """Small plain shapes, half transparent, of any colour: misleading clues."""
    brush, outlines = ImageDraw.Draw(canvas, "RGBA"), list(OUTLINES.values())
    for _ in range(rng.integers(6, 18)):
        scale = min(canvas.size) * rng.uniform(0.03, 0.15)
        points = outlines[rng.integers(3)] @ _random_axes(rng) * scale + rng.uniform(0, canvas.size)
        colour = _rgb(rng.uniform(0, 360), rng.uniform(0.2, 0.85), rng.uniform(0.6, 1))
        brush.polygon(points.ravel().tolist(), fill=(*colour, int(rng.integers(90, 230))))


def _cast_shadow(canvas: Image.Image, points: Array, blur: int = 8) -> None:
    """The soft shadow of a polygon: drawn `blur` times smaller, then enlarged."""
    small = _mask((canvas.width // blur, canvas.height // blur), points / blur, opacity=110)
    canvas.paste((10, 10, 30), mask=small.resize(canvas.size, Image.Resampling.BILINEAR))


def _cloth(half: int, to_shape: Array, wave: Wave, hue: float, rng: Generator) -> Image.Image:
    """A square of cloth, 2 `half` pixels wide: full colour on pale or dark or the reverse, lit from above."""
    x = np.arange(-half, half)
    frequency = 2 * np.pi / rng.uniform(0.45, 0.6)  # radians per unit of the shape
    u, v = (frequency * (a * x + b * x[:, None]) + rng.uniform(-np.pi, np.pi) for a, b in to_shape.T)
    marks = 255 * np.clip(0.5 + rng.choice([-2, 2]) * wave(u, v), 0, 1)

    hue, saturation, value = hue + rng.normal(0, 5), rng.uniform(0.8, 0.95), rng.uniform(0.85, 1)
    inks = (0.1, 1.0) if rng.random() < 0.65 else (0.95, 0.45)
    plain, inked = (
        _gradient([_rgb(hue, s, v), _rgb(hue, s, 0.75 * v)], 2, (2 * half, 2 * half))
        for s, v in ((saturation, value), inks)
    )
    return Image.composite(inked, plain, Image.fromarray(marks.astype(np.uint8)))


def _expose(image: Image.Image, rng: Generator) -> Image.Image:
    """The image with another brightness and a sensor's noise."""
    noise = rng.uniform(0, 5) * rng.standard_normal((image.height, image.width, 1), np.float32)
    pixels = rng.uniform(0.8, 1.1) * np.asarray(image, np.float32) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _random_axes(rng: Generator) -> Array:
    """Where a shape's x and y axes go, a row each: turned by up to 40 degrees, squeezed by up to 15 %."""
    angle = np.deg2rad(rng.uniform(-40, 40))
    cos, sin = np.cos(angle), np.sin(angle)
    rotation: Array = np.array([[cos, sin], [-sin, cos]])
    return rng.uniform(0.85, 1, (2, 1)) * rotation


def _mask(size: tuple[int, int], points: Array, opacity: int = 255) -> Image.Image:
    """A polygon filled with an opacity of 0 to 255."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(points.ravel().tolist(), fill=opacity)
    return mask


def _gradient(colours: list[Rgb], rows: int, size: tuple[int, int]) -> Image.Image:
    """A smooth gradient through `rows` rows of colours; `size` is width, height in pixels."""
    pixels = np.array(colours, np.uint8).reshape(rows, -1, 3)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _rgb(hue: float, saturation: float, value: float) -> Rgb:
    """A colour from its hue in degrees and its saturation and value of 0 to 1."""
    r, g, b = (round(255 * c) for c in colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value))
    return r, g, b
