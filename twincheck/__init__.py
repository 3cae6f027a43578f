"""Checks any PyTorch model against any JAX model, tensor by tensor."""

from twincheck.bounds import Bound, uniform
from twincheck.comparison import Comparison, Difference, compare
from twincheck.trace import Trace, rename

__all__ = ["Bound", "Comparison", "Difference", "Trace", "compare", "rename", "uniform"]
