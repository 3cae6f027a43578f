"""Checks any PyTorch model against any JAX model, tensor by tensor."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from mlp_workload.cli.parse import clear_import_errors
from mlp_workload.files import expand
from twincheck.bounds import Bound, uniform
from twincheck.comparison import Comparison, Difference, compare
from twincheck.recording import sow
from twincheck.trace import Trace, rename

__all__ = [
    "Bound", "Comparison", "Difference", "Trace", "assert_same", "check_pin", "compare", "convert", "equinox",
    "function", "haiku", "linen", "nnx", "pair", "rename", "sow", "torch", "train", "uniform",
]  # fmt: skip


def torch(model: Any, inputs: Any, call: Callable[..., Any] | None = None, *, train: bool = False) -> Any:
    """Returns the torch side of a pair: any `torch.nn.Module` and its inputs.

    `inputs` is one array, a tuple of positional arguments, or a dict of keyword arguments. `call(model, *inputs)` runs
    the model in another way than `model(*inputs)`. The model runs in evaluation mode, unless `train` is set.
    """
    with clear_import_errors():
        from twincheck.torch_side import TorchSide

    return TorchSide(model, inputs, call, train=train)


def nnx(model: Any, inputs: Any, call: Callable[..., Any] | None = None, *, train: bool = False) -> Any:
    """Returns the JAX side of a pair for a Flax NNX model; arguments as of `torch`."""
    with clear_import_errors():
        from twincheck.nnx_side import nnx_side

    return nnx_side(model, inputs, call, train=train)


def linen(module: Any, variables: Any = None, inputs: Any = None, call: Callable[..., Any] | None = None) -> Any:
    """Returns the JAX side of a pair for a Flax linen module and its variables, as `module.init` returns them.

    A bound module and a Flax model of `transformers` have their own variables: `linen(module, inputs=x)`.
    Whether it trains is an argument of most modules: `inputs={"x": x, "train": False}`.
    """
    with clear_import_errors():
        from twincheck.linen_side import linen_side

    return linen_side(module, variables, inputs, call)


def equinox(model: Any, inputs: Any, call: Callable[..., Any] | None = None, *, train: bool = False) -> Any:
    """Returns the JAX side of a pair for an Equinox model, or for `(model, state)`.

    Without `call` the model is mapped over the first axis of its inputs, which are the batch. A model that takes whole
    batches needs `call=lambda model, x: model(x)`.
    """
    with clear_import_errors():
        from twincheck.equinox_side import equinox_side

    return equinox_side(model, inputs, call, train=train)


def haiku(transformed: Any, params: Any, inputs: Any, state: Any = None) -> Any:
    """Returns the JAX side of a pair for what `hk.transform` or `hk.transform_with_state` returned."""
    with clear_import_errors():
        from twincheck.haiku_side import haiku_side

    return haiku_side(transformed, params, inputs, state)


def function(function: Callable[..., Any], params: Any, inputs: Any) -> Any:
    """Returns the JAX side of a pair for `function(params, *inputs)`, with `params` any pytree of arrays.

    As it has no modules, only its outputs and gradients are compared, and what it names with `sow`.
    """
    with clear_import_errors():
        from twincheck.function_side import function_side

    return function_side(function, params, inputs)


def pair(torch: Any, jax: Any, *, backward: bool = True) -> Any:
    """Pairs the calls and the weights of two sides, and loads torch's weights into the JAX side.

    Without `backward` the checks of the pair leave gradients out, which is faster and takes less memory.
    """
    with clear_import_errors():
        from twincheck.pairs import Pair

    return Pair(torch, jax, backward=backward)


def assert_same(torch: Any, jax: Any) -> Any:
    """Checks two sides and returns the report. Raises `AssertionError` with its text if the models differ."""
    __tracebackhide__ = True
    report = pair(torch, jax).check()
    if not report.same:
        raise AssertionError(str(report))
    return report


def convert(pair: Any, path: str | Path) -> str:
    """Writes torch's weights by their JAX names as safetensors, and returns Python code that makes them."""
    from twincheck.conversion import write

    return write(pair, expand(Path(path)))


def check_pin(path: str | Path, jax: Any) -> None:
    """Checks a JAX side against a file of `Report.pin`, without torch.

    The side runs with the inputs and the weights of the file. Weights of more than a megabyte are not in it: the model
    must have them, as from the file that `convert` wrote. Covers the outputs and all tensors compared, in the forward
    pass and in float64; gradients are not covered. Raises `AssertionError` if a tensor differs from torch's.
    """
    with clear_import_errors():
        from twincheck.pins import check

    __tracebackhide__ = True
    check(expand(Path(path)), jax)


def train(
    pair: Any,
    batches: Iterable[Any],
    steps: int,
    *,
    torch_optimizer: Callable[[Any], Any],
    optax: Any,
    torch_loss: Callable[[Any, Any], Any],
    jax_loss: Callable[[Any, Any], Any] | None = None,
    jax_inputs: Callable[[Any], Any] | None = None,
    jax_average: Callable[[Any, Any], Any] | None = None,
    dtype: Literal["float64", "float32"] = "float64",
) -> Any:
    """Trains the two models of a pair side by side; arguments as of `twincheck.training.train`."""
    with clear_import_errors():
        from twincheck.training import train

    return train(
        pair, batches, steps, torch_optimizer=torch_optimizer, optax=optax, torch_loss=torch_loss, jax_loss=jax_loss,
        jax_inputs=jax_inputs, jax_average=jax_average, dtype=dtype,
    )  # fmt: skip
