"""A libjpeg whose private structures are not what huffman.c expects is left alone: it decodes by itself, or DALI does.

Each is made here (shim.c), and used in a process of its own: it must not crash."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from alexnet_fast import native
from tests.native import jpegs
from tests.native.libraries import FOLDER, PILLOW, compile_c, fresh, of_changed_sources

pytestmark = pytest.mark.skipif(native.decoder() != "huffman", reason="huffman.c is not in use")

SHIM = Path(__file__).with_name("shim.c")

USE = """if True:
    import ctypes, hashlib, json, sys
    from pathlib import Path
    from unittest.mock import patch
    import numpy as np
    from alexnet_fast import native
    from alexnet_fast.sharding import decode, resize
    from tests.native import jpegs

    library, shim = map(Path, sys.argv[1:3])
    found = native.load(library, shim)

    def crop(data):
        data, pixels, message = jpegs.as_array(data), np.zeros((64, 64, 3), np.uint8), ctypes.create_string_buffer(200)
        place, size = np.array([data.ctypes.data], np.uintp), np.array([len(data)], np.int64)
        frame, box, offset = np.full(2, 64, np.int32), np.array([0, 0, 64, 64], np.int32), np.zeros(3, np.float32)
        arrays = (*(one.ctypes.data for one in (place, size, frame, box)), 1, offset.ctypes.data, 64, 0)
        failed = found.kernels.crops(1, *arrays, pixels.ctypes.data, message)
        return message.value.decode() if failed >= 0 else pixels

    def square(data):
        return resize.jpeg_middle(data, 8, (64, 64), resize.Target((64, 64), (64, 64)))

    def decoded():
        return ctypes.CDLL(str(shim)).calls_of_decoder() if "count" in sys.argv else 0

    results = []
    with patch.object(native, "loaded", lambda: found):
        before = decoded()
        if found.decoder != "none":
            for make in (jpegs.standard, jpegs.optimised, jpegs.progressive, jpegs.no_quantisation_tables,
                         jpegs.zeros_to_the_end):
                results += [crop(make()), square(make())]
        calls = decoded() - before
        results.append(decode.to_square(jpegs.standard(), 64))
    assert "torch" not in sys.modules  # it takes seconds to import
    results = [hashlib.sha256(one).hexdigest() if isinstance(one, np.ndarray) else one for one in results]
    print(json.dumps([found.decoder, found.reason, results, calls]))
"""


def expected() -> list[str | None]:
    """Of the JPEGs above by simplejpeg, as the crop and as the square of the whole image. The fourth is refused."""
    found: list[str | None] = []
    for data in (jpegs.standard(), jpegs.optimised(), jpegs.progressive(), b"", jpegs.zeros_to_the_end()):
        pixels = hashlib.sha256(simplejpeg.decode_jpeg(data, strict=True)).hexdigest() if data else None
        found += [pixels, pixels] if pixels else ["Quantization table 0x00 was not defined", None]
    return found


def used(linked: Path, folder: Path, *, counts: bool = False) -> tuple[str, str, int]:
    """Decoder, reason, and how many MCUs libjpeg decoded itself. Its pixels are compared here."""
    library = folder / "library.so"
    shutil.copy(native.FILE, library)
    line = [sys.executable, "-c", USE, str(library), str(linked), *(["count"] if counts else [])]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    decoder, reason, results, calls = json.loads(done.stdout)
    assert results.pop() == expected()[0]  # by whatever decodes for sharding
    assert results == ([] if decoder == "none" else expected())
    return decoder, reason, calls


def shim(folder: Path, wrong: str, *more: str) -> Path:
    real = f'-DREAL="{native.loaded().libjpeg}"'
    return compile_c([SHIM], folder / "libshim.so", "-O1", f"-I{FOLDER}", real, f"-DWRONG={wrong}", *more)


def test_one_that_is_as_it_should_be_is_used(tmp_path: Path) -> None:
    """Though not Pillow's own: what is refused below is refused for its difference from this. Its decoder is
    replaced indeed: it decodes none of them (the progressive one at its start, by another function)."""
    decoder, reason, calls = used(shim(tmp_path, "ITS_OWN"), tmp_path, counts=True)
    assert (decoder, reason, calls) == ("huffman", "", 0)


PRIVATE = {
    "FORWARDED": "its decoder of coefficients is none of its own functions",
    "NO_ENTROPY": "its decoder of coefficients is not where it should be",
    "UNMAPPED": "its decoder of coefficients is not where it should be",
    "NO_FUNCTION": "its decoder of coefficients is none of its own functions",
    "MOVED_SOURCE": "its source is not where it should be",
    "OTHER_SCAN": "its scan is not described where it should be",
    "MOVED_COMPONENT": "its components and codes are not where they should be",
    "MOVED_CODE": "its components and codes are not where they should be",
}


@pytest.mark.parametrize("wrong", PRIVATE)
def test_another_inside_decodes_by_itself(wrong: str, tmp_path: Path) -> None:
    assert used(shim(tmp_path, wrong), tmp_path)[:2] == ("libjpeg", PRIVATE[wrong])


PUBLIC = {
    "NO_ROWS": "libjpeg does not decode the test image",
    "OTHER_PIXELS": "libjpeg decodes the test image otherwise than libjpeg-turbo",
    "OTHER_VERSION": "Pillow's libjpeg is not used: its structures are not those of libjpeg's ABI 6.2",
}


@pytest.mark.parametrize("wrong", PUBLIC)
def test_another_interface_is_not_used(wrong: str, tmp_path: Path) -> None:
    """Nor one of other pixels, as jpegli's drop-in."""
    assert used(shim(tmp_path, wrong), tmp_path)[:2] == ("none", PUBLIC[wrong])


