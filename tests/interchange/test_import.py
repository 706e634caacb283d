"""Imports against the source networks written out in torch: a caffemodel made byte by byte, and torchvision's."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, linear, local_response_norm, max_pool2d, relu

from alexnet_fast.cli.main import main
from alexnet_fast.config import TrainConfig
from alexnet_fast.interchange.caffemodel import read_layers, read_mean
from alexnet_fast.model.alexnet import build
from alexnet_fast.training import checkpoint
from tests.conftest import CLASSES
from tests.interchange.test_export import TorchvisionAlexNet, images, logits, run

HIDDEN = 32
SHAPES = {
    "conv1": (96, 3, 11, 11),
    "conv2": (256, 48, 5, 5),
    "conv3": (384, 256, 3, 3),
    "conv4": (384, 192, 3, 3),
    "conv5": (256, 192, 3, 3),
    "fc6": (HIDDEN, 9216),
    "fc7": (HIDDEN, HIDDEN),
    "fc8": (len(CLASSES), HIDDEN),
}
LAYERS = (
    "data conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 conv3 relu3 conv4 relu4 conv5 relu5 pool5 fc6 relu6 drop6"
)
LAYERS += " fc7 relu7 drop7 fc8 loss"
Weights = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]


@pytest.fixture(scope="module")
def weights() -> Weights:
    random = np.random.default_rng(0)
    return {
        name: (
            random.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32),
            random.normal(0, 0.1, shape[0]).astype(np.float32),
        )
        for name, shape in SHAPES.items()
    }


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """Protocol buffers: a number is field << 3, bytes are field << 3 | 2 and their length."""
    return b"".join(
        varint(number << 3) + varint(content)
        if isinstance(content, int)
        else varint(number << 3 | 2) + varint(len(content)) + content
        for number, content in fields
    )


def blob(values: NDArray[np.float32]) -> bytes:
    shape = message((1, b"".join(varint(length) for length in values.shape)))
    return message((5, values.astype("<f4").tobytes()), (7, shape))


def old_blob(values: NDArray[np.float32]) -> bytes:
    """Of before 2014: always four lengths."""
    lengths = (1,) * (4 - values.ndim) + values.shape
    return message(*enumerate(lengths, 1), (5, values.astype("<f4").tobytes()), (6, b""))


def caffemodel(weights: Weights, order: str = LAYERS) -> bytes:
    """As Caffe writes it: name, then layers with name, type, bottom, top, and fields this program skips."""
    layers = [
        message(
            *((1, name.encode()), (2, b"Type"), (3, b"below"), (4, name.encode()), (10, 1)),
            *[(7, blob(values)) for values in weights.get(name, ())],
            (100, struct.pack("<f", 1.0)),
        )
        for name in order.split()
    ]
    return message((1, b"AlexNet"), *[(100, layer) for layer in layers])


def old_caffemodel(weights: Weights) -> bytes:
    layers = [
        message((2, b"below"), (3, name.encode()), (4, name.encode()), (5, 4))
        + varint(7 << 3 | 5)  # a fixed 32-bit number
        + struct.pack("<f", 1.0)
        + message(*[(6, old_blob(values)) for values in weights.get(name, ())])
        for name in LAYERS.split()
    ]
    return message((1, b"AlexNet"), *[(2, layer) for layer in layers])


def caffe_by_hand(weights: Weights, rgb: NDArray[np.uint8], mean_bgr: list[float]) -> NDArray[np.float32]:
    """models/bvlc_alexnet/deploy.prototxt, on BGR; its pools round up, which 55, 27 and 13 do not need."""
    x = torch.from_numpy(rgb[:, ::-1].astype(np.float32) - np.array(mean_bgr, np.float32)[:, None, None])
    w = {name: (torch.from_numpy(weight), torch.from_numpy(bias)) for name, (weight, bias) in weights.items()}

    def norm(x: Tensor) -> Tensor:
        return local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    x = max_pool2d(norm(relu(conv2d(x, *w["conv1"], stride=4))), 3, 2, ceil_mode=True)
    x = max_pool2d(norm(relu(conv2d(x, *w["conv2"], padding=2, groups=2))), 3, 2, ceil_mode=True)
    x = relu(conv2d(x, *w["conv3"], padding=1))
    x = relu(conv2d(x, *w["conv4"], padding=1, groups=2))
    x = relu(conv2d(x, *w["conv5"], padding=1, groups=2))
    x = max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
    x = relu(linear(x, *w["fc6"]))
    x = relu(linear(x, *w["fc7"]))
    return linear(x, *w["fc8"]).numpy()


def assert_same(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    scale = float(abs(expected).max())
    assert np.ptp(expected) > 0.01 * scale
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-4)


@pytest.fixture
def synset_words(tmp_path: Path) -> Path:
    path = tmp_path / "synset_words.txt"
    path.write_text("".join(f"{name} {name.partition('_')[2]}, or so\n" for name in CLASSES))
    return path


@pytest.mark.parametrize("layout", [caffemodel, old_caffemodel])
def test_bvlc_alexnet(layout: Any, weights: Weights, synset_words: Path, tmp_path: Path) -> None:
    source = tmp_path / "bvlc_alexnet.caffemodel"
    source.write_bytes(layout(weights))
    code, output = run("import", source, tmp_path / "net.pt", "--classes", synset_words)
    assert code == 0, output
    pixels = images(227)
    expected = caffe_by_hand(weights, pixels, [104.00698793, 116.66876762, 122.67891434])
    assert_same(logits(tmp_path / "net.pt", pixels), expected)
    state = checkpoint.load(tmp_path / "net.pt")
    assert state["classes"][0] == {"id": CLASSES[0], "name": "ball, or so"}
    assert (state["config"]["arch"], state["config"]["crop"], state["size"]) == ("caffe", 227, 256)


def test_a_mean_image_gives_its_channels_means(weights: Weights, synset_words: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (3, 16, 16)).astype(np.float32)
    bgr = image.mean((1, 2)).tolist()
    (tmp_path / "mean.binaryproto").write_bytes(old_blob(image))
    assert read_mean(tmp_path / "mean.binaryproto") == pytest.approx(bgr[::-1])
    source = tmp_path / "x.caffemodel"
    source.write_bytes(caffemodel(weights))
    given = ("--classes", synset_words, "--mean", tmp_path / "mean.binaryproto")
    assert run("import", source, tmp_path / "net.pt", *given)[0] == 0
    assert_same(logits(tmp_path / "net.pt", images(227)), caffe_by_hand(weights, images(227), bgr))


def test_doubles_and_unpacked_shapes(tmp_path: Path) -> None:
    values = np.arange(6, dtype="<f8")
    layer = message((1, b"x"), (7, message((8, values.tobytes()), (7, message((1, 2), (1, 3))))))
    (tmp_path / "x.caffemodel").write_bytes(message((100, layer)))
    (found,) = read_layers(tmp_path / "x.caffemodel")["x"]
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_torchvisions_weights(synset_words: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = TorchvisionAlexNet(len(CLASSES)).eval()
    with torch.no_grad():
        for values in theirs.parameters():
            if values.ndim > 1:
                torch.nn.init.kaiming_normal_(values, nonlinearity="relu")
            else:
                values.normal_(std=0.1)
    torch.save(theirs.state_dict(), tmp_path / "alexnet-owt.pth")
    code, output = run("import", tmp_path / "alexnet-owt.pth", tmp_path / "net.pt", "--classes", synset_words)
    assert code == 0, output
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for crop in (224, 100):
        pixels = images(crop)
        normalised = (torch.from_numpy(pixels).float() / 255 - mean[:, None, None]) / std[:, None, None]
        with torch.inference_mode():
            expected = theirs(normalised).numpy()
        assert_same(logits(tmp_path / "net.pt", pixels), expected)


def test_the_checkpoint_works_in_every_command(
    weights: Weights, raw_shards: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Its crop, 227 px, is larger than the fixture's images: sharded as the message says, they fit."""
    source, net = tmp_path / "bvlc_alexnet.caffemodel", tmp_path / "net.pt"
    source.write_bytes(caffemodel(weights))
    assert run("import", source, net, "--shards", raw_shards)[0] == 0
    code, output = run("eval", net, "--shards", raw_shards, "--gpus", "0")
    assert code == 2
    assert output.endswith("(96 px). Shard with --size 260 or more, or take a smaller crop.\n")
    made = ("--out", tmp_path / "set", "--size", "260", "--encoding", "raw", "--workers", "1")
    assert run("shard", "--src", image_folder, *made)[0] == 0
    commands: dict[str, list[Path | str]] = {
        "eval": [net, "--shards", tmp_path / "set"],
        "predict": [net, image_folder / "val" / CLASSES[0]],
        "features": [net, "--shards", tmp_path / "set", "--out", tmp_path / "f.npz"],
        "export": [net, tmp_path / "out.onnx"],
    }
    results = {}
    for name, arguments in commands.items():
        on_cpu = ["--gpus", "0"] * (name != "export")
        result = CliRunner().invoke(main, [name, *map(str, arguments), *on_cpu, "--json", "-"])
        assert result.exit_code == 0, result.output
        results[name] = json.loads(result.stdout)
    assert results["eval"]["images"] == 18
    assert results["predict"]["images"] == 6
    assert results["features"]["shape"] == [18, HIDDEN]
    model = build(len(CLASSES), TrainConfig(arch="paper", hidden=HIDDEN))
    taken = checkpoint.start_from(model, net, checkpoint.load(net)["classes"])  # what --set init= does
    assert taken == list(SHAPES)
    assert np.array_equal(model.layers()["conv1"].weight.detach(), weights["conv1"][0][:, ::-1])


