"""Flax NNX models as a side of a pair."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from mlp_workload.errors import UserError
from twincheck.jax_calls import watch_classes
from twincheck.jax_side import JaxSide, Variables
from twincheck.recording import Recorder, invoke, plain_settings

_PATH = "_twincheck_path"
"""Attribute of the copies' modules. As it is static, it stays with them in `nnx.scan`, `nnx.remat` and the like."""


def nnx_side(model: Any, inputs: Any, call: Callable[..., Any] | None, *, train: bool) -> JaxSide:
    """Returns the side of an NNX model. The model itself is never changed: passes run on copies."""
    if not isinstance(model, nnx.Module):
        kind = model.__name__ if isinstance(model, type) else type(model).__name__
        made = f"an instance, nnx({kind}(..., rngs=nnx.Rngs(0)), ...)" if isinstance(model, type) else "an nnx.Module"
        raise UserError(f"nnx takes {made}, not {'the class ' if isinstance(model, type) else ''}{kind}")
    graph, state = nnx.split(model)
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    flat = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}
    arrays = {
        name: _value(leaf)
        for name, leaf in flat.items()
        if not isinstance(leaf, nnx.RngState) and isinstance(_value(leaf), jax.Array)
    }

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        pairs = [(paths[name], _filled(leaf, variables.get(name))) for name, leaf in flat.items()]
        module: Any = nnx.merge(graph, nnx.from_flat_state(pairs))
        module.train() if train else module.eval()
        module.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout: the masks would differ
        parts = list(nnx.iter_modules(module))
        for path, part in parts:
            setattr(part, _PATH, ".".join(map(str, path)))
        modules = [part for _, part in parts]
        with recorder.patched(modules), watch_classes({type(part) for part in modules}, recorder, _describe):
            output = invoke(call, module, inputs)
        after = {".".join(map(str, path)): _value(leaf) for path, leaf in nnx.to_flat_state(nnx.state(module))}
        recorder.state = {name: after[name] for name in arrays if name not in trainable and name in after}
        return output

    trainable = {name for name, variable in flat.items() if isinstance(variable, nnx.Param) and name in arrays}
    return JaxSide("flax.nnx", dict(arrays), trainable, inputs, apply)


def _describe(module: Any) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    attributes = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    own = {name: _value(value) for name, value in attributes.items() if isinstance(_value(value), jax.Array)}
    return (getattr(module, _PATH), own, plain_settings(attributes)) if hasattr(module, _PATH) else None


def _value(leaf: Any) -> Any:
    """Returns the value of a variable; a module may also hold arrays without one, by `nnx.data`."""
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf


def _filled(leaf: Any, value: Any) -> Any:
    if not isinstance(leaf, nnx.Variable):
        return leaf if value is None else value
    return leaf.copy() if value is None else leaf.replace(value)
