"""LRN's forms, compiled, banded and of Triton (interpreted), against torch's layer, each other and hand computation."""

import pytest
import torch
from torch import Tensor, nn

from alexnet_fast import native
from alexnet_fast.model import lrn_kernel
from alexnet_fast.model.lrn import LocalResponseNorm
from tests.conftest import turn_native_off
from tests.triton_kernels import interpret


@pytest.fixture(params=["compiled", "banded", "triton"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "banded":
        turn_native_off(monkeypatch)
    elif request.param == "triton":
        call_triton(monkeypatch)
    elif not lrn_kernel.available():
        pytest.skip("needs the compiled code and OpenMP")
    return str(request.param)


def call_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """LRN as on a GPU, here on the CPU."""
    lrn_triton = pytest.importorskip("alexnet_fast.model.lrn_triton", reason="needs Triton")
    interpret(monkeypatch, lrn_triton)

    def call(name: str, x: Tensor, towers: int, half: int, a: float, k: float, *gradient: Tensor) -> Tensor:
        kernel = lrn_kernel.lrn_on_gpu if name == "forward" else lrn_kernel.lrn_backward_on_gpu
        return kernel(x, *gradient, towers, half, a, k)  # type: ignore[no-any-return]

    monkeypatch.setattr(lrn_kernel, "_call", call)
    monkeypatch.setattr(lrn_kernel, "applies", lambda x, half: half == lrn_triton.REACH and x.dtype != torch.float64)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Channels-last, of the size conv1's outputs have, a few far larger."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 80
    x[:, ::7] *= 10
    return x.to(dtype, memory_format=torch.channels_last).requires_grad_()


def with_gradient(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    y = layer(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return y.detach(), torch.autograd.grad(y, x, weight)[0]


def torch_s(towers: int = 1, n: int = 5) -> nn.Module:
    layer = nn.LocalResponseNorm(n, alpha=1e-4, beta=0.75, k=2)

    class Towers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([layer(tower) for tower in x.chunk(towers, dim=1)], dim=1)

    return Towers()


def test_torch_brings_the_threads_of_the_kernels() -> None:
    if native.kernels() is None:
        pytest.skip("needs the compiled code")
    assert lrn_kernel.available()


@pytest.mark.parametrize("towers", [1, 2])
@pytest.mark.parametrize(("channels", "n"), [(96, 5), (256, 5), (12, 3), (14, 7)])
def test_values_and_gradients_are_torch_s(form: str, towers: int, channels: int, n: int) -> None:
    x = random(2, channels, 7, 5)
    expected = with_gradient(torch_s(towers, n).double(), x.detach().double().requires_grad_())
    for ours, theirs in zip(with_gradient(LocalResponseNorm(channels, towers, n), x), expected, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("towers", [1, 2])
def test_gradient_numerically_in_double_precision(towers: int) -> None:
    layer = LocalResponseNorm(12, towers).double()
    assert torch.autograd.gradcheck(layer, random(2, 12, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)])
def test_lower_precisions_are_near(form: str, dtype: torch.dtype, tolerance: float) -> None:
    """A few roundings of the type."""
    x = random(2, 96, 7, 5, dtype=dtype)
    expected = with_gradient(torch_s(2), x.detach().double().requires_grad_())
    for ours, theirs in zip(with_gradient(LocalResponseNorm(96, 2), x), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


def test_half_precision_does_not_overflow() -> None:
    x = torch.full((1, 48, 2, 2), 1000.0, requires_grad=True)
    half = x.detach().half().requires_grad_()
    layer = LocalResponseNorm(48)
    for ours, exact in zip(with_gradient(layer, half), with_gradient(layer, x), strict=True):
        torch.testing.assert_close(ours.float(), exact, rtol=5e-3, atol=1e-4)


def test_plain_memory_and_other_strides_work(form: str) -> None:
    x = torch.randn(2, 10, 6, 4)[:, :, ::2] * 80
    torch.testing.assert_close(LocalResponseNorm(10)(x), torch_s()(x))
    assert LocalResponseNorm(10)(x[:0]).shape == (0, 10, 3, 4)


def test_what_is_not_a_number_stays_so(form: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        y = LocalResponseNorm(6)(torch.full((1, 6, 1, 1), torch.nan, dtype=dtype))
        assert y.isnan().all()


def test_the_sum_does_not_cross_the_towers(form: str) -> None:
    x = random(2, 96, 4, 4).detach()
    halves = [LocalResponseNorm(48)(half) for half in x.chunk(2, dim=1)]
    torch.testing.assert_close(LocalResponseNorm(96, towers=2)(x), torch.cat(halves, dim=1))


def test_by_hand(form: str) -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).view(1, 6, 1, 1) * 100
    window = 1 + 4 + 9 + 16  # the second map's neighbours: maps 1 to 4, and none before the first
    expected = 200 / (2 + 1e-4 / 5 * window * 1e4) ** 0.75
    assert LocalResponseNorm(6)(x)[0, 1, 0, 0].item() == pytest.approx(expected, rel=1e-5)
