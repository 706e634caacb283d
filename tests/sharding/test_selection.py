"""Classes and a validation split taken out of a source: which images, under which labels, and what is refused."""

from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.sharding.listing import Entry, Images, Listing, Source
from alexnet_fast.sharding.selection import read_class_file, split_off, take_classes


def images(classes: list[str], counts: list[int], unlabelled: int = 0) -> Images:
    listing = Listing(classes)
    for label, count in enumerate(counts):
        listing.add_class(label, [Entry(classes[label], f"{number:03d}.jpg") for number in range(count)])
    listing.add_class(-1, [Entry("test", f"{number}.jpg") for number in range(unlabelled)])
    return listing.images()


def source(counts: list[int]) -> Source:
    classes = [f"class-{label}" for label in range(len(counts))]
    return Source(Path("src"), classes, {"train": images(classes, counts)})


def counts(images: Images) -> list[int]:
    labels = [image.label for image in images]
    return [labels.count(label) for label in range(max(labels) + 1)]


def keys(images: Images) -> list[str]:
    return [image.key for image in images]


def test_a_line_is_a_class_or_begins_with_its_id(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("# instruments\nFrench horn\n\n  n01443537\tgoldfish\n   \n#hash\nn01484850\n", encoding="utf-8")
    lines = read_class_file(path)
    assert lines == ["# instruments", "French horn", "n01443537\tgoldfish", "#hash", "n01484850"]
    classes = ["#hash", "French", "French horn", "n01443537", "n01484850"]
    everything = Source(Path("src"), classes, {"train": images(classes, [1, 2, 3, 4, 5])})
    everything.left_out.found = 15
    taken = take_classes(everything, lines)
    assert taken.classes == ["French horn", "n01443537", "#hash", "n01484850"]
    assert counts(taken.splits["train"]) == [3, 4, 1, 5]
    assert taken.notes == ["1 lines of --classes begin with # and are no class: comments"]
    assert taken.left_out.counts == {"of other classes": 2}
    assert everything.left_out.counts == {}


def test_a_first_word_that_is_no_id_is_not_taken_for_the_class() -> None:
    classes = ["French", "dog"]
    with pytest.raises(InputError, match="the source has no class French horn"):
        take_classes(Source(Path("src"), classes, {"train": images(classes, [1, 1])}), ["French horn"])


def test_comments_alone_choose_nothing() -> None:
    with pytest.raises(InputError, match="all lines of --classes begin with #"):
        take_classes(source([1, 1]), ["# class-0"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\n", "{path} names no class. --classes takes a text file, a class id a line."),
        (
            b"\xff\xfe",
            "{path} cannot be read ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte). --classes "
            "takes a text file, a class id a line.",
        ),
    ],
)
def test_class_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_class_file(path)
    assert str(error.value) == message.format(path=path)


def test_a_class_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.txt cannot be read \(.*No such file.*--classes takes a text file"):
        read_class_file(tmp_path / "nothing.txt")


def test_classes_taken_are_labelled_in_the_order_of_the_list() -> None:
    classes = ["a", "b", "c", "d"]
    splits = {
        "train": images(classes, [2, 1, 1, 3]),
        "val": images(classes, [1, 0, 0, 1]),
        "test": images(classes, [0] * 4, unlabelled=2),
    }
    taken = take_classes(Source(Path("src"), classes, splits, {"a": "ant", "d": "dog"}), ["d", "b", "d"])
    assert taken.classes == ["d", "b"]
    assert taken.names["d"] == "dog"
    assert [(image.key, image.label) for image in taken.splits["train"]] == [
        ("b/000", 1),
        ("d/000", 0),
        ("d/001", 0),
        ("d/002", 0),
    ]
    assert [(image.key, image.label) for image in taken.splits["val"]] == [("d/000", 0)]
    assert [(image.key, image.label) for image in taken.splits["test"]] == [("unlabelled/0", -1), ("unlabelled/1", -1)]


def test_all_classes_taken_change_nothing() -> None:
    everything = source([2, 3, 1])
    taken = take_classes(everything, everything.classes)
    assert list(taken.splits["train"]) == list(everything.splits["train"])


def test_classes_that_are_not_there() -> None:
    with pytest.raises(InputError) as error:
        take_classes(source([1, 1]), ["class-1", "x", "b"])
    assert str(error.value) == "the source has no class b, x. Its first is class-0."


def test_classes_without_images_in_a_split() -> None:
    everything = Source(
        Path("src"), ["a", "b"], {"train": images(["a", "b"], [1, 1]), "val": images(["a", "b"], [1, 0])}
    )
    with pytest.raises(InputError) as error:
        take_classes(everything, ["b"])
    assert str(error.value) == "no image of the split val is of the classes asked for."


@pytest.mark.parametrize(
    ("fraction", "of", "val"),
    [
        (0.5, [4, 2, 8, 6], [2, 1, 4, 3]),
        (0.25, [8, 4, 12], [2, 1, 3]),
        (0.1, [10, 20, 30, 10], [1, 2, 3, 1]),
        (0.2, [3, 3, 3, 3, 3], [1, 0, 1, 0, 1]),  # 0.6, 1.2, 1.8, 2.4, 3.0 in all, rounded
        (0.5, [1, 1, 4], [0, 0, 2]),  # a class of one image stays
        (0.9, [2, 1, 3, 10], [1, 0, 2, 9]),
    ],
)
def test_every_class_gives_its_share(fraction: float, of: list[int], val: list[int]) -> None:
    split = split_off(source(of), fraction, seed=0).splits
    assert list(split) == ["train", "val"]
    assert counts(split["val"]) == val[: len(val) - next(i for i, n in enumerate(reversed(val)) if n)]
    assert counts(split["train"]) == [total - taken for total, taken in zip(of, val, strict=True)]


def test_every_image_is_in_one_of_the_two_splits_in_the_old_order() -> None:
    everything = source([5, 20, 7])
    split = split_off(everything, 0.3, seed=1).splits
    train, val = keys(split["train"]), keys(split["val"])
    assert sorted(train + val) == keys(everything.splits["train"])
    assert train == sorted(train)
    assert val == sorted(val)


def test_the_choice_depends_on_the_seed_alone() -> None:
    chosen = [keys(split_off(source([40, 40]), 0.5, seed).splits["val"]) for seed in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len({tuple(keys) for keys in chosen}) == 3


def test_the_choice_is_spread_over_a_class() -> None:
    times: dict[str, int] = {}
    for seed in range(400):
        for key in keys(split_off(source([4, 4]), 0.5, seed).splits["val"]):
            times[key] = times.get(key, 0) + 1
    assert len(times) == 8
    assert all(150 < number < 250 for number in times.values())  # 200 expected, deviation 10


def test_a_test_split_stays() -> None:
    everything = source([4, 4])
    everything.splits["test"] = images(everything.classes, [0, 0], unlabelled=3)
    split = split_off(everything, 0.5, seed=0).splits
    assert list(split) == ["train", "val", "test"]
    assert split["test"] is everything.splits["test"]


def test_a_second_validation_split() -> None:
    once = split_off(source([4, 4]), 0.5, seed=0)
    with pytest.raises(InputError) as error:
        split_off(once, 0.5, seed=0)
    assert str(error.value) == "the source has a split val already. Leave out --val-fraction and --split."


def test_one_image_a_class_cannot_be_split() -> None:
    for counts in ([1, 1, 1], [1, 0, 1]):
        with pytest.raises(InputError, match=r"^every class has one image, .* Add images, .* or leave out --val-frac"):
            split_off(source(counts), 0.9, seed=0)
    assert len(split_off(source([1, 2, 1]), 0.5, seed=0).splits["val"]) == 1


def test_an_empty_validation_split() -> None:
    with pytest.raises(InputError) as error:
        split_off(source([1000, 500]), 0.0001, seed=0)
    assert str(error.value) == "a validation split of 0.0001 of 1,500 images is empty. Take a larger fraction."
