"""`torchvision`, also beside torch's CPU build (tools/peer_loaders.py). Skips where it is not installed."""

from __future__ import annotations

import warnings

import pytest

from tools.peer_loaders import declared_operators

try:
    declared_operators()
except ImportError:
    pytest.skip("needs torchvision", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own decoders want CUDA too
    import torchvision
    from torchvision import transforms

__all__ = ["torchvision", "transforms"]
