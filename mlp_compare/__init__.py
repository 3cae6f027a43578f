"""Compares the JAX and the PyTorch side, each in a process of its own."""

from twincheck.bounds import Bound, uniform
from twincheck.comparison import Comparison, Difference, compare

__all__ = ["Bound", "Comparison", "Difference", "compare", "uniform"]
