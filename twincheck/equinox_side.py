"""Equinox models as a side of a pair."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from mlp_workload.errors import UserError
from twincheck.calls import join
from twincheck.jax_calls import is_array, watch_classes
from twincheck.jax_side import JaxSide, Variables
from twincheck.recording import Recorder, invoke, is_float, plain_settings

_PATH = "__qualname__"
"""Attribute of the copies' modules. Equinox keeps it with a module in vmap, scan, jit and checkpoint.

It does so for the attributes that `functools.wraps` copies, and they must be set together.
"""


def equinox_side(model: Any, inputs: Any, call: Callable[..., Any] | None, *, train: bool) -> JaxSide:
    """Returns the side of an Equinox model, or of a pair (model, state) as `eqx.nn.make_with_state` returns.

    Without `call` the model is mapped over the first axis of its inputs.
    """
    stateful = isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State)
    module = model[0] if stateful else model
    if isinstance(module, type):
        raise UserError(f"equinox takes an instance, equinox({module.__name__}(...), ...), not the class")
    if not isinstance(module, eqx.Module):
        raise UserError(f"equinox takes an eqx.Module, or (model, state), not {type(module).__name__}")
    if not stateful and any(isinstance(part, eqx.nn.StateIndex) for _, part in _modules(module)):
        raise UserError("the equinox model has state: give both, as eqx.nn.make_with_state(...)(...) returns them")
    module = eqx.nn.inference_mode(module, not train)
    owned, rest = eqx.partition(module, eqx.is_array)
    leaves, tree = jtu.tree_flatten_with_path(owned)
    paths = {_name(path): leaf for path, leaf in leaves}
    state_leaves, state_tree = jtu.tree_flatten(model[1] if stateful else None)
    buffers = dict(zip(_buffers(module, model[1], state_leaves) if stateful else [], state_leaves, strict=True))
    unset = ("ema_first_time_index",) if train else ("batch_counter",)  # statistics are taken as they are
    buffers = {n: np.zeros_like(leaf) if n.endswith(unset) else leaf for n, leaf in buffers.items()}
    buffers = {n: np.asarray(leaf) if is_array(leaf) else leaf for n, leaf in buffers.items()}

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        filled = jtu.tree_unflatten(tree, [variables.get(name, leaf) for name, leaf in paths.items()])
        copied = eqx.combine(filled, rest)
        parts = [(path, part) for path, part in _modules(copied) if callable(part)]
        for path, part in parts:
            for name in ("__module__", "__name__", "__doc__"):
                object.__setattr__(part, name, getattr(type(part), name))
            object.__setattr__(part, "__annotations__", _NoTypes())
            object.__setattr__(part, _PATH, _Path(path))
        modules = [part for _, part in parts]
        with recorder.patched(modules), watch_classes({type(part) for part in modules}, recorder, _describe):
            if not stateful:
                return invoke(call, copied if call else jax.vmap(copied), inputs)
            values = [variables.get(name, leaf) for name, leaf in buffers.items()]  # integers of the pass's width
            state = jtu.tree_unflatten(state_tree, [jnp.asarray(v) if is_array(v) else v for v in values])
            if call is not None:
                output = invoke(call, (copied, state), inputs)
            elif isinstance(inputs, Mapping):
                raise UserError("an equinox model with state needs call=lambda both, inputs: ... for keyword arguments")
            else:
                mapped = jax.vmap(lambda *given: copied(*given, state), out_axes=(0, None), axis_name="batch")
                output = invoke(None, mapped, inputs)
            if isinstance(output, tuple) and len(output) == 2 and isinstance(output[1], eqx.nn.State):
                output, after = output
                named = zip(buffers, jtu.tree_leaves(after), strict=True)
                recorder.state = {name: leaf for name, leaf in named if name in variables}
            return output

    trainable = {name for name, leaf in paths.items() if is_array(leaf) and is_float(leaf)}
    return JaxSide("equinox", paths | buffers, trainable, inputs, apply)


class _Path(str):
    """The path of a module."""


class _NoTypes(dict[str, Any]):
    """Annotations that can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return 0


def _name(path: Any) -> str:
    return jtu.keystr(path, simple=True, separator=".")


def _modules(node: Any, path: str = "") -> Iterator[tuple[str, eqx.Module]]:
    """Yields the modules in a pytree and their paths."""
    if isinstance(node, eqx.Module):
        yield path, node
    for key, child in jtu.tree_flatten_with_path(node, is_leaf=lambda part: part is not node)[0]:
        if child is not node:
            yield from _modules(child, join(path, _name(key)))


def _buffers(module: eqx.Module, state: eqx.nn.State, leaves: list[Any]) -> list[str]:
    """Returns the names of a state's leaves: "norm.mean" and "norm.var" of a BatchNorm, else as the index is called."""
    names = {}
    for path, index in _modules(module):
        if isinstance(index, eqx.nn.StateIndex):
            found = jtu.tree_flatten_with_path(state.get(index))[0]
            owner, _, last = path.rpartition(".")
            moments = last in ("ema_state_index", "batch_state_index") and len(found) == 2
            for number, (key, leaf) in enumerate(found):
                names[id(leaf)] = join(owner, ("mean", "var")[number]) if moments else join(path, _name(key)).strip(".")
    return [names.get(id(leaf), f"state.{i}") for i, leaf in enumerate(leaves)]


def _describe(module: Any) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    path = vars(module).get(_PATH)
    attributes = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    own = {name: value for name, value in attributes.items() if isinstance(value, jax.Array)}
    return (path, own, plain_settings(attributes)) if isinstance(path, _Path) else None
