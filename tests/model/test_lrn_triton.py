"""LRN's kernels for GPUs, without one: the interpreter's numbers against float64, and what compilers make of them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet_fast import environment
from alexnet_fast.config import TrainConfig
from alexnet_fast.model import lrn_kernel
from alexnet_fast.model.alexnet import build
from alexnet_fast.model.lrn import LocalResponseNorm
from tests.model.test_lrn import random, torch_s
from tests.triton_kernels import compile_for, interpret, registers_and_stack

lrn_triton = pytest.importorskip("alexnet_fast.model.lrn_triton", reason="needs Triton")
A, K = 1e-4 / 5, 2.0
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.float16: (2**-10, 1e-4), torch.bfloat16: (2**-7, 1e-3)}
"""Half a step of the type's, and a bit for what is rounded near nothing."""


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    interpret(monkeypatch, lrn_triton)


def both_ways(x: Tensor, gradient: Tensor, towers: int) -> tuple[Tensor, Tensor]:
    return lrn_triton.lrn(x, towers, A, K), lrn_triton.lrn_backward(x, gradient, towers, A, K)


def with_torch(layer: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad(y, x, gradient)[0]


def maps_and_gradient(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return random(*shape, dtype=dtype).detach(), gradient.to(dtype, memory_format=torch.channels_last)


SHAPES = [(1, 5, 1, 1), (1, 5, 27, 27), (2, 10, 3, 3), (1, 48, 5, 27), (2, 96, 1, 1), (1, 96, 55, 2), (1, 128, 13, 3)]
SHAPES += [(1, 192, 5, 5), (1, 256, 6, 5)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("shape", "towers"), [(s, t) for s in SHAPES for t in (1, 2) if s[1] % t == 0], ids=str)
def test_values_and_gradients_are_those_of_float64(
    interpreted: None, shape: tuple[int, ...], towers: int, dtype: torch.dtype
) -> None:
    x, gradient = maps_and_gradient(*shape, dtype=dtype)
    exact = with_torch(torch_s(towers).double(), x.double(), gradient.double())
    rtol, atol = TOLERANCES[dtype]
    for ours, true in zip(both_ways(x, gradient, towers), exact, strict=True):
        assert ours.dtype == dtype
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours.double(), true, rtol=rtol, atol=atol * true.abs().max().item())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-7), (torch.bfloat16, 0.0017)], ids=str)
def test_it_is_as_precise_as_the_c(interpreted: None, dtype: torch.dtype, most: float) -> None:
    """The error relative to float64: in bfloat16 no more than rounding the result alone makes it."""
    x, gradient = maps_and_gradient(2, 96, 9, 7, dtype=dtype)
    exact = with_torch(torch_s(2).double(), x.double(), gradient.double())
    c = with_torch(LocalResponseNorm(96, 2), x, gradient)
    for ours, theirs, true in zip(both_ways(x, gradient, 2), c, exact, strict=True):
        error = ((ours.double() - true).norm() / true.norm()).item()
        assert error < most
        if lrn_kernel.available():
            assert error < 1.05 * ((theirs.double() - true).norm() / true.norm()).item()


