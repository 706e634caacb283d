"""A GPU that is not there: streams and events with a clock that the test moves, and torch's memory on the CPU.

A stream's work takes the time that the test gives it; the host's clock goes on only where the test says so, or where
the host waits. Each stream also knows which work of other streams it comes after, so that a test sees a tensor that is
used on a stream which did not wait for it: `Gpu.check`.
"""

from __future__ import annotations

import ctypes
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

COPY_SECONDS, DECODE_SECONDS = 0.001, 0.01
"""What a copy of the GPU takes, and decoding a batch."""


class Gpu:
    """`now`: the host's clock, seconds. `current`: the stream in use, at first the one of the steps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits = 0
        """How often the host has waited for the device."""
        self.current = Stream(self)
        self.steps = self.current
        self.written: dict[int, tuple[Stream, int]] = {}
        """By address: the stream that last wrote a tensor, and the number of that work on it."""
        self.recorded: dict[int, set[Stream]] = {}
        """By address: the streams named to torch by `record_stream`."""
        self.freed: list[bool] = []
        """Of each batch of DALI that was dropped, in order: whether its copy had ended."""

    def event(self, **_: Any) -> Event:
        return Event(self)

    @contextmanager
    def using(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @property
    def record_stream(self) -> Callable[[torch.Tensor, Stream], None]:
        return lambda tensor, stream: self.recorded.setdefault(tensor.data_ptr(), set()).add(stream)

    def wait(self, until: float) -> None:
        self.waits += 1
        self.now = max(self.now, until)

    def check(self, tensor: torch.Tensor) -> None:
        """Fails where the stream in use would read a tensor before it is written, or torch might free it too early."""
        address = tensor.data_ptr()
        if address not in self.written:
            return
        stream, number = self.written[address]
        assert self.current.after.get(stream, 0) >= number, "used on a stream that does not wait for it"
        assert stream is self.current or self.current in self.recorded.get(address, set()), "no record_stream"


class Stream:
    """Does its work in order, from when the host queues it."""

    def __init__(self, gpu: Gpu, *_: Any) -> None:
        self.gpu = gpu
        self.ends = 0.0
        """When the work queued so far is done."""
        self.after: dict[Stream, int] = {self: 0}
        """Of each stream the number of work that what comes now comes after."""

    @property
    def cuda_stream(self) -> int:
        return id(self)

    def work(self, seconds: float, writes: int | None = None) -> None:
        """Queues work of so many seconds, which writes to an address."""
        self.ends = max(self.ends, self.gpu.now) + seconds
        self.after[self] += 1
        if writes is not None:
            self.gpu.written[writes] = self, self.after[self]

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        assert event.at is not None
        self.ends = max(self.ends, event.at)
        for stream, number in event.after.items():
            self.after[stream] = max(self.after.get(stream, 0), number)

    def wait_stream(self, stream: Stream) -> None:
        self.wait_event(stream.record_event())

    def query(self) -> bool:
        return self.ends <= self.gpu.now

    def synchronize(self) -> None:
        self.gpu.wait(self.ends)


class Event:
    """As torch's: comes when the work before it is done; the time between two is known once both have come."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.at: float | None = None
        self.after: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.gpu.current
        self.at, self.after = max(stream.ends, self.gpu.now), dict(stream.after)
        stream.ends = self.at

    def query(self) -> bool:
        return self.at is None or self.at <= self.gpu.now

    def synchronize(self) -> None:
        self.gpu.wait(self.at or 0.0)

    def elapsed_time(self, end_event: Event) -> float:
        assert self.at is not None
        assert end_event.at is not None
        if not (self.query() and end_event.query()):
            raise RuntimeError("device not ready")
        return (end_event.at - self.at) * 1000


