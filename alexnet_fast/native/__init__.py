"""The compiled C: JPEG decoding, crops and resizing of the loader and of sharding, and LRN.

One library, built when the package is installed; this is the only place that loads it and knows its functions'
arguments. It holds each kernel for several kinds of processor; the newest that this processor runs is used. JPEGs are
decoded by the libjpeg-turbo that Pillow is linked with; `decoder()` returns how:

huffman   its coefficients by huffman.c, in the place of libjpeg's own function
libjpeg   all by libjpeg
none      not here: DALI decodes when loading, simplejpeg and Pillow when sharding

libjpeg's function is only replaced where its private structures are what abi.h states, which is tested when the library
is loaded. ALEXNET_FAST_NATIVE=huffman|libjpeg|none is the best that may be used; `none` turns off all compiled code.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet_fast.console import print_notice
from alexnet_fast.errors import InputError

__all__ = ["Kernels", "Native", "can_be_read", "decoder", "description", "find_openmp", "kernels", "load", "loaded"]

VARIABLE = "ALEXNET_FAST_NATIVE"
DECODERS = ("huffman", "libjpeg", "none")
FILE = Path(__file__).with_name("_native.abi3.so")
TEST_IMAGE = Path(__file__).with_name("test-image.jpg")
"""A baseline JPEG of 80 x 48 pixels, colour at half the resolution, a restart every 3 MCUs."""
TEST_PIXELS = "c4cd9cf8aa392332485d729171fb0de240dc2c6c3eb1b4e9a3d912158af13de5"
"""SHA-256 of what `_test_pixels` returns. Every libjpeg-turbo decodes it alike; jpegli does not, and sharding with it
would store other pixels."""
VARIANTS = {"plain": "plain", "x86-64-v3": "v3", "x86-64-v4": "v4"}
"""Of the kernels, by the instructions they need (kernels.c); each processor that runs one runs those before it."""

_pointer, _number, _real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
_axes = (_pointer, _pointer, _number, _number) * 2
_lrn = (_pointer, _pointer, ctypes.c_long, _number, _number, _real, _real, _number)


class Kernels:
    """The compiled functions for one kind of processor. Their C files say what each does; arrays go by address."""

    crops: Callable[..., int]
    middle: Callable[..., int]
    jpeg_middle: Callable[..., int]
    pixel_sums: Callable[..., None]
    forward_float: Callable[..., None]
    forward_bf16: Callable[..., None]
    backward_float: Callable[..., None]
    backward_bf16: Callable[..., None]

    ARGUMENTS = {  # noqa: RUF012
        "crops": (_number, *[_pointer] * 4, _number, _pointer, _number, _number, *[_pointer] * 2),
        "middle": (_pointer, *[_number] * 4, _pointer, *_axes),
        "jpeg_middle": (ctypes.c_char_p, ctypes.c_long, *[_number] * 5, _pointer, *_axes),
        "pixel_sums": (_pointer, _number, _number, _number, _pointer, _pointer),
        "forward_float": _lrn,
        "forward_bf16": _lrn,
        "backward_float": (*_lrn, _pointer),
        "backward_bf16": (*_lrn, _pointer),
    }

    def __init__(self, library: ctypes.CDLL, variant: str) -> None:
        self.variant = variant
        for name, arguments in self.ARGUMENTS.items():
            function = getattr(library, f"{name}_{VARIANTS[variant]}")
            function.argtypes = arguments
            setattr(self, name, function)


@dataclass(frozen=True)
class Native:
    """What was loaded. `libjpeg`: the file of the one in use. `reason`: why no better `decoder` is used, or empty."""

    library: ctypes.CDLL | None
    kernels: Kernels | None
    decoder: str
    libjpeg: str = ""
    reason: str = ""


def best_allowed() -> str:
    """The best of DECODERS that ALEXNET_FAST_NATIVE allows. Raises InputError where it is malformed."""
    wanted = os.environ.get(VARIABLE) or DECODERS[0]
    if wanted not in DECODERS:
        raise InputError(f"{VARIABLE}={wanted} is none of {', '.join(DECODERS)}. Give one of these, or leave it out.")
    return wanted


@cache
def loaded() -> Native:
    """The package's own library with Pillow's libjpeg. Raises InputError where ALEXNET_FAST_NATIVE is malformed."""
    wanted = best_allowed()
    if wanted == "none":
        return Native(None, None, "none", reason=f"{VARIABLE}=none")
    if not FILE.exists():
        if parent_process() is None:
            print_notice(
                "alexnet-fast was installed without a C compiler: DALI decodes JPEGs, and the CPU is slower. "
                "Install gcc, then alexnet-fast again."
            )
        return Native(None, None, "none", reason="it was installed without a C compiler")
    from PIL import _imaging

    return load(FILE, Path(_imaging.__file__), wanted)


def load(file: Path, linked: Path, wanted: str = "huffman", variant: str | None = None) -> Native:
    """Loads the library `file`, with the libjpeg that `linked` is linked with or is. `wanted`: the most that may be
    used of DECODERS; `variant`: of the kernels, by default this processor's newest."""
    try:
        library = ctypes.CDLL(str(file))
        for name in ("open_libjpeg", "libjpeg_file", "replace_decoder"):
            getattr(library, name).restype = ctypes.c_char_p
        library.replace_decoder.argtypes = (ctypes.c_char_p, ctypes.c_long)
        library.can_be_read.argtypes = (_number, _pointer, _pointer, _pointer)
        library.header_of.argtypes = (ctypes.c_char_p, ctypes.c_long, _pointer)
        kernels = Kernels(library, variant or variants(library)[-1])
    except (OSError, AttributeError) as error:  # AttributeError: built of other sources, it lacks a function
        return Native(None, None, "none", reason=f"the compiled library cannot be loaded ({error})")
    if refusal := library.open_libjpeg(str(linked).encode()):
        return Native(library, kernels, "none", reason=f"Pillow's libjpeg is not used: {refusal.decode()}")
    libjpeg = library.libjpeg_file().decode()
    image = TEST_IMAGE.read_bytes()
    plain = _test_pixels(kernels, image)
    if plain is None or hashlib.sha256(plain.tobytes()).hexdigest() != TEST_PIXELS:
        wrong = "does not decode the test image"
        if plain is not None:
            wrong = "decodes the test image otherwise than libjpeg-turbo"
        return Native(library, kernels, "none", libjpeg, f"libjpeg {wrong}")
    if wanted == "libjpeg":
        return Native(library, kernels, "libjpeg", libjpeg, f"{VARIABLE}=libjpeg")
    if refusal := library.replace_decoder(image, len(image)):
        return Native(library, kernels, "libjpeg", libjpeg, refusal.decode())
    pixels = _test_pixels(kernels, image)
    if pixels is None or not np.array_equal(pixels, plain):
        library.keep_decoder()
        return Native(library, kernels, "libjpeg", libjpeg, "huffman.c decodes the test image to other pixels")
    return Native(library, kernels, "huffman", libjpeg)


