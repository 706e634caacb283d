"""The imports of the server that a pool forks its processes from, so that none of them has to repeat them."""

from importlib import import_module

from alexnet_fast import native
from alexnet_fast.sharding import decode  # noqa: F401

if native.kernels() is None:
    import_module("torch")
