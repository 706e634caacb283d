"""`torchvision`, also beside torch's CPU build: its wheel on PyPI is made for the CUDA build, and cannot be imported
before its compiled operators are declared. No test calls them. Skips where it is not installed."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

try:
    if torch.version.cuda is None and "+" not in version("torchvision"):
        _LIBRARY = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
except PackageNotFoundError:
    pytest.skip("needs torchvision", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own decoders want CUDA too
    import torchvision
    from torchvision import transforms

__all__ = ["torchvision", "transforms"]
