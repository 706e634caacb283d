"""Damages a whole file, at random: blindly, or so that it keeps its form with something in it that cannot be.

Plain draws from a seeded `Random`: hypothesis' strategies took 5 ms of CPU a file, five times what reading takes.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
"""What lengths, offsets and counts are overwritten with."""
PATHS = (
    "../outside",
    "/tmp/outside",
    "a/../../outside",
    "..",
    ".",
    "",
    "a\0b",
    "CON",
    "a" * 300,
    "\udce9",
    "雪",
    "-rf",
)
"""Names of files that lead out of a folder, or that some system does not take."""
LETTERS = "aZ09 _-.,:;/\\\"'<>&\n\t\0é雪\u202e\ud800😀"
DEEP = "@deep@"
"""Stands for lists in lists."""
FLOATS = (1e308, 5e-324, float("nan"), float("inf"), -0.5)
ODD: tuple[Any, ...] = (*NUMBERS, -1, 10**400, *FLOATS, DEEP, *PATHS, None, True, [], {})
"""In place of any value of a JSON."""


def damaged(data: bytes, form: str, random: Random) -> bytes:
    """`form`: one of FORMS, of which half of the files then are; any other is damaged blindly. One in 16 is noise."""
    if form in FORMS and random.random() < 0.5:
        return FORMS[form](data, random)
    return random.randbytes(random.randrange(2000)) if random.random() < 1 / 16 else cut_up(data, random)


def cut_up(data: bytes, random: Random) -> bytes:
    """One to four changes: bits, numbers, bytes left out, put in, doubled or moved; an end that is missing."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(out))
        end = min(at + random.randint(1, 64), len(out))
        match random.choice("bnnleidmt"):
            case "b" if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case "n":
                width = random.choice((1, 2, 4, 8))
                number = random.choice(NUMBERS) % 256**width
                out[at : at + width] = number.to_bytes(width, random.choice(("little", "big")))
            case "l":
                del out[at:end]
            case "e":
                out[at:end] = random.randbytes(end - at)
            case "i":
                out[at:at] = random.randbytes(random.randrange(64))
            case "d":
                out[at:at] = out[at:end] * random.randint(1, 40)
            case "m":
                to = random.randint(0, len(out))
                out[to:to] = out[at:end]
            case "t":
                del out[at:]
    return bytes(out)


def text(random: Random) -> str:
    return "".join(random.choices(LETTERS, k=random.randrange(20)))


def json_value(random: Random, depth: int = 3) -> Any:
    kind = random.randrange(8 if depth else 6)
    if kind < 4:
        return random.choice(ODD)
    if kind < 6:
        return random.choice((text(random), random.gauss(0, 10), random.randrange(-9, 9)))
    parts = [json_value(random, depth - 1) for _ in range(random.randrange(4))]
    return parts if kind == 6 else {text(random): part for part in parts}


def other_json(data: bytes, random: Random) -> bytes:
    """The same JSON with one to three values replaced, left out, doubled or under another name."""
    body = json.loads(data)
    for _ in range(random.randint(1, 3)):
        body = _change(body, random)
    depth = random.choice((10, 1000, 100_000))
    return json.dumps(body).replace(f'"{DEEP}"', "[" * depth + "]" * depth).encode()


def _change(body: Any, random: Random) -> Any:
    if not isinstance(body, dict | list) or not body or random.randrange(8) == 0:
        return json_value(random)
    key = random.choice(sorted(body) if isinstance(body, dict) else range(len(body)))
    match random.randrange(10):
        case 0:
            del body[key]
        case 1 if isinstance(body, dict):
            body[text(random)] = body.pop(key)
        case 2 if isinstance(body, list):
            body.append(copy.deepcopy(body[key]))
        case _:
            body[key] = _change(body[key], random)
    return body


