"""What people's folders and tars are taken for: splits, classes, what is looked through, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding import archives
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.summary import describe
from tests.sharding.sources.layouts import contents, tar, write_files


def make(root: Path, *paths: str) -> Path:
    return write_files(root, {path: path.encode() for path in paths})


def counts(source: Source) -> dict[str, dict[str, int]]:
    return {
        split: {name: int((images.labels == label).sum()) for label, name in enumerate(source.classes)}
        for split, images in source.splits.items()
    }


CAT_AND_DOG = {"cat": 1, "dog": 1}


def pair(*folders: str) -> list[str]:
    return [f"{folder}{name}/1.jpg" for folder in folders for name in CAT_AND_DOG]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("training", "validation", "testing"),
        ("Train", "Val", "Test"),
        ("TRAIN", "dev", "TEST"),
        ("train2017", "val2017", "test2017"),
        ("training_set", "validation_set", "test_set"),
        ("train_images", "val_images", "test_images"),
    ],
)
def test_known_names_of_splits(train: str, val: str, test: str, tmp_path: Path) -> None:
    source = find_images(make(tmp_path, *pair(f"{train}/", f"{val}/", f"{test}/")))
    assert counts(source) == {"train": CAT_AND_DOG, "val": CAT_AND_DOG, "test": CAT_AND_DOG}
    assert not any(note.startswith("looked through") for note in source.notes)


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (pair("set/"), ["looked through to set/"]),
        (pair("a/b/c/"), ["looked through to a/b/c/"]),
        ([*pair("set/"), "README.md", "set.zip", "__MACOSX/._set", ".DS_Store"], ["looked through to set/"]),
        (pair("images/"), ["looked through to images/"]),
        ([*pair("images/"), "parts/parts.txt"], ["looked through to images/", "folders that were passed over: parts"]),
        (pair("x/train/train/"), ["looked through to x/", "looked through to x/train/train/"]),
        ([f"{name}/images/1.jpg" for name in CAT_AND_DOG], []),
        ([f"set/{name}/images/1.jpg" for name in CAT_AND_DOG], ["looked through to set/"]),
    ],
)
def test_what_is_looked_through(files: list[str], note: list[str], tmp_path: Path) -> None:
    source = find_images(make(tmp_path, *files))
    assert counts(source) == {"train": CAT_AND_DOG}
    assert source.notes == note
    assert {image.key for image in source.splits["train"]} == {"cat/1", "dog/1"}


def test_tiny_imagenet(tmp_path: Path) -> None:
    names = ["n01443537", "n01629819"]
    train = [f"tiny/train/{name}/{file}" for name in names for file in (f"images/{name}_0.JPEG", f"{name}_boxes.txt")]
    make(tmp_path, *train, *(f"tiny/val/images/val_{i}.JPEG" for i in range(4)), "tiny/test/images/test_0.JPEG")
    rows = "".join(f"val_{i}.JPEG\t{names[i % 2]}\t0\t32\t44\t62\n" for i in range(4))
    (tmp_path / "tiny" / "val" / "val_annotations.txt").write_text(rows)
    (tmp_path / "tiny" / "words.txt").write_text("n01443537\tgoldfish\n")
    source = find_images(tmp_path)
    assert counts(source) == {
        "train": dict.fromkeys(names, 1),
        "val": dict.fromkeys(names, 2),
        "test": dict.fromkeys(names, 0),
    }
    assert {image.name: image.label for image in source.splits["val"]} == {f"val_{i}.JPEG": i % 2 for i in range(4)}
    assert source.names == {"n01443537": "goldfish"}
    assert source.left_out.counts == {"beside the images": 4}
    assert source.notes == [
        "looked through to tiny/",
        "val: labels from val_annotations.txt: files in column 1, labels in column 2",
    ]


def test_siblings_of_the_splits_are_passed_over_and_named(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, *pair("train/", "val/"), "extra/1.jpg", "extra/2.jpg", "notes/a.txt"))
    assert counts(source) == {"train": CAT_AND_DOG, "val": CAT_AND_DOG}
    assert source.notes == ["folders that were passed over: extra, notes"]
    assert source.left_out.counts == {"beside the images": 3}


TWO_WAYS: list[tuple[list[str], str, dict[str, dict[str, dict[str, int]]]]] = [
    (
        ["bus/1.jpg", "car/1.jpg", "train/1.jpg"],
        "train as classes beside bus, car (--layout classes), or as splits",
        {"classes": {"train": {"bus": 1, "car": 1, "train": 1}}},
    ),
    (
        [*pair(""), *pair("test/")],
        "test as classes beside cat, dog (--layout classes), or as splits",
        {"classes": {"train": {"cat": 1, "dog": 1, "test": 2}}},
    ),
    (
        pair("train/", "val/", "valid/"),
        "val, valid are all names of the split val.",
        {"classes": {"train": {"train": 2, "val": 2, "valid": 2}}},
    ),
    (
        ["animals/cat/1.jpg", "animals/dog/1.jpg", "things/car/1.jpg"],
        "the classes are animals, things, with folders in them (--layout classes); or they are the 3 folders one level",
        {"classes": {"train": {"animals": 2, "things": 1}}},
    ),
    (
        ["train/animals/cat/1.jpg", "train/things/car/1.jpg"],
        "the classes are animals, things, with folders in them (--layout splits); or they are the 2 folders one level",
        {"splits": {"train": {"animals": 1, "things": 1}}},
    ),
    (
        ["animals/cat/1.jpg", "animals/dog/1.jpg", "rose/1.jpg"],
        "animals is a class, whose images lie in its folders cat, dog (--layout classes), or these are the classes (",
        {"classes": {"train": {"animals": 2, "rose": 1}}},
    ),
    (
        pair("trn/", "tst/"),
        "trn, tst are splits, as the same folders lie in each (then call them train, val or test), or classes with f",
        {"classes": {"train": {"trn": 2, "tst": 2}}},
    ),
    (
        ["set/2012/JPEGImages/1.jpg", "set/2012/Annotations/1.xml"],
        "set/2012/JPEGImages/ holds images that are in no class folders (then --labels FILE, a table of file names and",
        {"classes": {"train": {"set": 2}}},
    ),
    (
        ["1.jpg", "more/2.jpg"],
        "it holds 1 images itself, as a class folder does (then give its parent), and the folders more",
        {"classes": {"train": {"more": 1}}},
    ),
    (
        ["images/1.jpg", "masks/1.jpg"],
        "images/ holds images that are in no class folders (then --labels FILE, a table of file names and labels), or",
        {"classes": {"train": {"images": 1, "masks": 1}}},
    ),
]


@pytest.mark.parametrize(("files", "message", "decided"), TWO_WAYS)
def test_two_readings_are_refused_and_layout_decides(
    files: list[str], message: str, decided: dict[str, dict[str, dict[str, int]]], tmp_path: Path
) -> None:
    make(tmp_path, *files)
    with pytest.raises(InputError) as error:
        find_images(tmp_path)
    assert "can be read in two ways: " in str(error.value)
    assert message in str(error.value)
    for layout, expected in decided.items():
        assert counts(find_images(tmp_path, layout)) == expected


def test_splits_beside_class_folders_by_layout(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "val/a/1.jpg", "b/1.jpg")
    for layout in (None, "splits"):
        source = find_images(tmp_path, layout)
        assert counts(source) == {"train": {"a": 1}, "val": {"a": 1}}
        assert source.notes == ["folders that were passed over: b"]
    with pytest.raises(InputError, match="has no folder train/"):
        find_images(make(tmp_path / "none", *pair("")), "splits")


def test_a_train_station_is_a_class(tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "train station/1.jpg", "test tube/1.jpg", "church/1.jpg"))
    assert source.classes == ["church", "test tube", "train station"]


def test_unusual_sets_are_noted(tmp_path: Path) -> None:
    make(tmp_path, "train/0/1.jpg", *(f"train/{n}/1.jpg" for n in (1, 2, 10)), "val/2/1.jpg", "train/3/.keep")
    assert describe(find_images(tmp_path)).notes == [
        "empty folders, no classes: train/3",
        "3 of 4 classes have no image in val: 0, 1, 10",
        "the classes have numbers as names, and are in the order of texts: 0, 1, 10, 2; --classes FILE, a list of "
        "them, gives another order",
    ]
    assert describe(find_images(make(tmp_path / "one", "a/1.jpg"))).notes == [
        "only one class, a: there is nothing to tell it from"
    ]


# --- links


def test_links_to_folders(tmp_path: Path) -> None:
    """Each is followed once a class; those that lead back end."""
    make(tmp_path / "src", "cat/1.jpg", "dog/2.jpg")
    make(tmp_path / "else", "5.jpg", "deep/6.jpg")
    for link, target in (
        ("cat/more", "../../else"),
        ("cat/again", "../../else"),
        ("dog/parent", ".."),
        ("dog/itself", "."),
        ("bird", "../else"),
    ):
        (tmp_path / "src" / link).symlink_to(target)
    (tmp_path / "else" / "deep" / "up").symlink_to("..")
    source = find_images(tmp_path / "src")
    assert [image.path for image in source.splits["train"]] == [
        *("bird/5.jpg", "bird/deep/6.jpg", "cat/1.jpg", "cat/again/5.jpg", "cat/again/deep/6.jpg", "dog/2.jpg"),
    ]
    assert source.left_out.names == {
        "links not followed": [
            *("bird/deep/up", "cat/again/deep/up", "cat/more", "dog/itself", "dog/parent"),
        ]
    }


def linked_tar(path: Path, links: list[tuple[bytes, str, str]], files: dict[str, bytes], last: str = "") -> None:
    """`last`: a file that comes behind the links, as no hard link's target can."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            if name != last:
                archive.addfile(*member(name, data))
        for kind, name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        if last:
            archive.addfile(*member(last, files[last]))


