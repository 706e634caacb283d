"""Imported by the server that a pool forks its processes from: what each would compile or import is there already."""

from importlib import import_module

from alexnet_fast.sharding import resize, resize_kernel  # noqa: F401

if not resize_kernel.decodes() and not resize_kernel.library():
    import_module("torch")
