"""Haiku models as a side of a pair."""

import inspect
from collections.abc import Mapping
from typing import Any

import haiku as hk
import numpy as np

from mlp_workload.errors import UserError
from twincheck.calls import join
from twincheck.jax_calls import call_of
from twincheck.jax_side import JaxSide, Variables
from twincheck.recording import Recorder, invoke, is_float, plain_settings


def haiku_side(transformed: Any, params: Any, inputs: Any, state: Any) -> JaxSide:
    """Returns the side of a function that `hk.transform` or `hk.transform_with_state` returned."""
    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise UserError(f"haiku takes what hk.transform(f) returns, not {_kind(transformed)}")
    stateful = isinstance(transformed, hk.TransformedWithState)
    if stateful and state is None:
        raise UserError("haiku needs the state of an hk.transform_with_state: haiku(f, params, inputs, state)")
    for name, tree in (("params", params), ("state", state or {})):
        if not isinstance(tree, Mapping) or not all(isinstance(arrays, Mapping) for arrays in tree.values()):
            raise UserError(f"haiku's {name} must map modules to arrays by name, as f.init returns, not {_kind(tree)}")
    trees = {"params": params} | ({"state": state} if stateful else {})
    paths = _paths({module for tree in trees.values() for module in tree})
    takes_rng = "rng" in inspect.signature(transformed.apply).parameters

    def array_of(module: str, name: str, array: Any, variables: Variables) -> Any:
        average = _name(paths[module], "average")
        if _makes_an_average(module, name) and average in variables:
            return variables[average] if name == "hidden" else _MANY_STEPS
        return variables.get(_name(paths[module], name), array)

    def filled(tree: Any, variables: Variables) -> Any:
        return {
            module: {name: array_of(module, name, array, variables) for name, array in arrays.items()}
            for module, arrays in tree.items()
        }

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        tree = filled(params, variables)

        def model(*given: Any, **keywords: Any) -> Any:
            states = (filled(state, variables),) if stateful else ()
            output = transformed.apply(tree, *states, *((None,) if takes_rng else ()), *given, **keywords)
            if not stateful:
                return output
            after = {_name(paths[m], n): leaf for m, arrays in output[1].items() for n, leaf in arrays.items()}
            recorder.state = {name: leaf for name, leaf in after.items() if name in variables}
            return output[0]

        with recorder.patched([]), hk.intercept_methods(_interceptor(recorder, paths)):
            return invoke(None, model, inputs)

    arrays = {
        _name(paths[module], name): (array, kind)
        for kind, tree in trees.items()
        for module, named in tree.items()
        for name, array in named.items()
        if not _makes_an_average(module, name)
    }
    trainable = {name for name, (array, kind) in arrays.items() if kind == "params" and is_float(array)}
    return JaxSide("haiku", {name: array for name, (array, _) in arrays.items()}, trainable, inputs, apply)


_MANY_STEPS = np.int32(2**30)
"""Counter of averages: after so many steps Haiku corrects no average for its start at zero, as torch never does."""


def _makes_an_average(module: str, name: str) -> bool:
    return name in ("hidden", "counter") and module.endswith("_ema")


def _name(path: str, name: str) -> str:
    """Returns the name of an array; the averages in a BatchNorm are its "mean" and "var"."""
    owner, _, last = path.rpartition(".")
    if name == "average" and last in ("mean_ema", "var_ema"):
        return join(owner, last.removesuffix("_ema"))
    return join(path, name)


def _kind(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _paths(modules: set[str]) -> dict[str, str]:
    """Returns dotted paths without Haiku's "~", and with it where two would be one path."""
    short = {module: _path(module) for module in modules}
    return {m: p if list(short.values()).count(p) == 1 else m.replace("/", ".") for m, p in short.items()}


def _path(module: str) -> str:
    return module.replace("/~/", "/").replace("/", ".")


def _interceptor(recorder: Recorder, paths: Mapping[str, str]) -> Any:
    def path_of(module: str) -> str:
        inside = [name for name in paths if name.endswith(f"/{module}")]  # `layer_stack` names them from itself on
        return paths[inside[0]] if module not in paths and len(inside) == 1 else paths.get(module, _path(module))

    def intercept(run: Any, inputs: Any, keywords: Any, context: hk.MethodContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or type(module).__name__ == "LiftingModule":
            return run(*inputs, **keywords)
        path = path_of(module.module_name)
        if recorder.is_running(path):  # `super().__call__`
            return run(*inputs, **keywords)
        settings = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        own = {
            name.rpartition("/")[2]: array
            for name, array in module.params_dict().items()
            if name.rpartition("/")[0] == module.module_name
        }
        with call_of(recorder, path, module, own, plain_settings(settings)) as visit:
            inputs, keywords = visit((inputs, keywords), "input")
            return visit(run(*inputs, **keywords), "output")

    return intercept
