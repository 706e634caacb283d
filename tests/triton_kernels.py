"""Triton's kernels without a GPU: calculated by Triton's interpreter, or compiled for a GPU that is not there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


def interpret(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Lets the module's kernels run on the CPU's tensors. As TRITON_INTERPRET=1 does, which counts only where it is set
    before Triton is imported; skips without Triton."""
    pytest.importorskip("triton")
    from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle
    from triton.runtime.jit import JITFunction

    for name, kernel in vars(module).items():
        if isinstance(kernel, JITFunction):
            monkeypatch.setattr(module, name, InterpretedFunction(kernel.fn))
    cast = InterpreterBuilder.cast_impl

    def rounded(self: Any, source: Any, dtype: Any) -> Any:
        """The interpreter cuts float32's last 16 bits off; a GPU rounds (cvt.rn, see the tests of compilation)."""
        if (str(source.dtype.scalar), str(dtype.scalar)) != ("fp32", "bf16"):
            return cast(self, source, dtype)
        bits = torch.tensor(source.data).bfloat16().view(torch.int16)
        return TensorHandle(bits.numpy().view("uint16"), dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounded)


def compile_for(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, capability: int, call: Callable[[], object]
) -> list[Any]:
    """What Triton compiles for a GPU of that compute capability (90: 9.0) during `call`, which launches nothing: each
    kernel's `asm` ("ptx", "cubin") and `metadata`."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    gpu = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    monkeypatch.setattr(driver, "_active", gpu)
    monkeypatch.setattr(
        *(JITFunction, "__getitem__"),
        lambda kernel, grid: lambda *given, **more: kernel.warmup(*given, grid=grid, **more),
    )
    kernels = [kernel for kernel in vars(module).values() if isinstance(kernel, JITFunction)]
    for kernel in kernels:
        kernel.device_caches.clear()
    call()
    caches = [kernel.device_caches.pop(0)[0] for kernel in kernels if 0 in kernel.device_caches]
    return [compiled for cache in caches for compiled in cache.values()]


def registers_and_stack(compiled: Any) -> tuple[int, int]:
    """Of a thread: its registers of 32 bits, and the bytes that did not fit into them."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None
    return int(found[1]), int(found[2])
