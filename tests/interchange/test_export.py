"""Exports compute the same logits in other hands: torchvision's layout, safetensors' reader, onnxruntime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from alexnet_fast.cli.main import main
from alexnet_fast.inference.networks import open_network
from alexnet_fast.training import checkpoint
from tests.conftest import CLASSES, save_network


class TorchvisionAlexNet(nn.Module):
    """torchvision/models/alexnet.py, from its documentation: torchvision itself is no dependency of the tests."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))  # type: ignore[no-any-return]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def images(crop: int, count: int = 3) -> NDArray[np.uint8]:
    """Noise, (n, 3, crop, crop)."""
    return np.random.default_rng(0).integers(0, 256, (count, 3, crop, crop), np.uint8)


def logits(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    network = open_network(path)
    with torch.inference_mode():
        found: NDArray[np.float32] = network.model(
            torch.from_numpy(pixels).float() - torch.tensor(network.pixels.mean)[:, None, None]
        ).numpy()
    assert np.ptp(found) > 0.01
    return found


def assert_same(found: Any, expected: NDArray[np.float32]) -> None:
    scale = float(abs(expected).max())
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize(("arch", "crop"), [("onetower", 84), ("bn", 224)])
def test_torchvision_layout_gives_the_same_logits(arch: str, crop: int, tmp_path: Path) -> None:
    path = save_network(tmp_path / "net.pt", arch, crop=crop, hidden=4096)
    assert run("export", path, tmp_path / "out.pth")[0] == 0
    about = json.loads((tmp_path / "out.json").read_text())
    assert [entry["id"] for entry in about["classes"]] == list(CLASSES)
    assert about["input"]["central_crop"] == crop
    theirs = TorchvisionAlexNet(len(CLASSES)).eval()
    theirs.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True))
    pixels = images(crop)
    mean, std = (
        torch.tensor(about["after_to_tensor"][name])[:, None, None] for name in ("normalize_mean", "normalize_std")
    )
    with torch.inference_mode():
        found = theirs((torch.from_numpy(pixels).float() / 255 - mean) / std)
    assert_same(found, logits(path, pixels))
    assert {file.name for file in tmp_path.iterdir()} == {"net.pt", "out.pth", "out.json"}
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    code, output = run("import", tmp_path / "out.pth", tmp_path / "again.pt", "--classes", tmp_path / "classes.txt")
    assert code == 2
    assert "was exported by alexnet-fast" in output


def test_what_torchvision_has_no_place_for(tmp_path: Path) -> None:
    for arch, message in (
        ("paper", "torchvision's AlexNet has neither towers nor local response normalisation, so "),
        ("onetower", "torchvision's AlexNet has 4096 units in fc6 and fc7, "),
    ):
        code, output = run("export", save_network(tmp_path / f"{arch}.pt", arch), tmp_path / "out.pth")
        assert code == 2
        assert output.startswith(f"Error: {message}{tmp_path / f'{arch}.pt'}")
    code, output = run("export", tmp_path / "paper.pt", tmp_path / "out.h5")
    assert (code, output) == (2, f"Error: FILE {tmp_path / 'out.h5'} must end in .pth or .safetensors or .onnx.\n")
    assert run("export", tmp_path / "no.pt", tmp_path / "out.onnx")[0] == 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt"}


def test_safetensors_go_out_and_come_back(tmp_path: Path) -> None:
    path = save_network(tmp_path / "net.pt", "paper", lrn="all")
    assert run("export", path, tmp_path / "out.safetensors")[0] == 0
    state = checkpoint.load(path)
    weights = load_file(tmp_path / "out.safetensors")
    assert weights.keys() == state["model"].keys()
    assert all(torch.equal(values, state["model"][name]) for name, values in weights.items())
    assert run("import", tmp_path / "out.safetensors", tmp_path / "back.pt")[0] == 0
    back = checkpoint.load(tmp_path / "back.pt")
    for key in ("config", "classes", "pixels", "size"):
        assert back[key] == state[key]
    np.testing.assert_array_equal(logits(tmp_path / "back.pt", images(84)), logits(path, images(84)))


VARIANTS: list[tuple[str, int, dict[str, Any]]] = [
    ("paper", 224, {}),
    ("paper", 90, {"lrn": "all", "within_map_norm": True, "activation": "tanh", "bottleneck": 8}),
    ("half", 84, {"lrn": "none", "pool": 2, "without": "conv3 fc7"}),
    ("sixconv", 84, {}),
    ("caffe", 227, {}),
    ("onetower", 84, {}),
    ("bn", 112, {}),
]


@pytest.mark.parametrize(("arch", "crop", "settings"), VARIANTS)
def test_onnx_gives_the_same_logits(arch: str, crop: int, settings: dict[str, Any], tmp_path: Path) -> None:
    path = save_network(tmp_path / "net.pt", arch, crop=crop, **settings)
    code, output = run("export", path, tmp_path / "out.onnx")
    assert code == 0, output
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        pixels = images(crop, count)
        (found,) = session.run(None, {"images": pixels.astype(np.float32)})
        assert_same(found, logits(path, pixels))
    about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
    assert [entry["id"] for entry in about["classes"]] == list(CLASSES)
    model = onnx.load(tmp_path / "out.onnx")
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert "opset 17" in output


def test_onnx_of_a_broken_network_is_not_written(tmp_path: Path) -> None:
    path = save_network(tmp_path / "net.pt", "onetower")
    state = checkpoint.load(path)
    state["model"]["classifier.6.bias"] = torch.full((len(CLASSES),), float("nan"))
    checkpoint.save(tmp_path / "nan.pt", state)
    code, output = run("export", tmp_path / "nan.pt", tmp_path / "out.onnx")
    assert code == 1
    assert output.startswith("Error: onnxruntime's logits differ from torch's by nan of their range")
    assert {file.name for file in tmp_path.iterdir()} == {"net.pt", "nan.pt"}
