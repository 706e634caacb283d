"""The files that the interpreters were compared on, made once by Pillow 13.0.0 and simplejpeg 1.9.0.

    python files.py SHARDS ORIGINALS OUT

OUT/jpegs: 200 stored JPEGs of 256 px, spread over a shard set's tars, and 8 of them in each of other forms.
OUT/photographs: 60 photographs as they are, spread over the originals, and 6 of them in each of other forms.
"""

import io
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

FORMS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": "4:4:4"},
    "restarts": {"restart_marker_blocks": 5},
    "optimized": {"optimize": True},
    "quality 100": {"quality": 100, "subsampling": "4:4:4"},
    "quality 2": {"quality": 2},
}


def form(pixels: np.ndarray, name: str) -> bytes:
    image = Image.fromarray(pixels)
    if name in ("4:4:0", "4:1:1"):
        return simplejpeg.encode_jpeg(pixels, 90, colorspace="RGB", colorsubsampling=name.replace(":", ""))
    if name == "grey":
        image = image.convert("L")
    if name == "CMYK":
        image = image.convert("CMYK")
    file = io.BytesIO()
    if name == "RGB":
        image.save(file, "JPEG", quality=90, keep_rgb=True)
    elif name == "cut off":  # a progressive JPEG without its last scans
        image.save(file, "JPEG", quality=90, progressive=True)
        data = file.getvalue()
        return data[: data.rindex(b"\xff\xda")] + b"\xff\xd9"
    elif name == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", **{"quality": 90, **FORMS.get(name, {})})
    return file.getvalue()


def main(shards: Path, originals: Path, out: Path) -> None:
    tars = sorted(shards.glob("*.tar"))
    stored = []
    for path in tars:
        with tarfile.open(path) as tar:
            names = sorted(name for name in tar.getnames() if name.endswith(".jpg"))
            count = -(-200 // len(tars))
            stored += [tar.extractfile(name).read() for name in names[:: len(names) // count][:count]]
    photographs = sorted(originals.rglob("*.JPEG"))
    photographs = [path.read_bytes() for path in photographs[:: len(photographs) // 60][:60]]
    names = [*FORMS, "4:4:0", "4:1:1", "grey", "RGB", "cut off"]
    for folder, images, chosen, more in (("jpegs", stored[:200], 8, ()), ("photographs", photographs, 6, ("CMYK", "png"))):
        files = {"stored" if folder == "jpegs" else "originals": images}
        for name in (*names, *more):
            some = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in images[3 :: len(images) // chosen][:chosen]]
            files[name.replace(":", "")] = [form(pixels, name) for pixels in some]
        for name, contents in files.items():
            (out / folder / name).mkdir(parents=True)
            for i, data in enumerate(contents):
                (out / folder / name / f"{i:03d}.jpg").write_bytes(data)


main(*map(Path, sys.argv[1:]))
