"""What is drawn and found, against the log, the weights and brute force."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from alexnet_fast.evaluation.counts import confused
from alexnet_fast.inference.networks import Network
from alexnet_fast.report import figures
from alexnet_fast.report.insight import (
    best_predictions,
    choose_samples,
    find_examples,
    find_neighbours,
    open_with_shards,
    spread,
)
from alexnet_fast.report.record import read_run
from alexnet_fast.shards.reader import ShardSet
from alexnet_fast.training import checkpoint

Subject = tuple[Network, ShardSet]
WHITE = (1.0, 1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def subject(trained_run: Path) -> Subject:
    return open_with_shards(trained_run)


def log_of(run: Path, key: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def central_crops(subject: Subject, split: str) -> NDArray[np.uint8]:
    """Of all stored images, which are raw: (n, crop, crop, 3)."""
    images = subject[1].split(split)
    edge = (images.size - subject[0].crop) // 2
    stored = np.stack(images.read(np.arange(len(images))))
    return stored[:, edge : edge + subject[0].crop, edge : edge + subject[0].crop]


def by_hand(subject: Subject, split: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """fc7 after its ReLU (n, 32), and logits (n, classes)."""
    inputs = (
        torch.from_numpy(central_crops(subject, split) - np.array(subject[0].pixels.mean)).float().permute(0, 3, 1, 2)
    )
    model = subject[0].model
    with torch.no_grad():
        maps = model.avgpool(model.features(inputs)).flatten(1)
        hidden = model.classifier[:-1](maps)
        return hidden.numpy(), model.classifier[-1](hidden).numpy()


def test_conv1_is_drawn_as_two_towers_of_48_kernels(trained_run: Path) -> None:
    weights = checkpoint.load(trained_run / "last.pt")["model"]["features.conv1.weight"].numpy()
    figure = Figure()
    figures.draw_kernels(figure, figures.kernel_pictures(weights, towers=2))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["tower 1", "tower 2"]
    drawn_kernels = []
    for axes in figure.axes:
        (image,) = axes.images
        picture = np.asarray(image.get_array())
        assert picture.shape == (3 * 12 - 1, 16 * 12 - 1, 3)
        assert (picture[11::12] == 1).all()  # the lines between
        assert (picture[:, 11::12] == 1).all()
        for row in range(3):
            for column in range(16):
                drawn_kernels.append(picture[12 * row : 12 * row + 11, 12 * column : 12 * column + 11])
    assert len(drawn_kernels) == len(weights) == 96
    for kernel, tile in zip(weights, drawn_kernels, strict=True):
        expected = 0.5 + kernel.transpose(1, 2, 0) / (2 * abs(kernel).max())
        np.testing.assert_allclose(tile, expected, atol=1e-6)


def test_kernels_of_one_tower_and_of_nothing() -> None:
    (picture,) = figures.kernel_pictures(np.zeros((20, 3, 11, 11), np.float32), towers=1)
    assert picture.shape == (2 * 12 - 1, 16 * 12 - 1, 3)
    assert (picture[12:, : 4 * 12 - 1 : 12] == 0.5).all()
    assert (picture[12:, 4 * 12 :] == 1).all()  # no kernels 20 to 31


def test_curves_are_the_log(trained_run: Path) -> None:
    record, steps, evaluations = read_run(trained_run), log_of(trained_run, "loss"), log_of(trained_run, "val_top1")
    assert len(steps) == 8
    loss, accuracy, rate, wait = Figure().subplots(1, 4)
    figures.draw_loss(loss, [record])
    assert loss.lines[0].get_xydata().tolist() == [[line["step"], line["loss"]] for line in steps]
    figures.draw_accuracy(accuracy, [record])
    for line, key in zip(accuracy.lines[:2], ("val_top1", "val_top5"), strict=True):
        assert line.get_xydata().tolist() == [[one["epoch"], one[key]] for one in evaluations]
    learnt = [np.mean([line["top1"] for line in steps if line["epoch"] == epoch]) for epoch in (0, 1)]
    np.testing.assert_allclose(accuracy.lines[2].get_xydata(), np.stack([[1, 2], learnt], 1))
    seconds = np.cumsum([16 / line["images_per_second"] for line in steps])
    figures.draw_rate(rate, [record])
    figures.draw_wait(wait, [record])
    np.testing.assert_allclose(rate.lines[0].get_xdata(), seconds)
    assert rate.lines[0].get_ydata().tolist() == [line["images_per_second"] for line in steps]
    np.testing.assert_allclose(wait.lines[0].get_xdata(), seconds)
    np.testing.assert_allclose(wait.lines[0].get_ydata(), [100 * line["data_wait"] for line in steps])


def test_a_long_curve_keeps_its_means() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    np.testing.assert_allclose(figures.thinned(values), values.reshape(1000, 5).mean(1))
    assert figures.thinned(values[:1000]).tolist() == values[:1000].tolist()


def test_sixteen_runs_look_different() -> None:
    assert len({tuple(figures._style(i).values()) for i in range(16)}) == 16


def test_a_text_is_shortened_to_what_can_be_drawn() -> None:
    assert figures.short("tench,\n Tinca\0tinca ") == "tench, Tinca tinca"
    shortened = figures.short("runs/" + "a" * 100 + "/last")
    assert (len(shortened), shortened[:5], shortened[-5:]) == (28, "runs/", "/last")


def test_neighbours_are_those_of_brute_force(subject: Subject) -> None:
    train, query = by_hand(subject, "train")[0], by_hand(subject, "val")[0]
    asked = spread(subject[1].split("val").labels, 5)
    distances = np.sqrt(((query[asked, None] - train[None]) ** 2).sum(2))
    nearest = np.argsort(distances, axis=1)[:, :6]
    found = find_neighbours(*subject, 5, 6, 2000)
    assert found.searched == 60
    by_label = np.argsort(subject[1].split("val").labels[asked], kind="stable")
    order = np.argsort(found.query_labels, kind="stable")
    assert (found.queries[order] == central_crops(subject, "val")[asked[by_label]]).all()
    assert (found.images[order] == central_crops(subject, "train")[nearest[by_label]]).all()
    assert (found.labels[order] == subject[1].split("train").labels[nearest[by_label]]).all()
    np.testing.assert_allclose(
        found.distances[order], np.take_along_axis(distances, nearest, 1)[by_label], rtol=1e-3, atol=1e-6
    )


def test_neighbours_among_some_images(subject: Subject) -> None:
    chosen = choose_samples(60, 12)
    assert len(set(chosen)) == 12
    assert chosen.tolist() == sorted(chosen) == choose_samples(60, 12).tolist()
    found = find_neighbours(*subject, 2, 20, 12)
    assert (found.searched, found.images.shape[:2]) == (12, (2, 12))
    searched = central_crops(subject, "train")[chosen]
    for images in found.images:
        assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in searched)


def test_predictions_are_the_networks(subject: Subject) -> None:
    seen = find_examples(*subject, 10)
    images, (_, logits) = central_crops(subject, "val"), by_hand(subject, "val")
    assert len(seen.labels) == 10
    assert np.bincount(seen.labels).tolist() == [4, 3, 3]
    for image, label, probability in zip(seen.images, seen.labels, seen.probabilities, strict=True):
        (place,) = np.flatnonzero((images == image).all((1, 2, 3)))
        assert subject[1].split("val").labels[place] == label
        expected = np.exp(logits[place]) / np.exp(logits[place]).sum()
        np.testing.assert_allclose(probability, expected, rtol=1e-4)


def test_predictions_and_neighbours_are_drawn_as_found(subject: Subject) -> None:
    names, seen, found = ["ball", "cube", "cone"], find_examples(*subject, 5), find_neighbours(*subject, 3, 4, 2000)
    figure = Figure()
    figures.draw_examples(figure, seen, names, columns=3)
    assert len(figure.axes) == 2 * len(seen.labels) == 10
    for i, (picture, bars) in enumerate(zip(figure.axes[::2], figure.axes[1::2], strict=True)):
        assert (picture.images[0].get_array() == seen.images[i]).all()
        assert picture.get_title() == names[seen.labels[i]]
        assert [bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle)] == sorted(
            seen.probabilities[i].tolist(), reverse=True
        )
        filled = [text for text, bar in zip(bars.texts, bars.patches, strict=True) if bar.get_facecolor() != WHITE]
        assert [text.get_text() for text in filled] == [names[seen.labels[i]]]

    figure = Figure()
    figures.draw_neighbours(figure, found, names)
    rows = np.array(figure.axes).reshape(3, 5)
    for i, row in enumerate(rows):
        assert (row[0].images[0].get_array() == found.queries[i]).all()
        assert row[0].get_title() == names[found.query_labels[i]]
        for axes, image, label in zip(row[1:], found.images[i], found.labels[i], strict=True):
            assert (axes.images[0].get_array() == image).all()
            assert axes.get_title() == ("" if label == found.query_labels[i] else names[label])


def test_confusion_is_counted_by_hand_and_drawn(subject: Subject) -> None:
    counts = np.zeros((3, 3), int)
    for label, logits in zip(subject[1].split("val").labels, by_hand(subject, "val")[1], strict=True):
        counts[label, logits.argmax()] += 1
    found = np.zeros((3, 3), int)
    np.add.at(found, best_predictions(subject[0], subject[1].split("val"), 5000), 1)
    assert found.tolist() == counts.tolist()
    axes = Figure().add_subplot()
    counts = np.array([[4, 2, 0], [0, 6, 0], [1, 0, 5]])
    figures.draw_confusion(axes, counts, ["a $", "b_", "c"])
    texts = {text.get_position(): text.get_text() for text in axes.texts}  # x, y
    assert texts == {(0, 0): "4", (1, 0): "2", (1, 1): "6", (0, 2): "1", (2, 2): "5"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a $", "b_", "c"]
    assert len(best_predictions(subject[0], subject[1].split("val"), 7)[0]) == 7


def test_worst_pairs_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predictions = np.array([0, 2, 2, 1, 0, 1, 2, 2])
    assert confused(labels, predictions, 2) == [(0, 2, 2, 0.5), (0, 1, 1, 0.25)]
    assert confused(labels, labels, 2) == []


def test_spread_takes_classes_far_apart_and_in_turn() -> None:
    labels = np.repeat(np.arange(100), 2)
    assert labels[spread(labels, 4)].tolist() == [0, 33, 66, 99]
    assert spread(np.array([1, 1, 0, 1]), 9).tolist() == [2, 0, 1, 3]


def test_corrupt_images_are_left_out(trained_run: Path, raw_shards: Path, tmp_path: Path) -> None:
    network, _ = open_with_shards(trained_run)
    copy = shutil.copytree(raw_shards, tmp_path / "shards")
    tar = copy / "val-000000.tar"
    data = bytearray(tar.read_bytes())
    data[int(ShardSet(raw_shards).split("val").index["offset"][3]) + 1000] ^= 1
    tar.write_bytes(data)
    assert len(best_predictions(network, ShardSet(copy).split("val"), 5000)[0]) == 17
