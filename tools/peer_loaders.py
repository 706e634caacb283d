"""What tools/peers.py and tools/cold.py start as processes: one loader, clocked; each imports only its own packages.

    python tools/peer_loaders.py rate|beton|open|imports|versions '{"loader": "ours", ...}'

Every loader is an endless stream of batches, so that no start-up but the first falls into the clock. The result is
one line of JSON, the last one printed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from itertools import count
from multiprocessing import active_children
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Environment of a process whose glibc keeps freed memory. Our loader sets this itself."""

PACKAGES = (
    "torch",
    "torchvision",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "ffcv",
    "visionlab-slipstream",
    "webdataset",
    "simplejpeg",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
)
REPEATS = 1000
"""Times a peer that counts epochs is given its samples, so that its epoch does not end within the clock."""

SCALE, RATIO, RESIZED = (0.08, 1.0), (3 / 4, 4 / 3), 224
"""Of resized crops: torchvision's usual ranges, and the pixels of a side."""


@dataclass(frozen=True)
class Job:
    """`files`: folder with images/<class>/*.jpg, jpeg.beton or raw.beton, slipstream's cache. `images`, `seconds`: at
    least that much is clocked, after `warm_up` batches. `order`: random, window (of `window` tars) or
    sequential; ours knows the first two, DALI the first and last. `keep_freed`: glibc keeps freed memory, as our
    loader makes it do by itself; otherwise the peer has it as it comes. `gpu`: ours and DALI's batches are on it.
    `resized`: random resized crops, otherwise crops of 7/8 of the stored size."""

    loader: str
    dtype: str
    shards: str
    files: str = ""
    threads: int = 2
    batch: int = 256
    images: int = 5000
    seconds: float = 0.0
    warm_up: int = 1
    order: str = "random"
    window: int = 16
    keep_freed: bool = False
    gpu: bool = False
    resized: bool = False

    @property
    def manifest(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(Path(self.shards, "manifest.json").read_text())
        return body

    @property
    def tars(self) -> list[Path]:
        return [Path(self.shards, tar["file"]) for tar in self.manifest["splits"]["train"]]

    @property
    def crop(self) -> int:
        return RESIZED if self.resized else int(self.manifest["size"]) * 7 // 8


def summary(turns: list[float]) -> dict[str, Any]:
    return {"median": median(turns), "low": min(turns), "high": max(turns), "turns": turns}


def ours(job: Job) -> Iterator[int]:
    """Global shuffle, crop, mirror; of the float types also mean and PCA colour."""
    import torch

    from alexnet_fast.loading.loader import Loader
    from alexnet_fast.shards.reader import ShardSet

    split = ShardSet(job.shards).split("train")
    loader = Loader.training(
        split,
        batch=job.batch,
        num_epochs=REPEATS,
        crop=job.crop,
        scale=SCALE if job.resized else None,
        ratio=RATIO,
        window=job.window if job.order == "window" else None,
        device="cuda" if job.gpu else "cpu",
        dtype=getattr(torch, job.dtype),
        threads=job.threads,
    )
    for item in loader:
        yield len(item.labels)


def dali(decoder: str, layout: str, job: Job) -> Iterator[int]:
    """decoder -> crop_mirror_normalize."""
    nvidia_dali = import_module("nvidia.dali")
    fn, types = nvidia_dali.fn, nvidia_dali.types
    size, crop, device = int(job.manifest["size"]), job.crop, "mixed" if job.gpu else "cpu"
    kind = {"dtype": types.UINT8, "output_layout": layout}
    if job.dtype == "float32":
        kind |= {"dtype": types.FLOAT, "mean": job.manifest["pixels"]["mean"], "std": [1.0, 1.0, 1.0]}

    def decoded(stored: Any, place: dict[str, Any]) -> Any:
        if decoder == "image_crop":
            return fn.decoders.image_crop(stored, device=device, **place)
        if decoder == "numpy":
            return fn.reshape(fn.decoders.numpy(stored), layout="HWC")
        if decoder == "reshape":  # the pixels come last in an .npy file
            return fn.reshape(stored[-3 * size * size :], shape=[size, size, 3], layout="HWC")
        return fn.decoders.image(stored, device=device)

    def image(stored: Any) -> Any:
        x, y = (fn.random.uniform(range=(0.0, 1.0)) for _ in range(2))
        place = {"crop": (crop, crop), "crop_pos_x": x, "crop_pos_y": y}
        later = {} if decoder == "image_crop" else place
        whole = decoded(stored, place)
        return fn.crop_mirror_normalize(
            whole.gpu() if job.gpu else whole, mirror=fn.random.coin_flip(), **later, **kind
        )

    return dali_batches(job, image)


def dali_resized(decoder: str, job: Job) -> Iterator[int]:
    """A random resized crop, antialiased, or its mirror image; batches (n, height, width, 3)."""
    fn = import_module("nvidia.dali").fn
    device = "mixed" if job.gpu else "cpu"
    ranges = {"random_area": [*SCALE], "random_aspect_ratio": [*RATIO]}

    def image(stored: Any) -> Any:
        if decoder == "image_random_crop":
            box = fn.decoders.image_random_crop(stored, device=device, **ranges)
            pixels = fn.resize(box, size=[job.crop, job.crop])
        else:
            whole = fn.decoders.image(stored, device=device)
            pixels = fn.random_resized_crop(whole, size=[job.crop, job.crop], **ranges)
        return fn.flip(pixels, horizontal=fn.random.coin_flip())

    return dali_batches(job, image)


def dali_batches(job: Job, image: Callable[[Any], Any]) -> Iterator[int]:
    """readers.webdataset with index -> `image` of what is stored, handed to torch without a copy."""
    import torch

    nvidia_dali = import_module("nvidia.dali")

    @nvidia_dali.pipeline_def(batch_size=job.batch, num_threads=job.threads, device_id=0 if job.gpu else None)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        stored, labels = nvidia_dali.fn.readers.webdataset(
            paths=[str(tar) for tar in job.tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in job.tars],
            ext=["jpg" if job.manifest["encoding"] == "jpeg" else "npy", "cls"],
            random_shuffle=job.order == "random",
            missing_component_behavior="error",
        )
        return image(stored), labels

    pipeline = graph()
    pipeline.build()
    while True:
        pixels, _ = pipeline.run()
        yield len(torch.from_dlpack(pixels.as_tensor()))


def ffcv(job: Job) -> Iterator[int]:
    """Its resized crop; of constant size and aspect it is a plain copy of the crop."""
    import torch

    decoders, transforms, loaders = (
        import_module(f"ffcv.{name}") for name in ("fields.decoders", "transforms", "loader")
    )
    share = (job.crop / job.manifest["size"]) ** 2
    scale, ratio = (SCALE, RATIO) if job.resized else ((share, share), (1.0, 1.0))
    pipeline = [
        decoders.RandomResizedCropRGBImageDecoder((job.crop, job.crop), scale=scale, ratio=ratio),
        transforms.RandomHorizontalFlip(),
    ]
    if job.dtype == "float32":
        mean = np.array(job.manifest["pixels"]["mean"])
        pipeline.append(transforms.NormalizeImage(mean, np.ones(3), np.float32))
    pipeline += [transforms.ToTensor(), transforms.ToTorchImage()]
    loader = loaders.Loader(
        str(Path(job.files, f"{job.manifest['encoding']}.beton")),
        batch_size=job.batch,
        num_workers=job.threads,
        order=loaders.OrderOption.RANDOM,
        os_cache=True,
        indices=np.tile(np.arange(len(index_of(job)), dtype=np.uint64), REPEATS // 10),
        pipelines={"image": pipeline, "label": [decoders.IntDecoder(), transforms.ToTensor()]},
    )
    for images, _ in loader:
        assert images.shape[1:] == (3, job.crop, job.crop)
        assert images.dtype == getattr(torch, job.dtype)
        yield len(images)


def slipstream(job: Job) -> Iterator[int]:
    """Decoding fused with its resized crop, otherwise with its central crop, the only one of a constant size. Its
    batches are arrays (n, height, width, 3); it mirrors none. The first loader makes its cache of the files."""
    package = loaded("slipstream")
    if job.resized:
        stage = package.DecodeRandomResizedCrop(job.crop, SCALE, RATIO, num_threads=job.threads)
    else:
        stage = package.DecodeCenterCrop(job.crop, num_threads=job.threads)
    loader = package.SlipstreamLoader(
        package.SlipstreamImageFolder(str(Path(job.files, "images")), cache_dir=str(Path(job.files, "slipstream"))),
        batch_size=job.batch,
        indices=np.tile(np.arange(len(index_of(job))), REPEATS // 10),
        exclude_fields=["path"],
        pipelines={"image": [stage]},
        verbose=False,
    )
    for batch in loader:
        assert batch["image"].shape[1:] == (job.crop, job.crop, 3)
        yield len(batch["image"])


@cache
def declared_operators() -> Any:
    """torchvision's compiled operators, without which it cannot be imported. Its wheel on PyPI has them for torch's
    CUDA build only. Nothing here calls them."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    if torch.version.cuda is None and "+" not in importlib.metadata.version("torchvision"):
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def loaded(name: str) -> Any:
    """A module of torchvision, or of what imports it."""
    declared_operators()
    return import_module(name)


def jpeg_decoder() -> Callable[[bytes], Any]:
    """From a JPEG to a tensor (3, height, width) uint8, by torchvision's decoder or, where that cannot be loaded
    beside this build of torch, by simplejpeg's; both are libjpeg-turbo."""
    import torch

    io = loaded("torchvision.io")
    if hasattr(torch.ops.image, "decode_jpeg"):
        return lambda jpeg: io.decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), io.ImageReadMode.RGB)
    decode = import_module("simplejpeg").decode_jpeg
    return lambda jpeg: torch.from_numpy(decode(jpeg)).permute(2, 0, 1)


def chain(job: Job) -> Any:
    """torchvision's transforms of a uint8 tensor (3, height, width)."""
    import torch

    v2 = loaded("torchvision.transforms.v2")
    crop = v2.RandomResizedCrop(job.crop, SCALE, RATIO, antialias=True) if job.resized else v2.RandomCrop(job.crop)
    steps = [crop, v2.RandomHorizontalFlip()]
    if job.dtype == "float32":
        steps += [v2.ToDtype(torch.float32), v2.Normalize(job.manifest["pixels"]["mean"], [1.0, 1.0, 1.0])]
    return v2.Compose(steps)


def torchvision(job: Job) -> Iterator[int]:
    """ImageFolder, `jpeg_decoder`, DataLoader with as many processes as the others have threads."""
    data, decode = import_module("torch.utils.data"), jpeg_decoder()

    def load(path: str) -> Any:
        return decode(Path(path).read_bytes())

    folder = loaded("torchvision.datasets").ImageFolder(
        str(Path(job.files, "images")), transform=chain(job), loader=load
    )
    sampler = data.RandomSampler(folder, replacement=False, num_samples=len(folder) * REPEATS // 10)
    for images, _ in data.DataLoader(folder, job.batch, sampler=sampler, num_workers=job.threads):
        yield len(images)


def webdataset(job: Job) -> Iterator[int]:
    """Tars in random order, a shuffle buffer of 1,000, `jpeg_decoder` and torchvision's transforms, batches made in the
    DataLoader's processes."""
    import torch

    wds, decode, transform = import_module("webdataset"), jpeg_decoder(), chain(job)

    def load(sample: tuple[bytes, bytes]) -> tuple[Any, int]:
        jpeg, label = sample
        return transform(decode(jpeg)), int(label)

    tars = [str(tar) for tar in job.tars]
    samples = wds.WebDataset(tars, resampled=True, shardshuffle=False).shuffle(1000).to_tuple("jpg", "cls").map(load)
    batches = samples.batched(job.batch, collation_fn=torch.utils.data.default_collate)
    for images, _ in wds.WebLoader(batches, batch_size=None, num_workers=job.threads):
        yield len(images)


def index_of(job: Job) -> NDArray[np.void]:
    index: NDArray[np.void] = np.load(Path(job.shards, "train.index.npy"))
    return index


def members(job: Job) -> list[NDArray[np.uint8]]:
    """The stored image of every sample, memory-mapped."""
    tars = [np.memmap(tar, np.uint8, "r") for tar in job.tars]
    rows = index_of(job)
    places = zip(rows["shard"].tolist(), rows["offset"].tolist(), rows["size"].tolist(), strict=True)
    return [tars[shard][offset : offset + size] for shard, offset, size in places]


def decode_only(job: Job) -> Iterator[int]:
    """libjpeg-turbo alone: whole images to RGB, nothing after it; the limit of all that decode whole images."""
    decode_jpeg = import_module("simplejpeg").decode_jpeg
    stored = [member.data for member in members(job)]

    def decode(samples: NDArray[np.int64]) -> None:
        for sample in samples.tolist():
            decode_jpeg(stored[sample])

    with ThreadPoolExecutor(job.threads) as pool:
        for epoch in count():
            order = np.random.default_rng(epoch).permutation(len(stored))
            for start in range(0, len(order), job.batch):
                samples = order[start : start + job.batch]
                list(pool.map(decode, np.array_split(samples, job.threads)))
                yield len(samples)


DALI_JPEG = {
    "DALI image, HWC": partial(dali, "image", "HWC"),
    "DALI image_crop, HWC": partial(dali, "image_crop", "HWC"),
    "DALI image, CHW": partial(dali, "image", "CHW"),
    "DALI image_crop, CHW": partial(dali, "image_crop", "CHW"),
}
DALI_RAW = {
    "DALI numpy, HWC": partial(dali, "numpy", "HWC"),
    "DALI reshape, HWC": partial(dali, "reshape", "HWC"),
    "DALI reshape, CHW": partial(dali, "reshape", "CHW"),
}
DALI_RESIZED = {
    "DALI image_random_crop, resize": partial(dali_resized, "image_random_crop"),
    "DALI image, random_resized_crop": partial(dali_resized, "image"),
}
ALL_DALI = {**DALI_JPEG, **DALI_RAW, **DALI_RESIZED}
LOADERS: dict[str, Callable[[Job], Iterator[int]]] = {
    "ours": ours,
    **ALL_DALI,
    "FFCV": ffcv,
    "slipstream": slipstream,
    "torchvision": torchvision,
    "webdataset": webdataset,
    "simplejpeg": decode_only,
}
NEEDS = {"ours": ["alexnet_fast"], **{name: ["nvidia.dali"] for name in ALL_DALI}}
NEEDS |= {"FFCV": ["ffcv"], "torchvision": ["torchvision"], "webdataset": ["webdataset", "torchvision"]}
NEEDS |= {"slipstream": ["slipstream"], "simplejpeg": ["simplejpeg"]}
"""The packages of each."""


def rate(job: Job) -> dict[str, Any]:
    """Batches are counted in multiples of `threads`: DataLoader's processes finish theirs together. A GPU's count when
    they are finished there."""
    import torch

    torch.set_num_threads(job.threads)
    batches = LOADERS[job.loader](job)
    for _ in range(job.warm_up):
        next(batches)
    done, started, seconds = 0, perf_counter(), 0.0
    while done < job.images or seconds < job.seconds:
        done += sum(next(batches) for _ in range(job.threads))
        if job.gpu:
            torch.cuda.synchronize()
        seconds = perf_counter() - started
    return {"images": done, "seconds": seconds, "images_per_second": done / seconds}


def beton(job: Job) -> dict[str, Any]:
    """Writes FFCV's file: the stored JPEG bytes as they are, or the stored pixels."""
    fields, writer = import_module("ffcv.fields"), import_module("ffcv.writer")
    manifest, stored, rows = job.manifest, members(job), index_of(job)
    size, is_jpeg = int(manifest["size"]), manifest["encoding"] == "jpeg"
    image = fields.RGBImageField("jpg" if is_jpeg else "raw")

    def encode(destination: Any, sample: int, malloc: Any) -> None:
        jpeg = stored[sample]
        destination["mode"], (destination["height"], destination["width"]) = 0, shapes[sample]
        destination["data_ptr"], storage = malloc(jpeg.nbytes)
        storage[:] = jpeg

    is_square = "height" not in (rows.dtype.names or ())
    shapes = [(size, size)] * len(rows) if is_square else rows[["height", "width"]].tolist()

    if is_jpeg:
        image.encode = encode

    class Samples:
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, sample: int) -> tuple[Any, int]:
            label = int(rows["label"][sample])
            return (sample if is_jpeg else stored[sample][-3 * size * size :].reshape(size, size, 3)), label

    path = Path(job.files, f"{manifest['encoding']}.beton")
    parts = {"image": image, "label": fields.IntField()}
    writer.DatasetWriter(str(path), parts, num_workers=job.threads).from_indexed_dataset(Samples())
    return {"bytes": path.stat().st_size}


def imports() -> dict[str, Any]:
    """What torch and DALI take by themselves, and our package after them."""
    started = perf_counter()
    import_module("torch")
    after_torch, torch_mb = perf_counter(), memory_mb()
    for name in ("nvidia.dali", "nvidia.dali.fn"):
        import_module(name)
    both = {"seconds": perf_counter() - started, "peak_mb": memory_mb()}
    return {"torch": {"seconds": after_torch - started, "peak_mb": torch_mb}, "torch and DALI": both}


def open_set(job: Job) -> dict[str, Any]:
    """From ShardSet() to the first batch, DALI's import included, torch's not."""
    from alexnet_fast.loading import loader as _  # noqa: F401
    from alexnet_fast.loading.boxes import Boxes
    from alexnet_fast.loading.plan import training_rows

    imported_mb, started = memory_mb(), perf_counter()
    batches = LOADERS[job.loader](job)  # kept: with it the tars are unmapped
    next(batches)
    seconds, peak = perf_counter() - started, memory_mb()
    of_files = memory_mb("RssFile")
    samples = len(index_of(job))
    started = perf_counter()
    next(training_rows(samples, samples, 0, boxes=Boxes(256, 224), colour_std=0.1))
    return {
        "samples": samples,
        "tars": len(job.tars),
        "seconds": seconds,
        "peak_mb": peak,
        "of_files_mb": of_files,
        "imported_mb": imported_mb,
        "plan_seconds": perf_counter() - started,
    }


def memory_mb(kind: str = "VmHWM") -> float:
    """Of this process; ru_maxrss would count the parent's from before exec."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith(kind))


def versions() -> dict[str, Any]:
    """Versions of this interpreter's packages, and which loaders' packages import."""
    found = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    reasons = {name: why_not(packages) for name, packages in NEEDS.items()}
    return {"packages": found, "missing": {name: reason for name, reason in reasons.items() if reason}}


def why_not(packages: list[str]) -> str:
    """Empty where they import."""
    try:
        for package in packages:
            (loaded if package in ("torchvision", "slipstream") else import_module)(package)
    except Exception as error:  # a package that does not fit another may raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def run(action: str, job: Job | None = None, python: str = sys.executable) -> dict[str, Any]:
    """In a process of its own. Raises RuntimeError with the last line of what it complained about."""
    command = [python, __file__, action, *([json.dumps(asdict(job))] if job else [])]
    extra = FREED if job and job.keep_freed else {}
    done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    action = sys.argv[1]
    actions = {"rate": rate, "beton": beton, "open": open_set}
    job = Job(**json.loads(sys.argv[2])) if action in actions else None
    result = actions[action](job) if job else {"imports": imports, "versions": versions}[action]()
    print(json.dumps(result), flush=True)
    for child in active_children():
        child.kill()
    os._exit(0)  # the threads of an endless stream are not waited for


if __name__ == "__main__":
    main()