class _OnTheCpu(TorchFunctionMode):
    """Lets tensors of a GPU, and page-locked ones, be made on the CPU; and notes who may use them."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func.__name__ == "pin_memory":
            return _page_locked(args[0].clone())
        if func.__name__ == "to" and _is_gpu(args[1]):
            assert hasattr(args[0], "page_locked"), "the host would wait for this copy"
            assert kwargs.pop("non_blocking")
            copy = args[0].clone()
            self.gpu.current.work(COPY_SECONDS, writes=copy.data_ptr())
            return copy
        is_page_locked = kwargs.pop("pin_memory", False)
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = "cpu"
        tensors = [one for one in args if isinstance(one, torch.Tensor)]
        for tensor in tensors if func.__name__ not in ("data_ptr", "__get__") else ():
            self.gpu.check(tensor)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.data_ptr() not in {one.data_ptr() for one in tensors}:
            self.gpu.written.pop(result.data_ptr(), None)  # memory that was freed meanwhile
            self.gpu.recorded.pop(result.data_ptr(), None)
        return _page_locked(result) if is_page_locked else result


def _is_gpu(device: object) -> bool:
    return isinstance(device, torch.device) and device.type == "cuda"


def _page_locked(tensor: torch.Tensor) -> torch.Tensor:
    tensor.page_locked = True  # type: ignore[attr-defined]
    return tensor


@contextmanager
def no_waiting_for_the_gpu() -> Iterator[None]:
    """Of a real GPU: torch raises RuntimeError where the host would wait for it."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns, once, that the mode does not find every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """What torch.cuda then works with. Triton's kernels are not used, nor does torch find a GPU."""
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: gpu.current)
    monkeypatch.setattr(torch.cuda, "stream", gpu.using)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.Tensor, "record_stream", gpu.record_stream)
    with _OnTheCpu(gpu):
        yield gpu


class DaliPipeline:
    """A pipeline of DALI that decodes on the CPU, but gives its results as one for a GPU does: on a stream of its own,
    in memory that it uses again once the result is dropped."""

    def __init__(self, gpu: Gpu, pipeline: Any) -> None:
        self._gpu, self._pipeline = gpu, pipeline
        self._stream = Stream(gpu)
        self.feed_input = pipeline.feed_input
        self.build = pipeline.build
        self.schedule_run = pipeline.schedule_run

    def outputs(self, stream: Stream | None = None) -> tuple[DaliImages]:
        (images,) = self._pipeline.outputs()
        self._stream.work(DECODE_SECONDS)
        if stream:
            stream.wait_stream(self._stream)
        return (DaliImages(self._gpu, np.array(images.as_tensor()), stream),)


class DaliImages:
    """A decoded batch in DALI's memory."""

    def __init__(self, gpu: Gpu, pixels: NDArray[np.uint8], stream: Stream | None) -> None:
        self._gpu, self._pixels, self._stream = gpu, pixels, stream
        self._copied: list[Event] = []
        weakref.finalize(self, _check_copied, gpu, self._copied)

    def as_tensor(self) -> DaliImages:
        return self

    def shape(self) -> list[int]:
        return list(self._pixels.shape)

    def copy_to_external(self, ptr: ctypes.c_void_p, cuda_stream: ctypes.c_void_p, non_blocking: bool) -> None:
        assert self._stream is not None
        assert (cuda_stream.value, non_blocking) == (self._stream.cuda_stream, True)
        ctypes.memmove(ptr, self._pixels.ctypes.data, self._pixels.nbytes)
        self._stream.work(COPY_SECONDS, writes=ptr.value)
        self._copied.append(self._stream.record_event())


def _check_copied(gpu: Gpu, copied: list[Event]) -> None:
    gpu.freed.append(all(event.query() for event in copied))


@pytest.fixture
def dali_for_gpu(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """DALI decodes for `gpu`."""
    from nvidia.dali import fn, pipeline_def

    from alexnet_fast.loading import dali

    def graph_for_gpu(device_id: int | None, **about: Any) -> Any:
        on_cpu = pipeline_def(device_id=None, **about)
        return on_cpu if device_id is None else lambda graph: lambda: DaliPipeline(gpu, on_cpu(graph)())

    def on_the_cpu(decode: Any) -> Any:
        return lambda *stored, device, **about: decode(*stored, device="cpu", **about)

    monkeypatch.setattr(dali, "pipeline_def", graph_for_gpu)
    for name in ("image_crop", "image_slice"):
        monkeypatch.setattr(fn.decoders, name, on_the_cpu(getattr(fn.decoders, name)))
