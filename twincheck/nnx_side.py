"""Flax NNX models as a side of a pair."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import jax
from flax import nnx

from twincheck.jax_side import JaxSide, Variables, call_of
from twincheck.recording import Recorder, plain_settings


def nnx_side(model: nnx.Module, inputs: Any, call: Callable[..., Any] | None, *, train: bool) -> JaxSide:
    """Returns the side of an NNX model. The model itself is never changed: passes run on copies."""
    graph, state = nnx.split(model)
    flat = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    arrays = {
        name: variable.get_value()
        for name, variable in flat.items()
        if not isinstance(variable, nnx.RngState) and isinstance(variable.get_value(), jax.Array)
    }

    def build(variables: Variables) -> nnx.Module:
        pairs = [
            (paths[name], variable.replace(variables[name]) if name in variables else jax.tree.map(lambda a: a, variable))
            for name, variable in flat.items()
        ]
        module: nnx.Module = nnx.merge(graph, nnx.from_flat_state(pairs))
        module.train() if train else module.eval()
        module.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout: the masks would differ
        return module

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        module = build(variables)
        with _watching(module, recorder):
            output = _invoke(call, module, inputs)
        after = {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(nnx.state(module))}
        recorder.state = {name: after[name].get_value() for name in arrays if name not in trainable and name in after}
        return output

    trainable = {name for name, variable in flat.items() if isinstance(variable, nnx.Param) and name in arrays}
    return JaxSide("flax.nnx", dict(arrays), trainable, inputs, apply, lambda: [m for _, m in nnx.iter_modules(model)])


def _invoke(call: Callable[..., Any] | None, module: Any, inputs: Any) -> Any:
    if call is not None:
        return call(module, *inputs) if isinstance(inputs, tuple) else call(module, inputs)
    if isinstance(inputs, Mapping):
        return module(**inputs)
    return module(*inputs) if isinstance(inputs, tuple) else module(inputs)


@contextlib.contextmanager
def _watching(model: nnx.Module, recorder: Recorder) -> Iterator[None]:
    """Shows the calls of all modules of `model` to the recorder, those of copies inside `nnx.scan` and the like too."""
    known = {id(module): (".".join(map(str, path)), module) for path, module in nnx.iter_modules(model)}
    owners = {base for _, module in known.values() for base in type(module).__mro__ if "__call__" in vars(base)}

    def path_of(module: nnx.Module) -> str | None:
        if id(module) in known:
            return known[id(module)][0]
        alike = [path for path, other in known.values() if type(other) is type(module)]
        inside = [path for path in alike if path.startswith(recorder.innermost)] or alike
        return inside[0] if len(inside) == 1 else None

    def wrapper(original: Any) -> Any:
        @wraps(original)
        def called(module: nnx.Module, *inputs: Any, **keywords: Any) -> Any:
            path = path_of(module)
            if path is None or recorder.is_running(path):  # of another model, or `super().__call__`
                return original(module, *inputs, **keywords)
            own = {name: v.get_value() for name, v in vars(module).items() if _is_variable(v)}
            with call_of(recorder, path, module, own, plain_settings(vars(module))) as visit:
                inputs, keywords = visit((inputs, keywords), "input")
                return visit(original(module, *inputs, **keywords), "output")

        return called

    with contextlib.ExitStack() as undo:
        for owner in owners:
            original = vars(owner)["__call__"]
            undo.callback(setattr, owner, "__call__", original)
            setattr(owner, "__call__", wrapper(original))  # noqa: B010
        yield


def _is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable) and not isinstance(value, nnx.RngState) and hasattr(value.get_value(), "shape")
