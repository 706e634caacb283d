"""alexnet-fast: train AlexNet (Krizhevsky, Sutskever, Hinton 2012) as fast as the hardware allows."""

__version__ = "0.1.0"
