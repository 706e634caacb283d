"""The pass over a batch's pixels in its three forms, against the loader's compiled code and hand computation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_fast import environment
from alexnet_fast.loading.handover import centre
from alexnet_fast.loading.loader import Loader
from alexnet_fast.shards.reader import ShardSet
from tests.triton_kernels import compile_for, interpret, registers_and_stack

CROP = 84
TYPES = [torch.float32, torch.float16, torch.bfloat16]


def made(n: int, height: int, width: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Pixels and offsets."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator)
    return pixels.to(device), torch.rand(n, 3, generator=generator).mul(200).to(device)


def by_hand(pixels: Tensor, upright: int, offset: Tensor) -> Tensor:
    result = pixels.cpu().numpy().astype(np.float32) - offset.cpu().numpy()[:, None, None, :]
    result[upright:] = result[upright:, :, ::-1]
    return torch.from_numpy(result)


class OnGpu(Tensor):
    """A tensor in the CPU's memory that says it is on a GPU."""

    device = torch.device("cuda")

    def to(self, *_: Any, **__: Any) -> Tensor:
        return self


def as_on_gpu(pixels: Tensor, upright: int, offset: Tensor, out: Tensor) -> None:
    centre(pixels.as_subclass(OnGpu), upright, offset.as_subclass(OnGpu), out.as_subclass(OnGpu))


@pytest.fixture(params=["CPU", "GPU without Triton", "Triton"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "CPU":
        return centre
    if request.param == "GPU without Triton":
        monkeypatch.setattr(environment, "why_no_triton", lambda: "Triton is not used: no compiler")
        return as_on_gpu
    triton = pytest.importorskip("alexnet_fast.loading.pixels_triton", reason="needs Triton")
    interpret(monkeypatch, triton)
    return triton.centre


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("upright", [0, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 6), (9, 13), (27, 40)])
def test_centre_is_exact(form: Any, height: int, width: int, upright: int, dtype: torch.dtype) -> None:
    pixels, offset = made(5, height, width)
    out = torch.full(pixels.shape, torch.nan, dtype=dtype)
    form(pixels.clone(), upright, offset, out)
    assert torch.equal(out, by_hand(pixels, upright, offset).to(dtype))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_centre_is_the_loader_s(form: Any, raw_shards: Path, dtype: torch.dtype) -> None:
    """Of the loader's own crops, colour shifts and mirrored images, bit by bit; the colours are drawn by the rows."""
    split = ShardSet(raw_shards).split("train")

    def load(dtype: torch.dtype) -> tuple[Loader, Any]:
        loader = Loader.training(split, batch=8, num_epochs=1, crop=CROP, device=torch.device("cpu"), dtype=dtype)
        return loader, next(iter(loader))

    loader, expected = load(dtype)
    _, stored = load(torch.uint8)
    rows = expected.rows
    upright = int((~rows.mirror).sum())
    assert 0 < upright < len(rows.samples)
    assert not rows.mirror[:upright].any()
    pixels = stored.images.permute(0, 2, 3, 1).contiguous()
    pixels[upright:] = pixels[upright:].flip(2)  # as they are stored
    offset = torch.from_numpy(loader._pipeline._mean - rows.colour @ loader._pipeline._colour_axes)
    out = torch.empty(pixels.shape, dtype=dtype)
    form(pixels, upright, offset, out)
    assert torch.equal(out.permute(0, 3, 1, 2), expected.images)


class Made(TorchDispatchMode):
    """The bytes of the largest tensor that any operator made anew, by its type."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not operator._schema.is_mutable and not operator.is_view:
            self.largest[result.dtype] = max(self.largest.get(result.dtype, 0), result.nbytes)
        return result


def test_without_triton_no_float32_copy_of_the_batch_is_made() -> None:
    """Only the mirrored half is copied, as bytes, and a row of offsets an image; on tensors of no memory."""
    pixels = torch.empty(64, 224, 224, 3, dtype=torch.uint8, device="meta")
    out = torch.empty(pixels.shape, dtype=torch.bfloat16, device="meta")
    with Made() as seen:
        centre(pixels, 32, torch.empty(64, 3, device="meta"), out)
    assert seen.largest == {torch.uint8: pixels.nbytes // 2, torch.float32: 64 * 224 * 3 * 4}


def test_gpus_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is Triton, and not for bytes."""
    triton = pytest.importorskip("alexnet_fast.loading.pixels_triton", reason="needs Triton")
    taken: list[torch.dtype] = []
    monkeypatch.setattr(triton, "centre", lambda pixels, upright, offset, out: taken.append(out.dtype))
    monkeypatch.setattr(environment, "why_no_triton", lambda: None)
    pixels, offset = made(2, 4, 4)
    for dtype in (torch.bfloat16, torch.uint8):
        as_on_gpu(pixels, 1, offset, torch.empty(pixels.shape, dtype=dtype))
    assert taken == [torch.bfloat16]
    monkeypatch.setattr(environment, "why_no_triton", lambda: "Triton is not used: no compiler")
    as_on_gpu(pixels, 1, offset, torch.empty(pixels.shape))
    assert taken == [torch.bfloat16]


def test_compiled_it_writes_sixteen_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel for batches of all sizes, mirrored or not; nothing by shared memory or the stack."""
    triton = pytest.importorskip("alexnet_fast.loading.pixels_triton", reason="needs Triton")

    def batches() -> None:
        for n, upright in ((2, 1), (3, 2), (16, 16)):
            pixels, offset = made(n, 32, 32)
            triton.centre(pixels, upright, offset, torch.empty(pixels.shape, dtype=torch.bfloat16))

    (kernel,) = compile_for(monkeypatch, triton, 90, batches)
    ptx = kernel.asm["ptx"]
    assert ptx.count("st.global.v4.b32") == ptx.count("st.global") == 1
    assert ptx.count("cvt.rn.bf16x2.f32") == 4
    assert kernel.metadata.shared == 0
    registers, stack = registers_and_stack(kernel)
    assert registers <= 32
    assert stack == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("form", ["torch", "Triton"])
def test_on_a_gpu(form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.why_no_triton() is None
    if form == "torch":
        monkeypatch.setattr(environment, "why_no_triton", lambda: "not here")
    for side in (27, 224, 227):
        pixels, offset = made(9, side, side, "cuda")
        expected = by_hand(pixels, 4, offset).to(dtype)
        out = torch.empty(pixels.shape, dtype=dtype, device="cuda")
        centre(pixels, 4, offset, out)
        assert torch.equal(out.cpu(), expected)