def member(name: str, data: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, io.BytesIO(data)


def test_links_in_tars_are_the_files_that_they_lead_to(tmp_path: Path) -> None:
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    links = [
        (hard, "cat/2.jpg", "cat/1.jpg"),
        (soft, "cat/3.jpg", "1.jpg"),
        (soft, "cat/4.jpg", "../dog/9.jpg"),  # stored later
        (soft, "cat/5.jpg", "3.jpg"),  # a link to a link
        (soft, "cat/a.jpg", "b.jpg"),  # a circle
        (soft, "cat/b.jpg", "a.jpg"),
        (soft, "cat/c.jpg", "/etc/passwd"),
        (soft, "cat/d.jpg", "../../../1.jpg"),
    ]
    linked_tar(tmp_path / "set.tar", links, {"cat/1.jpg": b"one", "dog/9.jpg": b"nine"}, last="dog/9.jpg")
    source = find_images(tmp_path)
    assert contents(source, "train") == {
        **{f"cat/{n}": b"one" for n in (1, 2, 3, 5)},
        "cat/4": b"nine",
        "dog/9": b"nine",
    }
    assert source.left_out.names == {"links not followed": [f"cat/{n}.jpg" for n in "abcd"]}
    assert source.left_out.found == 10
    assert [m.path for m in archives.members(tmp_path / "set.tar")] == [
        *(f"cat/{n}.jpg" for n in range(1, 6)),
        "dog/9.jpg",
    ]


def test_hard_links_of_class_tars_and_of_webdataset(tmp_path: Path) -> None:
    classes, samples = tmp_path / "classes", tmp_path / "samples"
    classes.mkdir()
    samples.mkdir()
    linked_tar(classes / "n00000001.tar", [(tarfile.LNKTYPE, "2.JPEG", "1.JPEG")], {"1.JPEG": b"x"})
    assert contents(find_images(classes), "train") == {"n00000001/1": b"x", "n00000001/2": b"x"}
    linked_tar(
        samples / "train-0.tar",
        [(tarfile.LNKTYPE, "b.jpg", "a.jpg"), (tarfile.SYMTYPE, "b.cls", "a.cls")],
        {"a.jpg": b"x", "a.cls": b"0"},
    )
    assert contents(find_images(samples), "train") == {"0/a": b"x", "0/b": b"x"}


# --- tars of class folders


@pytest.mark.parametrize(
    "tars",
    [
        {"train.tar": "", "val.tar": ""},
        {"train.tar": "train/", "val.tar": "./val/"},
        {"my_train.tar": "data/", "my_valid.tar": "data/"},
        {"set.tar": None},
    ],
)
def test_tars_of_class_folders(tars: dict[str, str | None], tmp_path: Path) -> None:
    for name, inside in tars.items():
        folders = ["Train/", "Val/"] if inside is None else [inside]
        members = {path: path[-9:].encode() for path in ["README.md", *pair(*folders)]}
        (tmp_path / name).write_bytes(tar(members))
    source = find_images(tmp_path)
    assert counts(source) == {"train": CAT_AND_DOG, "val": CAT_AND_DOG}
    assert contents(source, "val") == {"cat/1": b"cat/1.jpg", "dog/1": b"dog/1.jpg"}
    assert source.left_out.counts == {"beside the images": len(tars)}


def test_classes_in_several_tars_of_a_split(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar").write_bytes(tar({"cat/1.jpg": b"1"}))
    (tmp_path / "train-1.tar").write_bytes(tar({"cat/2.jpg": b"2", "dog/3.jpg": b"3", "__MACOSX/cat/._2.jpg": b"x"}))
    source = find_images(tmp_path)
    assert contents(source, "train") == {"cat/1": b"1", "cat/2": b"2", "dog/3": b"3"}
    assert source.left_out.counts == {"system files": 1}
    assert counts(find_images(tmp_path / "train-1.tar")) == {"train": CAT_AND_DOG}


def test_tars_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("train.tar.gz", "val.tar.gz"):
        (tmp_path / name).write_bytes(gzip.compress(tar({"cat/1.jpg": b"1"})))
    with pytest.raises(InputError, match=r"train\.tar\.gz is compressed with gzip"):
        find_images(tmp_path)


def test_archives_in_a_folder_that_lies_alone(tmp_path: Path) -> None:
    make(tmp_path, ".DS_Store", "a/b/.DS_Store")
    for name in ("train", "val"):
        (tmp_path / "a" / "b" / f"{name}.tar").write_bytes(tar({"cat/1.jpg": b"1", "dog/1.jpg": b"2"}))
    source = find_images(tmp_path)
    assert counts(source) == {"train": CAT_AND_DOG, "val": CAT_AND_DOG}
    assert source.notes == ["looked through to a/b/"]


def test_names_that_are_not_utf8_are_shown_with_a_replacement(tmp_path: Path) -> None:
    make(tmp_path, *pair("train/"))
    try:
        (tmp_path / os.fsdecode(b"no\xff")).mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    (tmp_path / os.fsdecode(b"no\xff") / os.fsdecode(b"\xfe.txt")).touch()
    contents_of = describe(find_images(tmp_path))
    assert contents_of.names == {"beside the images": ["no\ufffd/"]}
    json.dumps(contents_of.as_dict(), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (pair("train/", "valid/"), ["taken for splits: valid/ as val"]),
        (pair("Train/", "validation/", "testing/"), ["taken for splits: validation/ as val, testing/ as test"]),
        (pair("top/training_set/", "top/val2017/"), ["taken for splits: top/training_set/ as train", "looked"]),
        (pair("training/"), ["taken for splits: training/ as train"]),
        (pair("train/", "val/", "test/"), []),
        (pair(""), []),
    ],
)
def test_folders_of_other_names_than_their_splits_are_named(files: list[str], note: list[str], tmp_path: Path) -> None:
    notes = describe(find_images(make(tmp_path, *files))).notes
    assert len(notes) == len(note)
    assert all(any(found.startswith(begin) for found in notes) for begin in note)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["train", "valid"], ["taken for splits: valid.tar as val"]),
        (["images-1", "images-2", "test"], ["taken for splits: images-1.tar and 1 more as train"]),
        (["images-1", "images-2"], []),
        (["train", "val"], []),
    ],
)
@pytest.mark.parametrize("form", ["class folders", "WebDataset"])
def test_tars_of_other_names_than_their_splits_are_named(
    form: str, names: list[str], note: list[str], tmp_path: Path
) -> None:
    folders = {"cat/1.jpg": b"1", "dog/1.jpg": b"2"}
    samples = {"1.jpg": b"1", "1.cls": b"0", "2.jpg": b"2", "2.cls": b"1"}
    packed = tar(folders if form == "class folders" else samples)
    write_files(tmp_path, {f"{name}.tar": packed for name in names})
    assert describe(find_images(tmp_path)).notes == note
