"""Tables of file names and labels: which are found beside flat images, and what --labels takes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.sources import find_images
from tests.sharding.sources.layouts import write_files

NAMES = [f"{number}.jpg" for number in range(6)]
LABELS = ["dog", "cat", "dog", "cat", "dog", "cat"]


def make(root: Path, table: str | None, text: str, folder: str = "images") -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (root / folder / name).write_bytes(name.encode())
    if table:
        (root / table).parent.mkdir(exist_ok=True, parents=True)
        (root / table).write_text(text, encoding="utf-8")
    return root


def labels(source: Source, split: str = "train") -> dict[str, str]:
    return {image.name: source.classes[image.label] for image in source.splits[split]}


def lines(form: str, names: list[str] = NAMES) -> str:
    return "".join(
        form.format(name=name, label=label, stem=name[:-4]) for name, label in zip(names, LABELS, strict=False)
    )


PAIRS = list(zip(NAMES, LABELS, strict=True))
TABLES = {
    "with a header": ("labels.csv", "filename,label\n" + lines("{name},{label}\n")),
    "without": ("labels.csv", lines("{name},{label}\n")),
    "label first": ("labels.csv", "label,file\n" + lines("{label},{name}\n")),
    "in the folder": ("images/labels.csv", lines("{name},{label}\n")),
    "semicolons, CRLF and BOM": ("labels.csv", "\ufefffile;label\r\n" + lines("{name};{label}\r\n")),
    "quoted": ("labels.csv", "file,label\n" + lines('"{name}","{label}"\n')),
    "many columns": ("all.csv", "id,width,breed,height\n" + lines("{stem},3,{label},4\n")),
    "numbers in the others": ("boxes.tsv", lines("{name}\t{label}\t0\t1\t2\n")),
    "paths": ("list.txt", lines("images/{name} {label}\n")),
    "paths of another machine": ("list.txt", lines("/data/set/images/{name} {label}\n")),
    "JSON, an object": ("labels.json", json.dumps(dict(PAIRS))),
    "JSON, pairs": ("dataset.json", json.dumps({"labels": PAIRS})),
    "JSON, objects": ("labels.json", json.dumps([{"image": n, "label": c, "area": 4} for n, c in PAIRS])),
    "JSON lines": ("images/metadata.jsonl", lines('{{"file_name": "{name}", "label": "{label}"}}\n')),
    "rows of other files": ("labels.csv", "file,label\nmissing.jpg,cat\n" + lines("{name},{label}\n")),
}


@pytest.mark.parametrize("form", TABLES)
def test_a_plain_table_is_found(form: str, tmp_path: Path) -> None:
    source = find_images(make(tmp_path, *TABLES[form]))
    assert source.classes == ["cat", "dog"]
    assert labels(source) == dict(PAIRS)
    given = find_images(tmp_path, labels=tmp_path / TABLES[form][0])
    assert labels(given) == dict(PAIRS)
    assert source.left_out.counts == given.left_out.counts == {"beside the images": 1}


@pytest.mark.parametrize("folder", [".", "train", "wrapper/images", "jpg", "2020"])
def test_where_the_images_lie(folder: str, tmp_path: Path) -> None:
    source = find_images(make(tmp_path, "train.csv", lines("{name},{label}\n"), folder))
    assert labels(source) == dict(PAIRS)
    assert list(source.splits) == ["train"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_the_form_of_unicode_does_not_matter(on_disk: Literal["NFC", "NFD"], tmp_path: Path) -> None:
    in_table: Literal["NFC", "NFD"] = "NFD" if on_disk == "NFC" else "NFC"
    names = [normalize(on_disk, f"{number}é.jpg") for number in range(4)]
    classes = ["café", normalize("NFD", "café"), "dog", "dog"]
    rows = zip((normalize(in_table, name) for name in names), classes, strict=True)
    write_files(tmp_path, {f"images/{name}": b"" for name in names})
    (tmp_path / "labels.csv").write_text("".join(f"{name},{label}\n" for name, label in rows))
    source = find_images(tmp_path)
    assert source.classes == [normalize("NFC", "café"), "dog"]
    assert labels(source) == dict(zip(names, [source.classes[0]] * 2 + ["dog"] * 2, strict=True))


def test_labels_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    numbers = "".join(f"{name},{number}\n" for name, number in zip(NAMES, (10, 9, 0, 10, 1, 2), strict=True))
    source = find_images(make(tmp_path, "labels.csv", "file,label\n" + numbers))
    assert source.classes == ["0", "1", "2", "9", "10"]
    assert labels(source)["0.jpg"] == "10"


def test_a_column_of_splits(tmp_path: Path) -> None:
    rows = "".join(f"{n},{c},{s}\n" for (n, c), s in zip(PAIRS, ["train"] * 4 + ["valid", "Test"], strict=True))
    source = find_images(make(tmp_path, "set.csv", "file,label,split\n" + rows))
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert source.notes == [
        "labels from set.csv: files in column file, labels in column label, splits in column split",
        "taken for splits: valid as val",
    ]


def test_splits_by_a_column_or_a_folder(tmp_path: Path) -> None:
    make(tmp_path, "set.csv", "File,Label,Split\n" + lines("{name},{label},\n"), "pool")
    write_files(tmp_path, {"pool/Validation/6.jpg": b""})
    (tmp_path / "set.csv").write_text((tmp_path / "set.csv").read_text() + "6.jpg,cat,\n")
    source = find_images(tmp_path, labels=tmp_path / "set.csv")
    assert {split: len(images) for split, images in source.splits.items()} == {"train": 6, "val": 1}
    assert source.notes[1] == "taken for splits: images of no named split as train, Validation/ as val"


def test_a_column_that_is_called_split(tmp_path: Path) -> None:
    make(tmp_path, "set.csv", "file,label,split\n" + lines("{name},{label},{stem}\n"))
    source = find_images(tmp_path)
    assert list(source.splits) == ["train"]
    assert source.notes[-1] == "column split of set.csv is not used: 0, 1, 2, 3, 4 ... are no names of splits"
    (tmp_path / "set.csv").write_text("file,label,split\n0.jpg,cat,train\n1.jpg,dog,held out\n")
    with pytest.raises(
        InputError, match=r"has in its column split held out beside names of splits\. Call these train, "
    ):
        find_images(tmp_path, labels=tmp_path / "set.csv")


def test_a_table_for_each_split(tmp_path: Path) -> None:
    make(tmp_path, "train.csv", lines("{name},{label}\n"), "train")
    make(tmp_path, "val_labels.csv", lines("{name},cat\n"), "val")
    make(tmp_path, "sample_submission.csv", lines("{name},dog\n"), "test")
    source = find_images(tmp_path)
    assert labels(source) == dict(PAIRS)
    assert labels(source, "val") == dict.fromkeys(NAMES, "cat")
    assert {image.label for image in source.splits["test"]} == {-1}  # what to hand in is no truth


def test_images_that_the_table_lacks(tmp_path: Path) -> None:
    make(tmp_path, "labels.csv", lines("{name},{label}\n", NAMES[:4]))
    with pytest.raises(InputError, match=r"--labels FILE\. .*labels\.csv labels 4 of 6\."):
        find_images(tmp_path)
    source = find_images(tmp_path, labels=tmp_path / "labels.csv")
    assert labels(source) == dict(PAIRS[:4])
    assert source.left_out.names == {
        "beside the images": ["labels.csv"],
        "not in the table": ["images/4.jpg", "images/5.jpg"],
    }


def test_two_tables_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.csv", lines("{name},{label}\n"))
    (tmp_path / "b.csv").write_text(lines("{name},bird\n"))
    with pytest.raises(InputError, match=r"a\.csv and .*b\.csv both label them\."):
        find_images(tmp_path)
    assert labels(find_images(tmp_path, labels=tmp_path / "b.csv")) == dict.fromkeys(NAMES, "bird")


def test_captions_and_boxes_are_no_tables(tmp_path: Path) -> None:
    make(tmp_path, None, "")
    for name in NAMES:
        (tmp_path / "images" / f"{name[:-4]}.txt").write_text(f"{name} cat\n")
    with pytest.raises(InputError, match="holds no class folders"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,a,b\n" + lines("{name},x,y\n"),
            "has the columns file, a, b, and which of them is the label is not plain.",
        ),
        (lines("{name},{label}\n") + "0.jpg,bird\n", "gives images/0.jpg two labels: dog and bird."),
        ("nothing,at all\n", "names none of the images of"),
        ("", "names none of the images of"),
    ],
)
def test_tables_that_are_refused(text: str, message: str, tmp_path: Path) -> None:
    make(tmp_path, "given.csv", text)
    with pytest.raises(InputError) as error:
        find_images(tmp_path, labels=tmp_path / "given.csv")
    assert message in str(error.value)


def test_labels_that_cannot_be(tmp_path: Path) -> None:
    make(tmp_path, "broken.json", "{")
    with pytest.raises(InputError, match="cannot be read as a table"):
        find_images(tmp_path, labels=tmp_path / "broken.json")
    with pytest.raises(InputError, match="is not there"):
        find_images(tmp_path, labels=tmp_path / "none.csv")
    with pytest.raises(InputError, match="leave out --layout"):
        find_images(tmp_path, "folders", tmp_path / "broken.json")