def test_one_without_libjpeg_turbo_s_functions_is_not_used(tmp_path: Path) -> None:
    """As the IJG's."""
    reason = "Pillow's libjpeg is not used: it lacks functions that libjpeg-turbo has"
    assert used(shim(tmp_path, "ITS_OWN", "-DNO_CROP"), tmp_path)[:2] == ("none", reason)


def test_functions_of_two_libraries_are_not_used(tmp_path: Path) -> None:
    """What the first lacks is found in the second that it is linked with."""
    (tmp_path / "second").mkdir()
    second = shim(tmp_path / "second", "ITS_OWN")
    first = shim(tmp_path, "ITS_OWN", "-DNO_CROP", "-Wl,--no-as-needed", str(second))
    reason = "Pillow's libjpeg is not used: its functions are of several libraries"
    assert used(first, tmp_path)[:2] == ("none", reason)


def test_no_library(tmp_path: Path) -> None:
    reason = "Pillow's libjpeg is not used: it cannot be opened"
    assert used(tmp_path / "none.so", tmp_path)[:2] == ("none", reason)
    (tmp_path / "text.so").write_text("no library")
    assert used(tmp_path / "text.so", tmp_path)[:2] == ("none", reason)


def test_a_decoder_of_ours_that_decodes_otherwise_is_not_used(tmp_path: Path) -> None:
    """By the image that it is tested with."""
    first = "out[0] = scan->dc[component] += value_of(bits, symbol);"
    found = of_changed_sources(tmp_path, "huffman.c", first, f"{first} out[1] = 1;")
    assert (found.decoder, found.reason) == ("libjpeg", "huffman.c decodes the test image to other pixels")


def test_the_test_image_is_what_its_test_needs(tmp_path: Path) -> None:
    """Baseline, 80 x 48, colour at half the resolution, restarts; its blocks are of many kinds."""
    data = native.TEST_IMAGE.read_bytes()
    parts = dict(jpegs.segments(data))
    assert parts[jpegs.SOF][:6] == bytes([8, 0, 48, 0, 80, 3])
    assert parts[jpegs.SOF][7::3] == b"\x22\x11\x11"
    assert parts[0xDD] == b"\0\3"
    pixels = simplejpeg.decode_jpeg(data, strict=True)
    kernels = fresh(tmp_path).kernels
    assert kernels is not None
    found = native._test_pixels(kernels, data)
    assert found is not None
    assert np.array_equal(found, pixels[:, 16:64])
    assert found.std() > 10
    assert PILLOW.exists()