def other_lines(data: bytes, random: Random, change: Callable[[bytes, Random], bytes] | None = None) -> bytes:
    """A text with lines replaced, swapped, doubled or left out, and fields of them; `change`: how a line changes."""
    lines = data.split(b"\n")
    odd = (
        b"9" * 5000,
        b'"' + b"a" * 200_000,
        b"\xff\xfe",
        b"\0",
        b",,,",
        b" ",
        text(random).encode("utf-8", "replace"),
    )
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(lines))
        match random.randrange(7):
            case 0 if len(lines) > 1:
                del lines[at]
            case 1:
                lines.insert(random.randint(0, len(lines)), lines[at])
            case 2 | 3:
                lines[at] = random.choice(odd)
            case _ if change and lines[at][:1] == b"{":
                lines[at] = change(lines[at], random)
            case _:
                fields = lines[at].split(random.choice((b",", b" ", b"\t")))
                number = random.choice(NUMBERS) * random.choice((1, -1))
                fields[random.randrange(len(fields))] = str(number).encode()
                lines[at] = random.choice((b" ", b",", b"\t")).join(fields)
    return b"\n".join(lines)


def other_json_lines(data: bytes, random: Random) -> bytes:
    try:
        return other_lines(data, random, other_json)
    except (ValueError, RecursionError):  # of a line that was changed before
        return cut_up(data, random)


def other_npy(data: bytes, random: Random) -> bytes:
    """The same bytes under a header that says something else."""
    start = 10 + int.from_bytes(data[8:10], "little")
    own = data[10:start].partition(b"'descr': ")[2].partition(b", 'fortran")[0].decode()
    kinds = ("'<f4'", "'|O'", "'<U99999999'", "[('a', '<u4', (2147483647,))]", "'|V0'", "1", "'nonsense'")
    kind = random.choice((own, random.choice(kinds)))
    sizes = random.choices((*NUMBERS, -1, 2, 3, "'a'", "10**30"), k=random.choice((1, 1, 1, 0, 2, 34)))
    shape = "".join(f"{size}, " for size in sizes)
    header = f"{{'descr': {kind}, 'fortran_order': {random.random() < 0.5}, 'shape': ({shape})}}".encode()
    version = random.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = struct.pack("<H" if version[0] == 1 else "<I", random.choice((len(header), len(header), 0, 65535)))
    return b"\x93NUMPY" + bytes(version) + length + header + data[start:]


def other_tar(data: bytes, random: Random) -> bytes:
    """The same members, some with another name, kind, size or place; every header's sum is right."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(info, _content(tar, info)) for info in tar]
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(members))
        info, content = copy.copy(members[at][0]), members[at][1]
        match random.randrange(8):
            case 0:
                info.name = random.choice(PATHS) + random.choice(("", ".jpg", ".cls", ".tar", "/x.jpg"))
            case 1:
                info.type = random.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"K", b"S", b"x", b"g"))
            case 2:
                info.linkname = random.choice(PATHS)
                info.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE))
            case 3:
                info.size = random.choice(NUMBERS) % 2**63
            case 4:
                content = random.choice((b"", b"9" * 30, b"-1", b"99999999", b"-9", b"a", b"1 2", content * 2))
                info.size = len(content)
            case 5:
                key = random.choice(("path", "size", "GNU.sparse.map", "GNU.sparse.size", "linkpath", "hdrcharset"))
                info.pax_headers = {key: random.choice(("../outside", "-1", "9" * 20, "0,1,2", "a", str(2**62)))}
            case 6:
                members.insert(random.randint(0, len(members)), members[at])
            case 7:
                members[at] = random.choice(members)
                continue
        members[at] = (info, content)
    out = bytearray()
    for info, content in members:
        header = info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        out += header + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    return bytes(out) + bytes(1024)


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    return file.read() if file else b""


def other_zip(data: bytes, random: Random) -> bytes:
    """The same members, one damaged or left out; every crc is right, so that what is inside is read."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    name = random.choice(sorted(members))
    content = members.pop(name)
    if random.randrange(10):
        members[random.choice((name, name, name, "../outside", f"{name}/../x"))] = cut_up(content, random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return out.getvalue()


def other_safetensors(data: bytes, random: Random) -> bytes:
    """The same bytes under a header that says something else, in it or in the JSON texts that it holds."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    texts = header["__metadata__"]
    if random.random() < 0.5:
        key = random.choice(sorted(texts))
        texts[key] = other_json(texts[key].encode(), random).decode()
        changed = json.dumps(header).encode()
    else:
        changed = other_json(data[8:end], random)
    return len(changed).to_bytes(8, "little") + changed + data[end:]


FORMS: dict[str, Callable[[bytes, Random], bytes]] = {
    "json": other_json,
    "json lines": other_json_lines,
    "text": other_lines,
    "npy": other_npy,
    "tar": other_tar,
    "zip": other_zip,
    "safetensors": other_safetensors,
}