def test_what_cannot_be_imported(weights: Weights, synset_words: Path, tmp_path: Path) -> None:
    files = {
        "good.caffemodel": caffemodel(weights),
        "caffenet.caffemodel": caffemodel(weights, LAYERS.replace("norm1 pool1", "pool1 norm1")),
        "cut.caffemodel": caffemodel(weights)[:100_000],
        "text.caffemodel": b"name: 'AlexNet'\n",
        "empty.caffemodel": b"",
        "lenet.caffemodel": caffemodel({"conv1": weights["conv1"]}),
        "text.pth": b"no weights",
        "text.safetensors": b"no weights",
        "x.h5": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(TorchvisionAlexNet(5).state_dict(), tmp_path / "five.pth")
    (tmp_path / "twice.txt").write_text("a ball\na cube\n")
    before = {path.name for path in tmp_path.iterdir()}
    classes = ("--classes", synset_words)
    for name, given, expected in (
        ("no.pth", classes, "does not exist. Name a file that ends in .pth, .caffemodel, .safetensors."),
        ("x.h5", classes, "must end in .pth, .caffemodel, .safetensors, by its format."),
        ("good.caffemodel", (), "does not name its classes. Give --classes synset_words.txt"),
        ("good.caffemodel", (*classes, "--shards", "x"), "--classes and --shards both name the classes"),
        ("good.caffemodel", ("--classes", tmp_path / "twice.txt"), "twice.txt names a twice."),
        ("good.caffemodel", ("--classes", tmp_path / "no.txt"), "no.txt cannot be read"),
        ("good.caffemodel", (*classes, "--mean", synset_words), "cannot be read as a mean image"),
        ("caffenet.caffemodel", classes, "pools before it normalises, as CaffeNet does"),
        ("cut.caffemodel", classes, "cannot be read as a caffemodel (it ends too early)"),
        ("text.caffemodel", classes, "cannot be read as a caffemodel"),
        ("empty.caffemodel", classes, "holds no layers"),
        ("lenet.caffemodel", classes, "has no weights and biases of conv2"),
        ("text.pth", classes, "cannot be read as a state dict"),
        ("other.pth", classes, "has no classifier.1.weight"),
        ("five.pth", classes, "is not a network of arch onetower. It has 5 outputs for 3 classes."),
        ("five.pth", (*classes, "--mean", synset_words), "--mean is for a caffemodel"),
        ("text.safetensors", (), "is no complete file of alexnet-fast export"),
        ("text.safetensors", classes, "has its own classes"),
    ):
        code, output = run("import", tmp_path / name, tmp_path / "net.pt", *given)
        assert (code, output.startswith("Error: ")) == (2, True), output
        assert expected in output
        assert output.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before
