"""features: each layer against the same network computed by hand; splits against image files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import conv2d, linear, max_pool2d, relu

from alexnet_fast import Loader, ShardSet
from alexnet_fast.cli.main import main
from alexnet_fast.inference import features
from alexnet_fast.inference.networks import open_network
from tests.conftest import pretend_file, read_npz, save_network
from tests.loading.test_corruption import corrupt_copy


@pytest.fixture(scope="module")
def onetower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("network") / "onetower.pt", "onetower")


def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(main, ["features", *map(str, arguments), "--gpus", "0", "--json", "-"])
    return result.exit_code, json.loads(result.stdout), result.stderr


def by_hand(network: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """torchvision's AlexNet, operation by operation."""
    w = torch.load(network)["model"]
    values = {}
    x = images
    for name, place, stride, padding in (
        ("conv1", 0, 4, 2),
        ("conv2", 3, 1, 2),
        ("conv3", 6, 1, 1),
        ("conv4", 8, 1, 1),
        ("conv5", 10, 1, 1),
    ):
        x = relu(conv2d(x, w[f"features.{place}.weight"], w[f"features.{place}.bias"], stride, padding))
        values[name] = x
        if name in ("conv1", "conv2", "conv5"):
            x = max_pool2d(x, 3, 2)
            values[f"pool{name[-1]}"] = x
    x = torch.nn.functional.adaptive_avg_pool2d(x, 6).flatten(1)
    for name, place in (("fc6", 1), ("fc7", 4), ("fc8", 6)):
        x = linear(x, w[f"classifier.{place}.weight"], w[f"classifier.{place}.bias"])
        x = values[name] = x if name == "fc8" else relu(x)
    return values


def test_every_layer_of_a_split(onetower: Path, raw_shards: Path, tmp_path: Path) -> None:
    split = ShardSet(raw_shards).split("val")
    network = open_network(onetower)
    edge = (split.size - network.crop) // 2
    stored = np.stack(split.read(np.arange(len(split))))[:, edge : edge + 84, edge : edge + 84]
    images = torch.from_numpy(stored.astype(np.float32) - np.array(network.pixels.mean, np.float32)).permute(0, 3, 1, 2)
    expected = by_hand(onetower, images)
    assert list(features.outputs(network.model)) == list(expected)
    for layer, values in expected.items():
        found = features.of_split(network, split, layer)
        assert found.features.dtype == np.float32
        scale = float(values.abs().max())
        np.testing.assert_allclose(found.features / scale, values.numpy() / scale, atol=1e-5)
        assert found.labels.tolist() == split.labels.tolist()


def test_images_give_what_the_split_gives(onetower: Path, raw_shards: Path, image_folder: Path, tmp_path: Path) -> None:
    code, result, text = run(onetower, "--shards", raw_shards, "--layer", "pool5", "--out", tmp_path / "split.npz")
    assert (code, result["shape"]) == (0, [18, 256, 1, 1])
    assert f"pool5 of 18 images, 256 x 1 x 1 numbers each: {tmp_path / 'split.npz'}" in text
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    code, result, text = run(onetower, bad, image_folder / "val", "--layer", "pool5", "--out", tmp_path / "files.npz")
    assert (code, result["images"]) == (1, 18)
    assert f"left out: {bad}: text, not an image" in text
    split, files = read_npz(tmp_path / "split.npz"), read_npz(tmp_path / "files.npz")
    assert set(files) == {"names", "features", "labels"}
    assert set(files["labels"]) == {-1}
    order = {name: i for i, name in enumerate(split["names"])}
    places = [order[str(Path(name).relative_to(image_folder / "val").with_suffix(""))] for name in files["names"]]
    np.testing.assert_allclose(files["features"], split["features"][places], rtol=1e-4, atol=1e-2)


def test_where_the_papers_net_is_tapped(tmp_path: Path, raw_shards: Path) -> None:
    """Layer 1 is conv -> LRN -> pool -> ReLU: conv1 is after all four, norm1 and pool1 before the ReLU, which works in
    place."""
    network = open_network(save_network(tmp_path / "paper.pt", "paper", bottleneck=8))
    split = ShardSet(raw_shards).split("val")
    assert list(features.outputs(network.model)) == [
        *("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5"),
        *("fc6", "fc7", "bottleneck", "fc8"),
    ]
    pool1 = features.of_split(network, split, "pool1").features
    assert pool1.min() < 0
    norm1 = torch.from_numpy(features.of_split(network, split, "norm1").features)
    np.testing.assert_array_equal(torch.nn.functional.max_pool2d(norm1, 3, 2).numpy(), pool1)
    np.testing.assert_array_equal(features.of_split(network, split, "conv1").features, pool1.clip(0))
    batch = next(iter(Loader.evaluation(split, crop=84, mean=network.pixels.mean)))
    with torch.inference_mode():
        logits = network.model(batch.images).numpy()
        towers = network.model.layers()["conv1"](torch.nn.functional.pad(batch.images, (0, 3, 0, 3))).chunk(2, 1)
        normed = torch.cat([torch.nn.functional.local_response_norm(each, 5, k=2.0) for each in towers], 1)
    order = np.argsort(batch.rows.samples)
    np.testing.assert_allclose(norm1.numpy(), normed.numpy()[order], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.of_split(network, split, "fc8").features, logits, rtol=1e-4, atol=1e-4)
    assert features.of_split(network, split, "bottleneck").features.shape == (18, 8)


def test_corrupt_samples_are_left_out(onetower: Path, raw_shards: Path, tmp_path: Path) -> None:
    shards = corrupt_copy(raw_shards, "val", [4, 17], tmp_path / "set")
    code, result, text = run(onetower, "--shards", shards, "--out", tmp_path / "f.npz")
    assert (code, result["images"], len(result["unread"])) == (1, 16, 2)
    assert "sample 4 of val" in text
    network = open_network(onetower)
    whole = features.of_split(network, ShardSet(raw_shards).split("val"), "fc7")
    kept = [i for i in range(18) if i not in (4, 17)]
    found = read_npz(tmp_path / "f.npz")
    assert found["names"].tolist() == [whole.names[i] for i in kept]
    np.testing.assert_allclose(found["features"], whole.features[kept], rtol=1e-4, atol=1e-3)


def test_features_refuse(onetower: Path, raw_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(*arguments: object) -> str:
        result = CliRunner().invoke(main, ["features", str(onetower), *map(str, arguments), "--gpus", "0"])
        assert result.exit_code == 2
        return result.output

    out = ("--out", tmp_path / "f.npz")
    assert refusal(*out) == "Error: features takes either images and folders, or --shards.\n"
    assert refusal("--out", "f.csv", "--shards", raw_shards) == "Error: --out f.csv must end in .npz.\n"
    assert refusal(*out, "--shards", raw_shards, "--layer", "fc9").startswith(
        "Error: the network has no layer fc9; it has: conv1, pool1, conv2, "
    )
    pretend_file(monkeypatch, "/proc/meminfo", "MemAvailable:    1000 kB\n")
    # 18 images of 64 maps of 20 x 20 numbers of 4 bytes
    assert refusal(*out, "--shards", raw_shards, "--layer", "conv1") == (
        "Error: the features of conv1 of 18 images take 1.84 MB of memory, 1.02 MB are free. "
        "Take a later layer or fewer images.\n"
    )
    assert not (tmp_path / "f.npz").exists()
