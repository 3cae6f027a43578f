"""Holds the JAX and the torch side together, each in a process of its own."""

from mlp_compare.bounds import Bound, uniform
from mlp_compare.comparison import Comparison, Difference, compare

__all__ = ["Bound", "Comparison", "Difference", "compare", "uniform"]
