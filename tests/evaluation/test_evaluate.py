"""Counts, views and averages against hand-computed ones."""

import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from scipy.io import savemat
from torch import Tensor, nn

from alexnet_fast.cli.main import main
from alexnet_fast.distributed.topology import Topology
from alexnet_fast.errors import InputError
from alexnet_fast.evaluation.counts import per_class, wilson, worst_pairs
from alexnet_fast.evaluation.scoring import Member, ScoringPass, count_correct, evaluate, predict, views_of
from alexnet_fast.inference.networks import open_network
from alexnet_fast.inference.predictions import check_weights, search_weights
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.selection import take_classes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.shards.format import MANIFEST
from alexnet_fast.shards.reader import ShardSet
from tests.conftest import CLASSES, SIZE, read_npz, save_network, write
from tests.loading.test_corruption import corrupt_copy

CPU = Topology(0, 1, torch.device("cpu"))


def test_count_correct_by_hand() -> None:
    scores = torch.tensor([[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6.0]])
    assert count_correct(scores, torch.tensor([0, 5, 1])).tolist() == [1, 2, 3]


def test_ten_views_are_corners_centre_and_mirror_images() -> None:
    image = torch.arange(36.0).view(1, 1, 6, 6)
    views = views_of(image, 4, 10)
    assert [v[0, 0, 0, 0].item() for v in views[:5]] == [0, 2, 12, 14, 7]
    assert torch.equal(views_of(image, 4, 1)[0], views[4])
    assert all(torch.equal(mirrored, view.flip(3)) for view, mirrored in zip(views[:5], views[5:], strict=True))


def test_predictions_are_averaged_after_softmax() -> None:
    a, b = nn.Linear(2, 3), nn.Linear(2, 3)
    x, y = torch.randn(4, 2), torch.randn(4, 2)
    expected = sum(model(view).softmax(1) for model in (a, b) for view in (x, y)) / 4
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(predict([a, b], [x, y]), expected)


class MeanColour(nn.Module):
    """Scores three classes by the mean of each channel: the answer can be computed from the pixels alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_every_image_counts_once_whatever_the_batches(raw_shards: Path) -> None:
    shards = ShardSet(raw_shards)
    split, pixels = shards.split("train"), shards.manifest.pixels
    side, crop = split.size, 84
    stored = np.stack(split.read(np.arange(len(split)))).astype(np.float64) - np.array(pixels.mean)
    edge = (side - crop) // 2
    means = stored[:, edge : edge + crop, edge : edge + crop].mean((1, 2))
    correct = 100 * (means.argmax(1) == split.labels).mean()
    network = Member(MeanColour(), crop, pixels.mean)
    accuracy = evaluate(network, split, CPU)
    assert (accuracy.images, accuracy.views, accuracy.top5) == (len(split), 1, 100)
    assert abs(accuracy.top1 - correct) < 1e-9
    ten = evaluate(network, split, CPU, views=10)
    assert (ten.images, ten.views) == (len(split), 10)


def test_networks_of_other_crops_and_means_each_see_their_own(raw_shards: Path) -> None:
    split = ShardSet(raw_shards).split("val")
    stored = np.stack(split.read(np.arange(len(split)))).astype(np.float64)
    members = [Member(MeanColour(), 84, [100.0, 110.0, 120.0]), Member(MeanColour(), 65, [90.0, 110.0, 130.0])]
    expected = []
    for member in members:
        edge = (SIZE - member.crop) // 2
        centre = slice(edge, edge + member.crop)
        expected.append(stored[:, centre, centre].mean((1, 2)) - np.array(member.mean))
    found = np.zeros((2, len(split), 3))
    for batch, each in ScoringPass(members, split, CPU, views=1):
        found[:, batch.rows.samples] = each.numpy()
    np.testing.assert_allclose(found, torch.tensor(np.array(expected)).softmax(2).numpy(), atol=1e-4)


def test_wilson_against_published_values() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29, to four digits."""
    for right, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(100 * right / of, of) == pytest.approx([100 * low, 100 * high], abs=6e-3)
    assert wilson(100.0, 20) == pytest.approx([100 - 16.11, 100], abs=6e-3)


def test_classes_and_confusions_by_hand() -> None:
    classes = [{"id": name, "name": name} for name in "abcd"]
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses = np.array([[0, 1], [1, 0], [1, 2], [0, 2], [1, 0], [1, 2]])
    rows = per_class(guesses, labels, classes)
    assert [row["images"] for row in rows] == [3, 2, 1, 0]
    assert [row["top1"] for row in rows] == pytest.approx([100 / 3, 50, 0, None])
    assert [row["top5"] for row in rows] == pytest.approx([200 / 3, 50, 100, None])
    intervals = [wilson(100 / 3, 3), wilson(50, 2), wilson(0, 1), None]
    assert [row["top1_interval"] for row in rows] == [each and pytest.approx(each) for each in intervals]
    assert worst_pairs(guesses, labels, classes, 2) == [
        {"label": "a", "guess": "b", "images": 2, "share": pytest.approx(200 / 3)},
        {"label": "b", "guess": "a", "images": 1, "share": 50},
    ]


