"""Lists of images: selected, relabelled, in blocks, and the fingerprint of a source."""

import numpy as np
import pytest

from alexnet_fast.sharding.listing import Entry, Images, Listing


def listed() -> Images:
    listing = Listing(["a", "b", "c"])
    for label, files in enumerate((["1.jpg"], ["2.png", "2.jpg"], ["3.jpg"])):
        listing.add_class(label, [Entry(f"folder-{label}", file) for file in files])
    listing.add_class(-1, [Entry("test", "4.jpg")])
    return listing.images()


def test_selected_images_keep_their_labels_and_keys() -> None:
    images = listed()
    everything = list(images)
    assert [image.key for image in everything] == ["a/1", "b/2", "b/sample-00000001", "c/3", "unlabelled/4"]
    rows = np.array([4, 2, 0])
    assert list(images.select(rows)) == images.take(rows) == [everything[row] for row in (4, 2, 0)]
    assert images[-1] == everything[4]
    with pytest.raises(IndexError):
        images[5]


def test_relabelled_images_keep_their_keys() -> None:
    images = listed().relabel(np.array([-1, 1, 0], np.int32))
    assert [(image.label, image.key) for image in images] == [
        (1, "b/2"),
        (1, "b/sample-00000001"),
        (0, "c/3"),
        (-1, "unlabelled/4"),
    ]


def test_blocks() -> None:
    listing = Listing(["a"])
    for block, count in enumerate((2, 1, 3)):
        listing.add_block(block, [(0, Entry("t", f"{block}-{row}")) for row in range(count)])
    images = listing.images()
    assert images.blocks.tolist() == [0, 2, 3, 6]
    assert images.select(np.array([0, 3, 5])).blocks.tolist() == [0, 1, 3]
    assert listed().blocks.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_fingerprint_changes_with_everything_that_the_stored_bytes_depend_on() -> None:
    def one(name: str = "1", file: str = "t", offset: int = 0, size: int = 9, label: int = 0, first: str = "a") -> str:
        listing = Listing([first, "b"])
        listing.add_class(label, [Entry(file, name, offset, size)])
        return listing.images().fingerprint()

    changed = [one(name="2"), one(file="u"), one(offset=1), one(size=8), one(label=1), one(first="c")]
    assert one() == one()
    assert len({one(), *changed}) == 7
