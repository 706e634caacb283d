"""Imported by the server that a pool forks its processes from: what each would load or import is there already."""

from importlib import import_module

from alexnet_fast import native
from alexnet_fast.sharding import decode  # noqa: F401

if native.kernels() is None:
    import_module("torch")