def test_searched_weights_are_the_best_of_a_grid() -> None:
    likelihoods = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.8], [0.5, 0.5]])
    grid = np.linspace(0, 1, 100_001)[:, None]
    best = grid[np.log(grid * likelihoods[:, 0] + (1 - grid) * likelihoods[:, 1]).sum(1).argmax(), 0]
    assert search_weights(likelihoods) == pytest.approx([best, 1 - best], abs=1e-4)
    assert search_weights(np.array([[0.9, 0.1], [0.8, 0.0]])) == pytest.approx([1, 0], abs=1e-6)


def test_weights_are_checked() -> None:
    assert check_weights([1, 3], 2) == [0.25, 0.75]
    for weights in ([1.0], [1.0, -1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]):
        with pytest.raises(InputError, match="2 numbers, one a network, all 0 or more and not all 0"):
            check_weights(weights, 2)


def evaluation(*arguments: object) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(main, ["eval", *map(str, arguments), "--gpus", "0", "--json", "-"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("networks")
    return [save_network(folder / "a.pt"), save_network(folder / "b.pt", "paper", crop=80, seed=1)]


def test_eval_averages_writes_and_reports(networks: list[Path], raw_shards: Path, tmp_path: Path) -> None:
    shards = ("--shards", raw_shards, "--predictions")
    for i, network in enumerate(networks):
        evaluation(network, *shards, tmp_path / f"{i}.npz")
    result, text = evaluation(*networks, *shards, tmp_path / "both.npz", "--weights", "1,3", "--per-class")
    first, second, both = (read_npz(tmp_path / name) for name in ("0.npz", "1.npz", "both.npz"))
    expected = 0.25 * first["probabilities"] + 0.75 * second["probabilities"]
    assert abs(first["probabilities"] - second["probabilities"]).max() > 0.1
    np.testing.assert_allclose(both["probabilities"], expected, atol=1e-5)
    split = ShardSet(raw_shards).split("val")
    assert both["labels"].tolist() == split.labels.tolist()
    assert both["classes"].tolist() == list(CLASSES)
    assert [name.partition("/")[0] for name in both["names"]] == [CLASSES[label] for label in split.labels]
    assert len(set(both["names"])) == len(split) == 18
    right = int((expected.argmax(1) == split.labels).sum())
    assert result["top1"] == pytest.approx(100 * right / 18)
    assert result["top1_error"] == pytest.approx(100 - result["top1"])
    assert result["top1_interval"] == wilson(result["top1"], 18)
    assert (result["top5"], result["images"], result["views"], result["split"]) == (100, 18, 1, "val")
    assert (result["weights"], result["weights_from"]) == ([0.25, 0.75], "given")
    assert sum(row["images"] * row["top1"] for row in result["classes"]) == pytest.approx(100 * right)
    assert sum(row["images"] for row in result["confusions"]) == 18 - right
    assert f"top-1 {result['top1']:.2f} %" in text
    assert f"error {result['top1_error']:.2f} %" in text
    for name in ("cone predicted as", "worst classes"):
        assert name in text
    assert {path.name for path in tmp_path.iterdir()} == {"0.npz", "1.npz", "both.npz"}


def test_the_precision_is_named_and_can_be_chosen(raw_shards: Path, tmp_path: Path) -> None:
    """That of the training; of networks of several, and of those not trained here, fp32."""
    fp16, bf16, fp32 = (save_network(tmp_path / f"{one}.pt", precision=one) for one in ("fp16", "bf16", "fp32"))
    imported = save_network(tmp_path / "imported.pt")
    alone = [([fp16], "fp16"), ([bf16], "bf16"), ([fp32], "fp32"), ([imported], "fp32")]
    for networks, precision in [*alone, ([bf16, fp32], "fp32"), ([bf16, imported], "fp32")]:
        result, text = evaluation(*networks, "--shards", raw_shards)
        assert result["precision"] == precision
        assert f"(18 images, 1 view, {precision})" in text
    result, text = evaluation(bf16, "--shards", raw_shards, "--precision", "fp32")
    assert result["precision"] == "fp32"
    assert "1 view, fp32)" in text


def test_searched_weights_say_so(networks: list[Path], raw_shards: Path) -> None:
    result, text = evaluation(*networks, "--shards", raw_shards, "--weights", "search", "--split", "train")
    assert sum(result["weights"]) == pytest.approx(1)
    assert result["weights_from"] == "searched on train, these same images: not a test result"
    assert "not a test result" in text
    assert evaluation(*networks, "--shards", raw_shards)[0]["weights"] == [0.5, 0.5]


def test_corrupt_images_are_wrong_and_have_equal_probabilities(
    networks: list[Path], raw_shards: Path, tmp_path: Path
) -> None:
    whole, _ = evaluation(networks[0], "--shards", raw_shards, "--predictions", tmp_path / "whole.npz")
    before = read_npz(tmp_path / "whole.npz")
    right = np.flatnonzero(before["probabilities"].argmax(1) == before["labels"])
    bad = [int(right[0]), 17]
    shards = corrupt_copy(raw_shards, "val", bad, tmp_path / "set")
    result, text = evaluation(networks[0], "--shards", shards, "--predictions", tmp_path / "p.npz", "--per-class")
    after = read_npz(tmp_path / "p.npz")["probabilities"]
    assert after[bad] == pytest.approx(np.full((2, 3), 1 / 3))
    intact = np.setdiff1d(np.arange(18), bad)
    np.testing.assert_allclose(after[intact], before["probabilities"][intact], atol=1e-5)
    assert result["top1"] == pytest.approx(whole["top1"] - 100 * len(set(bad) & set(right)) / 18)
    assert result["damaged"] == 2
    assert "2 corrupt images counted as wrong" in text


@pytest.fixture(scope="module")
def unlabelled(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set whose test split holds val's images without labels, named t00 to t17."""
    folder = tmp_path_factory.mktemp("unlabelled")
    shutil.copytree(image_folder / "train", folder / "images" / "train")
    (folder / "images" / "test").mkdir()
    for i, path in enumerate(sorted((image_folder / "val").rglob("*.JPEG"))):
        shutil.copy(path, folder / "images" / "test" / f"t{i:02d}.JPEG")
    write(find_images(folder / "images"), folder / "set", Options("raw", size=SIZE))
    return folder / "set"


def test_a_test_set_without_labels(networks: list[Path], unlabelled: Path, tmp_path: Path) -> None:
    start = (networks[0], "--shards", unlabelled, "--split", "test")
    refused = CliRunner().invoke(main, ["eval", *map(str, start), "--gpus", "0"])
    assert refused.exit_code == 2
    assert refused.output.startswith(f"Error: the split test of {unlabelled} has no labels, so ")
    assert "--predictions" in refused.output

    kit = tmp_path / "kit" / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    rows = [(number, name, name, 0) for number, name in ((7, CLASSES[1]), (5, CLASSES[0]), (9, CLASSES[2]))]
    savemat(kit / "meta.mat", {"synsets": np.array(rows, fields)})
    result, text = evaluation(*start, "--predictions", tmp_path / "p.npz", "--submission", tmp_path / "plain.txt")
    assert (result["top1"], result["top5_interval"], result["images"]) == (None, None, 18)
    assert "no accuracy" in text
    assert "not ILSVRC ids: give --devkit" in text
    evaluation(*start, "--submission", tmp_path / "kit.txt", "--devkit", tmp_path / "kit")
    predictions = read_npz(tmp_path / "p.npz")
    assert set(predictions["labels"]) == {-1}
    assert sorted(predictions["names"]) == [f"unlabelled/t{i:02d}" for i in range(18)]
    ordered = predictions["probabilities"][np.argsort(predictions["names"])]
    best = np.argsort(-ordered, axis=1)
    for file, ids in (("plain.txt", [1, 2, 3]), ("kit.txt", [5, 7, 9])):
        lines = (tmp_path / file).read_text().splitlines()
        assert [line.split() for line in lines] == [[str(ids[label]) for label in row] for row in best]


def test_a_set_of_some_of_the_classes_in_another_order(
    networks: list[Path], raw_shards: Path, image_folder: Path, tmp_path: Path
) -> None:
    """By class id: one view's softmax over some classes is that over all, divided by what falls on those."""

    def probabilities(shards: Path) -> tuple[dict[str, NDArray[np.float32]], list[str], dict[str, Any], str]:
        result, text = evaluation(networks[0], "--shards", shards, "--predictions", tmp_path / "p.npz")
        found = read_npz(tmp_path / "p.npz")
        return dict(zip(found["names"], found["probabilities"], strict=True)), list(found["classes"]), result, text

    every, classes, whole, text = probabilities(raw_shards)
    assert (classes, whole["softmax_classes"]) == (list(CLASSES), 3)
    assert "softmax" not in text

    turned = shutil.copytree(raw_shards, tmp_path / "turned")
    manifest = json.loads((turned / MANIFEST).read_text())
    manifest["classes"].reverse()
    (turned / MANIFEST).write_text(json.dumps(manifest))
    found, classes, result, text = probabilities(turned)
    assert (classes, result["softmax_classes"]) == ([*CLASSES][::-1], 3)
    assert "softmax over 3 of the network's 3 classes, by class id" in text
    for name, expected in every.items():
        np.testing.assert_allclose(found[name], expected[::-1], atol=1e-6)

    some = [CLASSES[0], CLASSES[2]]
    write(take_classes(find_images(image_folder), some), tmp_path / "some", Options("raw", size=SIZE))
    found, classes, result, text = probabilities(tmp_path / "some")
    assert (classes, result["softmax_classes"], result["images"]) == (some, 2, 12)
    assert "softmax over 2 of the network's 3 classes, by class id" in text
    right = 0
    for name, chosen in found.items():
        two = every[name][[0, 2]]
        np.testing.assert_allclose(chosen, two / two.sum(), atol=1e-6)
        right += name.startswith(some[int(two.argmax())])
    assert result["top1"] == pytest.approx(100 * right / 12)

    manifest["classes"][0]["id"] = "n99"
    (turned / MANIFEST).write_text(json.dumps(manifest))
    refused = CliRunner().invoke(main, ["eval", str(networks[0]), "--shards", str(turned)])
    assert refused.exit_code == 2
    assert "was trained on other classes than those of" in refused.output


def test_what_is_measured_of_a_run_is_kept_in_it(networks: list[Path], raw_shards: Path, tmp_path: Path) -> None:
    """Only of one network, of a checkpoint in a run folder; a folder that cannot be written costs a line."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(networks[0], run / "best.pt")
    kept, shards = run / "evaluations.jsonl", ("--shards", raw_shards)
    assert "kept for the report" not in evaluation(run, *shards)[1]  # it has no settings of a run
    (run / "config.json").write_text("{}")
    evaluation(run, run / "best.pt", *shards)
    assert not kept.exists()
    first, text = evaluation(run, *shards)
    assert text.endswith(f"kept for the report: {kept}\n")
    before = kept.read_text()
    second, _ = evaluation(run / "best.pt", *shards, "--views", "10", "--split", "train")
    assert kept.read_text().startswith(before)
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == 2
    for line, result, split in zip(lines, (first, second), ("val", "train"), strict=True):
        age = datetime.now(timezone.utc) - datetime.fromisoformat(line.pop("time"))
        assert timedelta(0) <= age < timedelta(minutes=10)
        network = {"checkpoint": "best.pt", "epochs": 1, "crop": open_network(run).crop}
        names = ("views", "images", "damaged", "precision", "top1", "top5", "top1_interval", "top5_interval")
        measured = {name: result[name] for name in names}
        assert line == {**network, "shards": str(raw_shards), "split": split, **measured}

    kept.unlink()
    kept.mkdir()
    result, text = evaluation(run, *shards)
    assert result["top1"] == first["top1"]
    assert text.endswith(f"not kept for the report: {kept} cannot be written (Is a directory)\n")


def test_eval_refuses_before_it_begins(networks: list[Path], raw_shards: Path, tmp_path: Path) -> None:
    other = save_network(tmp_path / "other.pt")
    state = torch.load(other)
    torch.save(state | {"classes": state["classes"][::-1]}, other)
    kit = tmp_path / "nokit"
    kit.mkdir()
    for arguments, message in (
        (["--weights", "half"], "--weights half: expected equal, search, or numbers like 0.5,0.3,0.2."),
        (["--weights", "1,2"], "--weights 1,2: expected 1 numbers, one a network, all 0 or more and not all 0."),
        (["--weights", "search"], "--weights search is for the average of several networks: leave it out."),
        (["--weights", "2"], "--weights 2 is for the average of several networks: leave it out."),
        (["--predictions", "p.csv"], "--predictions p.csv must end in .npz."),
        (["--submission", "no/s.txt"], "--submission no/s.txt must be a file in a folder that is there."),
        (["--devkit", str(kit)], "--devkit goes with --submission."),
        (
            ["--submission", str(tmp_path / "s.txt"), "--devkit", str(kit)],
            f"{kit} holds no development kit. Put ILSVRC2012_devkit_t12.tar.gz there.",
        ),
        ([str(other)], f"{other} was trained on other classes than those of {networks[0]}."),
    ):
        result = CliRunner().invoke(main, ["eval", str(networks[0]), "--shards", str(raw_shards), *arguments])
        assert (result.exit_code, result.output) == (2, f"Error: {message}\n")
