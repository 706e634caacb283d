"""Data that several tests share: a small image folder, shard sets made from it, and real photographs."""

import hashlib
import os
import signal
import tarfile
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet_fast import native
from alexnet_fast.config import TrainConfig
from alexnet_fast.loading.boxes import Boxes
from alexnet_fast.loading.plan import Rows, training_rows
from alexnet_fast.model.alexnet import build
from alexnet_fast.recipes import make_config
from alexnet_fast.sharding.listing import Source
from alexnet_fast.sharding.output import Output, open_output
from alexnet_fast.sharding.plan import Options
from alexnet_fast.sharding.pool import Processes
from alexnet_fast.sharding.sources import find_images
from alexnet_fast.sharding.write import Part, Summary, write_shard_set
from alexnet_fast.training import checkpoint

J = TypeVar("J")
R = TypeVar("R")

CLASSES = ("n01_ball", "n02_cube", "n03_cone")
IMAGES_PER_CLASS = {"train": 20, "val": 6}
SIZE = 96
MIXED_BUDGET = 1_200_000

REAL_IMAGES = Path("shared", "data", "imagenet-originals-350.tar")
IMAGENETTE = Path("shared", "data", "imagenette-224.tar")
"""Beside the checkout; not part of the repository."""

TESTS = Path(__file__).resolve().parent
LONGEST = [
    *("system/test_image", "training/test_training", "system/test_paper", "system/test_parallel"),
    *("training/test_checkpoint", "system/test_elastic", "system/test_fuzz", "system/test_crash", "system/test_demo"),
    *("system/test_corruption", "system/test_lost_process", "system/test_training", "system/test_stream"),
]
"""Files begun first, so that the processes of tools/test end together."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What lies in tests/system has the marker `system`; what needs a GPU is run where -m asks for it alone."""
    for item in items:
        if TESTS / "system" in item.path.parents:
            item.add_marker("system")
    if "gpu" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("gpu")]
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=left_out)
    order = {TESTS / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


class Here:
    """A pool that does each job at once, in this process: it costs nothing to start."""

    slots = 1
    killed: type[Exception] = BrokenProcessPool

    def submit(self, slot: int, function: Callable[[J], R], job: J) -> Future[R]:
        future: Future[R] = Future()
        try:
            future.set_result(function(job))
        except Exception as error:
            future.set_exception(error)
        return future

    def renew(self, slot: int) -> None:
        raise AssertionError("nothing was killed")

    def reported(self, slots: list[int]) -> int:
        return 0

    def close(self) -> None:
        pass


def write(source: Source, out: Path | str, options: Options, workers: int = 1, part: Part | None = None) -> Summary:
    return write_to(open_output([str(out)]), source, options, workers, part)


def write_to(output: Output, source: Source, options: Options, workers: int = 1, part: Part | None = None) -> Summary:
    return write_shard_set(source, output, options, lambda: Processes(workers) if workers > 1 else Here(), part=part)


def files(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def interrupted(step: Callable[..., Any], stop_after: int) -> Callable[..., Any]:
    """`step`, which at its `stop_after`-th call interrupts this process as Ctrl-C does."""
    taken = 0

    def count(*args: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == stop_after:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    return count


def pretend_file(monkeypatch: pytest.MonkeyPatch, path: str, text: str) -> None:
    """Path.read_text finds `text` there, and all other files as they are."""
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **how: text if self == Path(path) else read(self, **how))


def turn_native_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package was installed without a compiler."""
    monkeypatch.setattr(native, "loaded", lambda: native.Native(None, None, "none"))


@pytest.fixture
def native_decoder() -> None:
    if native.decoder() == "none":
        pytest.skip(f"needs the compiled code and its libjpeg: {native.loaded().reason}")


def picture(seed: int, label: int = 0) -> NDArray[np.uint8]:
    """A photo-like image: a gradient, tinted by class, with noise; its size differs from seed to seed."""
    random = np.random.default_rng(seed)
    height, width = random.integers(60, 260, 2)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    slopes = random.uniform(-80, 80, (3, 2))
    image = 128 + slopes[:, 0] * (y[..., None] - 0.5) + slopes[:, 1] * (x[..., None] - 0.5)
    image[..., label % 3] += 40
    noisy: NDArray[np.float64] = image + random.normal(0, 8, image.shape)
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ with three classes: 60 and 18 JPEGs."""
    folder = tmp_path_factory.mktemp("images")
    for split, count in IMAGES_PER_CLASS.items():
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + number + (500 if split == "val" else 0)
                path = folder / split / name / f"{name}_{number}.JPEG"
                Image.fromarray(picture(seed, label)).save(path, "JPEG", quality=92)
    return folder


@pytest.fixture(scope="session")
def jpeg_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "jpeg"
    write(find_images(image_folder), out, Options("jpeg", size=SIZE))
    return out


@pytest.fixture(scope="session")
def raw_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "raw"
    write(find_images(image_folder), out, Options("raw", size=SIZE))
    return out


@pytest.fixture(scope="session")
def mixed_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About half of the training samples are raw."""
    out = tmp_path_factory.mktemp("shards") / "mixed"
    write(find_images(image_folder), out, Options("mixed", size=SIZE, budget=MIXED_BUDGET))
    return out


@pytest.fixture(scope="session")
def full_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the images, as JPEGs."""
    out = tmp_path_factory.mktemp("shards") / "full"
    write(find_images(image_folder), out, Options("jpeg", shape="full", size=SIZE))
    return out


@pytest.fixture(scope="session")
def full_raw_shards(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pixels of the images as they are."""
    out = tmp_path_factory.mktemp("shards") / "full-raw"
    write(find_images(image_folder), out, Options("raw", shape="full", size=0))
    return out


ODD_CLASSES = ["__a__", "_b", "кошка", "собака"]


@pytest.fixture(scope="session")
def odd_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of classes and files whose names some reader would leave out if they were keys: 12 and 12 JPEGs."""
    folder = tmp_path_factory.mktemp("odd")
    for split in ("train", "val"):
        for label, name in enumerate(ODD_CLASSES):
            (folder / "images" / split / name).mkdir(parents=True)
            for number, file in enumerate(("фото1", "__meta__", "_x y.z")):
                path = folder / "images" / split / name / f"{file}.jpg"
                Image.fromarray(picture(10 * label + number, label)).save(path, "JPEG")
    write(find_images(folder / "images"), folder / "set", Options("jpeg", size=SIZE))
    return folder / "set"


@pytest.fixture(scope="session")
def trained_run(raw_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's net, 32 units wide, after two epochs; a log line a step. Not to be changed: copy it."""
    import torch

    from alexnet_fast.distributed.topology import Topology
    from alexnet_fast.training.start import train

    folder = tmp_path_factory.mktemp("runs") / "paper"
    config = make_config(
        "paper", shards=str(raw_shards), epochs=2, batch=16, hidden=32, precision="fp32", log_every=1, threads=1
    )
    train(Topology(0, 1, torch.device("cpu")), folder, config.as_dict(), resume=False)
    return folder


@pytest.fixture
def fed_to_dali(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many JPEGs each call gave to DALI's decoder."""
    from alexnet_fast.loading.dali import JpegDecoder

    fed: list[int] = []
    submit = JpegDecoder.submit

    def counted(self: JpegDecoder, stored: list[NDArray[np.uint8]], *more: Any) -> None:
        fed.append(len(stored))
        submit(self, stored, *more)

    monkeypatch.setattr(JpegDecoder, "submit", counted)
    return fed


def set_host_share(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Has training on a GPU try no other share of the JPEGs for the host."""
    from alexnet_fast.loading import decoders
    from alexnet_fast.loading.share import ShareTrials

    class Settled(ShareTrials):
        def __init__(self) -> None:
            super().__init__()
            self.share, self.done = share, True

    monkeypatch.setattr(decoders, "ShareTrials", Settled)


def unpacked(archive: Path, folder: Path) -> Path:
    """The archive's folder that holds train/; skips where the archive is not there."""
    path = TESTS.parents[1] / archive
    if not path.is_file():
        pytest.skip(f"needs {archive} beside the checkout")
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    return next(path.parent for path in folder.glob("*/train"))


@pytest.fixture(scope="session")
def real_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 350 real photographs, train/<class>/*.JPEG."""
    return unpacked(REAL_IMAGES, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="session")
def imagenette(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Imagenette's folder: 9,469 training and 3,925 validation images of ten ImageNet classes."""
    return unpacked(IMAGENETTE, tmp_path_factory.mktemp("imagenette"))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)


def save_network(path: Path, arch: str = "bn", *, crop: int = 84, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of a network that never learnt, whose guesses differ from image to image all the same."""
    config = TrainConfig(arch=arch, crop=crop, **{"hidden": 32, "seed": seed, **settings})
    torch.manual_seed(seed)
    model = build(len(CLASSES), config)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.ndim > 1:
                torch.nn.init.kaiming_normal_(values, nonlinearity="relu")
            elif name.endswith("bias"):
                values.normal_(std=0.1)
            else:
                values.uniform_(0.5, 1.5)
        for name, statistics in model.named_buffers():
            if name.endswith("running_var"):
                statistics.uniform_(100.0, 4000.0)
    state = {
        "model": model.state_dict(),
        "config": config.as_dict(),
        "classes": [{"id": name, "name": name.partition("_")[2]} for name in CLASSES],
        "pixels": {
            "mean": [120.0 + seed, 110.0, 100.0],
            "covariance": [[1.0, 0.0, 0.0]] * 3,
            "deviations": [1.0, 1.0, 1.0],
            "components": [[1.0, 0.0, 0.0]] * 3,
        },
        "epoch": 1,
        "size": SIZE,
    }
    checkpoint.save(path, state)
    return path


def epoch_rows(seed: int, epoch: int, samples: int, *, margin: int, colour_std: float, **more: Any) -> Rows:
    """All of an epoch's rows, as one step. `margin`: side of the stored squares less that of the crops."""
    epochs, boxes = range(epoch, epoch + 1), Boxes(margin + 64, 64)
    (rows,) = training_rows(samples, samples, seed, boxes=boxes, colour_std=colour_std, epochs=epochs, **more)
    return rows


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)
