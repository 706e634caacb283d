"""Members of tars and of the tars in them; cut and damaged ones are refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import TRAIN, Photos, tar, write_files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_and_of_the_tar_in_it(form: int, tmp_path: Path) -> None:
    inner = {
        "b.jpg": b"b" * 700,
        f"{'d' * 80}/{'l' * 90}.jpg": b"long",
        ".hidden.jpg": b"h",
        "x/._a.jpg": b"mac",
        "a.jpg": b"",
    }
    path = tmp_path / "outer.tar"
    path.write_bytes(tar({"first.txt": b"1", "inner.tar": tar(inner, form)}, form))
    first, outer = archives.members(path)
    found = list(archives.members(path, outer))
    data = path.read_bytes()
    assert (first.name, outer.name) == ("first.txt", "inner.tar")
    assert [member.name for member in found] == ["b.jpg", f"{'l' * 90}.jpg", "a.jpg"]
    assert [data[m.offset : m.offset + m.size] for m in found] == [b"b" * 700, b"long", b""]


def test_links_folders_and_devices_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"n{kind.decode()}")
            info.type = kind
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("real"))
    assert [member.name for member in archives.members(tmp_path / "a.tar")] == ["real"]


CUT = "{src}/fall11_whole.tar is truncated. Copy or download it again."


def test_archives_cut_anywhere_are_refused(tmp_path: Path, photos: Photos) -> None:
    whole = tar({"n01440764.tar": tar({"a.JPEG": photos[TRAIN[0]]})})
    ends_at = 512 + len(tar({"a.JPEG": photos[TRAIN[0]]}))
    for length in [513, 1000, 1024, 2000, ends_at - 1, ends_at, ends_at + 1, ends_at + 511]:
        write_files(tmp_path, {"fall11_whole.tar": whole[:length]})
        with pytest.raises(InputError) as error:
            find_images(tmp_path)
        assert str(error.value) == CUT.format(src=tmp_path)
    assert len(find_images(write_files(tmp_path, {"fall11_whole.tar": whole})).splits["train"]) == 1


def test_an_inner_tar_cut_anywhere_is_refused(tmp_path: Path, photos: Photos) -> None:
    inner = tar({"a.JPEG": photos[TRAIN[0]], "b.JPEG": photos[TRAIN[1]]})
    used = len(inner.rstrip(b"\0"))
    used += -used % 512
    for length in [300, 512, 700, 1024, used - 600, used - 1, used, used + 100]:
        broken = {"n01440764.tar": tar({"a.JPEG": b"fine"}), "n01484850.tar": inner[:length], "n02085620.tar": inner}
        write_files(tmp_path, {"fall11_whole.tar": tar(broken)})
        with pytest.raises(InputError) as error:
            find_images(tmp_path)
        what = "not a tar archive" if length < 512 else "truncated"
        assert str(error.value).startswith(f"n01484850.tar in {tmp_path}/fall11_whole.tar is {what}.")


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar({"a.JPEG": b"a" * 100, "b.JPEG": b"b" * 100, "c.JPEG": b"c" * 100}))
    data[1024:1030] = b"x" * 6
    write_files(tmp_path, {"n01440764.tar": bytes(data)})
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    assert str(error.value) == f"{tmp_path}/n01440764.tar is damaged at byte 1,024. Copy or download it again."
