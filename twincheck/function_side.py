"""Plain functions of parameters and inputs as a side of a pair."""

from collections.abc import Callable
from typing import Any

import jax
import jax.tree_util as jtu

from mlp_workload.errors import UserError
from twincheck.jax_calls import is_array
from twincheck.jax_side import JaxSide, Variables
from twincheck.recording import Recorder, invoke, is_float


def function_side(function: Callable[..., Any], params: Any, inputs: Any) -> JaxSide:
    """Returns the side of `function(params, *inputs)`, with `params` any pytree of arrays."""
    if not callable(function):
        raise UserError(f"function takes a function of (params, inputs), not {type(function).__name__}")
    leaves, tree = jtu.tree_flatten_with_path(params)
    names = {jtu.keystr(path, simple=True, separator=".") or "params": leaf for path, leaf in leaves}
    if callable(params) or not any(is_array(leaf) for leaf in names.values()):
        raise UserError(f"function's params must be a pytree of arrays, not {type(params).__name__}")

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        filled = jtu.tree_unflatten(tree, [variables.get(name, leaf) for name, leaf in names.items()])
        return invoke(None, jax.tree_util.Partial(function, filled), inputs)

    trainable = {name for name, leaf in names.items() if is_array(leaf) and is_float(leaf)}
    return JaxSide("function", names, trainable, inputs, apply)
