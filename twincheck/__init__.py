"""Checks any PyTorch model against any JAX model, tensor by tensor."""

from collections.abc import Callable, Iterable
from typing import Any

from twincheck.bounds import Bound, uniform
from twincheck.comparison import Comparison, Difference, compare
from twincheck.trace import Trace, rename

__all__ = [
    "Bound", "Comparison", "Difference", "Trace", "compare", "nnx", "pair", "rename", "torch", "train",
    "uniform",
]  # fmt: skip


def torch(model: Any, inputs: Any, call: Callable[..., Any] | None = None, *, train: bool = False) -> Any:
    """Returns the torch side of a pair: any `torch.nn.Module` and its inputs.

    `inputs` is one array, a tuple of positional arguments, or a dict of keyword arguments. `call(model, *inputs)` runs
    the model in another way than `model(*inputs)`. The model runs in evaluation mode, unless `train` is set.
    """
    from twincheck.torch_side import TorchSide

    return TorchSide(model, inputs, call, train=train)


def nnx(model: Any, inputs: Any, call: Callable[..., Any] | None = None, *, train: bool = False) -> Any:
    """Returns the JAX side of a pair for a Flax NNX model; arguments as of `torch`."""
    from twincheck.nnx_side import nnx_side

    return nnx_side(model, inputs, call, train=train)


def pair(torch: Any, jax: Any) -> Any:
    """Pairs the calls and the weights of two sides, and loads torch's weights into the JAX side."""
    from twincheck.pairs import Pair

    return Pair(torch, jax)


def train(pair: Any, batches: Iterable[Any], steps: int, **options: Any) -> Any:
    """Trains the two models of a pair side by side; arguments as of `twincheck.training.train`."""
    from twincheck.training import train

    return train(pair, batches, steps, **options)