@pytest.mark.parametrize("width", [5, 48])
def test_nothing_but_the_maps_is_read_or_written(
    interpreted: None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaNs lie before and behind them, and in the other tower, of which none may come into the result."""
    memory = torch.full((3, 5 * 2 * width + 64), torch.nan)
    whole = memory[:, 32:-32]
    whole[:2] = torch.randn(2, 10 * width)
    x, gradient, out = (one.view(1, 5, 1, 2 * width).permute(0, 3, 1, 2) for one in whole)
    assert x.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch, "empty_like", lambda _: out.fill_(torch.nan))

    def is_nan() -> Iterator[Tensor]:
        for result in (lrn_triton.lrn, lambda x, *more: lrn_triton.lrn_backward(x, gradient, *more)):
            assert result(x, 2, A, K) is out
            assert memory[:, :32].isnan().all()
            assert memory[:, -32:].isnan().all()
            yield out.isnan()

    assert not any(nan.any() for nan in is_nan())
    x[:, :width] = torch.nan
    assert all(torch.equal(nan, x.isnan()) for nan in is_nan())


def test_half_precision_does_not_overflow(interpreted: None) -> None:
    x, gradient = torch.full((1, 48, 2, 2), 1000.0), torch.ones(1, 48, 2, 2)
    exact = with_torch(torch_s().double(), x.double(), gradient.double())
    for ours, true in zip(both_ways(x.half(), gradient.half(), 1), exact, strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=1e-3, atol=1e-6)


def one_way_and_back(*batches: int, maps: int = 96, dtype: torch.dtype = torch.bfloat16) -> None:
    for batch in batches:
        x = torch.zeros(batch, maps, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        both_ways(x, x, 2)


def test_compiled_it_reads_and_writes_sixteen_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread reads its own eight maps and those beside, with no detour by shared memory or the stack, in so few
    registers that a multiprocessor's 65,536 serve 2,048 threads forward and 1,536 backward. The result is rounded to
    the nearest bfloat16. One kernel serves batches of all sizes: none is compiled in the middle of a run."""
    forward, backward = compile_for(monkeypatch, lrn_triton, 90, lambda: one_way_and_back(2, 3, 16))
    for kernel, loads, most_registers in ((forward, 3, 32), (backward, 6, 40)):
        ptx = kernel.asm["ptx"]
        assert ptx.count("ld.global.v4.b32") == ptx.count("ld.global") == loads
        assert ptx.count("st.global.v4.b32") == ptx.count("st.global") == 1
        assert ptx.count("cvt.rn.bf16x2.f32") == 4
        assert kernel.metadata.shared == 0
        registers, stack = registers_and_stack(kernel)
        assert registers <= most_registers
        assert stack == 0


@pytest.mark.parametrize("capability", [75, 120])
def test_it_compiles_for_other_gpus_and_types(capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = compile_for(monkeypatch, lrn_triton, capability, lambda: one_way_and_back(1))
    kernels += compile_for(
        monkeypatch, lrn_triton, capability, lambda: one_way_and_back(1, maps=10, dtype=torch.float16)
    )
    assert len(kernels) == 4
    assert all(len(kernel.asm["cubin"]) > 1000 for kernel in kernels)


def test_gpus_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Triton works, for the paper's window, in the types that it computes; on tensors of no memory."""
    monkeypatch.setattr(environment, "why_no_triton", lambda: None)
    with FakeTensorMode():
        for dtype in TOLERANCES:
            maps = torch.empty(4, 5, 5, 96, dtype=dtype, device="cuda").permute(0, 3, 1, 2)
            assert lrn_kernel.applies(maps, lrn_triton.REACH)
            y = LocalResponseNorm(96, towers=2)(maps)
            assert (y.device, y.dtype, y.shape, y.stride()) == (maps.device, dtype, maps.shape, maps.stride())
        assert not lrn_kernel.applies(maps, half=1)
        assert not lrn_kernel.applies(maps.new_empty(1, dtype=torch.float64), lrn_triton.REACH)
        monkeypatch.setattr(environment, "why_no_triton", lambda: "Triton is not used: no compiler")
        assert not lrn_kernel.applies(maps, lrn_triton.REACH)


class Calls(TorchDispatchMode):
    """The operators called, with their tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[Tensor]]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        self.calls.append((str(operator), [one for one in (*args, result) if isinstance(one, Tensor)]))
        return result


@pytest.mark.parametrize(("arch", "layers"), [("paper", 2), ("half", 2), ("caffe", 2), ("onetower", 0)])
def test_a_network_calls_it_once_a_layer_each_way(arch: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 and channels-last memory as it comes, nothing copied; on tensors of no memory, nothing computed."""
    monkeypatch.setattr(lrn_kernel, "applies", lambda x, half: True)
    with FakeTensorMode():
        model = build(7, TrainConfig(arch=arch, hidden=32))
        images = torch.empty(4, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        with Calls() as seen:
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(images).sum()
            loss.backward()
    ours = [(name, tensors) for name, tensors in seen.calls if name.startswith("alexnet_fast.")]
    assert [name for name, _ in ours] == ["alexnet_fast.lrn.default"] * layers + [
        "alexnet_fast.lrn_backward.default"
    ] * layers
    for _, tensors in ours:
        assert all(one.dtype == torch.bfloat16 for one in tensors)
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in tensors)
    made = {id(tensors[-1]) for name, tensors in seen.calls if "clone" in name or "_to_copy" in name}
    assert not made & {id(one) for _, tensors in ours for one in tensors}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("maps", "towers", "batch"), [(96, 2, 128), (96, 1, 127), (256, 2, 128), (10, 2, 3)])
def test_on_a_gpu(maps: int, towers: int, batch: int, dtype: torch.dtype) -> None:
    """The whole layer, in all kinds of memory and compiled."""
    assert environment.why_no_triton() is None
    torch.compiler.reset()  # it compiles a layer for so many inputs only
    x, gradient = (one.cuda() for one in maps_and_gradient(batch, maps, 27, 27, dtype=dtype))
    layer = LocalResponseNorm(maps, towers).cuda()
    exact = with_torch(torch_s(towers).double(), x.double(), gradient.double())
    rtol, atol = TOLERANCES[dtype]
    for plain in (False, True):
        given = (x.contiguous(), gradient.contiguous()) if plain else (x, gradient)
        for form in (layer, torch.compile(layer, fullgraph=True)):
            for ours, true in zip(with_torch(form, *given), exact, strict=True):
                assert ours.dtype == dtype
                torch.testing.assert_close(ours.double(), true, rtol=rtol, atol=atol * true.abs().max().item())


@pytest.mark.gpu
def test_maps_beyond_two_billion_values() -> None:
    """As conv1's of 8,192 images: their places do not fit into 32 bits."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of the GPU's memory")
    x = torch.randn(1, 96, 3025, 7500, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    y, dx = both_ways(x, x, 2)
    last = x[..., -3:].contiguous(memory_format=torch.channels_last)
    for ours, alone in zip((y, dx), both_ways(last, last, 2), strict=True):
        assert torch.equal(ours[..., -3:], alone)