def variants(library: ctypes.CDLL) -> list[str]:
    """The VARIANTS of the kernels that this processor runs."""
    return list(VARIANTS)[: library.newest_variant() + 1]


def _test_pixels(kernels: Kernels, image: bytes) -> NDArray[np.uint8] | None:
    """The central 48 x 48 of TEST_IMAGE, or None where it does not decode."""
    data = np.frombuffer(image, np.uint8)
    places, sizes = np.array([data.ctypes.data], np.uintp), np.array([len(data)], np.int64)
    frame, box = np.array([80, 80], np.int32), np.array([0, 16, 48, 48], np.int32)
    offset, pixels = np.zeros(3, np.float32), np.zeros((48, 48, 3), np.uint8)
    arrays = (*(array.ctypes.data for array in (places, sizes, frame, box)), 1, offset.ctypes.data, 48, 0)
    failed = kernels.crops(1, *arrays, pixels.ctypes.data, ctypes.create_string_buffer(200))
    return pixels if failed < 0 else None


def kernels() -> Kernels | None:
    """The compiled functions for this processor, or None where there are none."""
    return loaded().kernels


def decoder() -> str:
    """How JPEGs are decoded by the compiled code, see above: huffman, libjpeg or none."""
    return loaded().decoder


def can_be_read(stored: list[NDArray[np.uint8]]) -> NDArray[np.bool_]:
    """Which of these pieces of mapped files can be read; they are in memory then. To touch one that cannot, where the
    disk fails or the file was cut off, kills (SIGBUS). All count as readable where nothing was compiled."""
    readable = np.ones(len(stored), np.uint8)
    if library := loaded().library:
        places = np.array([item.ctypes.data for item in stored], np.uintp)
        sizes = np.array([item.size for item in stored], np.int64)
        library.can_be_read(len(stored), places.ctypes.data, sizes.ctypes.data, readable.ctypes.data)
    return readable.astype(bool)


def find_openmp() -> bool:
    """Whether LRN's kernels can be called: torch must be imported, which brings the threads they run on."""
    library = loaded().library
    return library is not None and _finds_openmp(library)


@cache
def _finds_openmp(library: ctypes.CDLL) -> bool:
    return bool(library.find_openmp())


def description() -> dict[str, str | None]:
    """For records: the decoder, libjpeg's version and file, the kernels' instructions, why nothing better is used."""
    from PIL import features

    found, version = loaded(), features.version("libjpeg_turbo")
    name = f"libjpeg-turbo {version}" if version else "libjpeg"
    return {
        "native": found.decoder,
        "libjpeg": f"{name}, {Path(found.libjpeg).name}" if found.libjpeg else None,
        "instructions": found.kernels.variant if found.kernels else None,
        "native_reason": found.reason or None,
    }
