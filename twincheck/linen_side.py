"""Flax linen models as a side of a pair: a module and its variables, a bound module, or a Flax class of `transformers`."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from mlp_workload.errors import UserError
from twincheck.jax_side import JaxSide, Variables, call_of, is_array
from twincheck.recording import Recorder, invoke, is_float, plain_settings


def linen_side(module: Any, variables: Any, inputs: Any, call: Callable[..., Any] | None) -> JaxSide:
    """Returns the side of a linen model."""
    if isinstance(module, type):
        raise UserError(f"linen takes an instance and its variables, linen({module.__name__}(...), variables, inputs)")
    pretrained = isinstance(getattr(module, "module", None), nn.Module) and hasattr(module, "params")
    if not pretrained and not isinstance(module, nn.Module):
        raise UserError(f"linen takes a flax.linen.Module, not {type(module).__name__}")
    if pretrained and variables is None:
        variables = module.params if "params" in module.params else {"params": module.params}
    elif variables is None:
        if module.scope is None:
            raise UserError("linen needs the variables of a module that isn't bound: linen(module, variables, inputs)")
        module, variables = module.unbind()
    if inputs is None:
        raise UserError("linen needs the model's inputs: linen(..., inputs=x)")
    if not isinstance(variables, Mapping) or "params" not in variables:
        given = (
            f"a mapping of {', '.join(map(str, list(variables)[:3]))}"
            if isinstance(variables, Mapping)
            else type(variables).__name__
        )
        raise UserError(
            f'linen takes variables with "params", such as module.init(...) or {{"params": params}}, not {given}'
        )
    flat = flatten_dict(unfreeze(meta.unbox(variables)))
    names = _names(list(flat))

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        tree = unflatten_dict({path: variables.get(names[path], leaf) for path, leaf in flat.items()})
        if pretrained:
            model = copy.copy(module)
            model.params = tree if "params" in module.params else tree["params"]
        else:
            model = module.bind(tree, mutable=[name for name in tree if name != "params"])
        with nn.intercept_methods(_interceptor(recorder)):
            return invoke(call, model, inputs)

    arrays = {names[path]: leaf for path, leaf in flat.items()}
    trainable = {
        names[path] for path, leaf in flat.items() if path[0] == "params" and is_array(leaf) and is_float(leaf)
    }
    return JaxSide("flax.linen", arrays, trainable, inputs, apply)


def _names(paths: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Returns names without the collections, and with them where two would be one name."""
    short = [".".join(path[1:]) for path in paths]
    return {
        path: name if path[0] == "params" or short.count(name) == 1 else ".".join(path)
        for path, name in zip(paths, short, strict=True)
    }


def _interceptor(recorder: Recorder) -> Any:
    def intercept(run: Any, inputs: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        path = ".".join(module.path)
        if context.method_name != "__call__" or recorder.is_running(path):
            return run(*inputs, **keywords)
        own = {
            name: array
            for collection in module.variables.values()
            for name, array in collection.items()
            if isinstance(array, jax.Array)
        }
        settings = {name: value for name, value in vars(module).items() if name in module.__dataclass_fields__}
        with call_of(recorder, path, module, own, plain_settings(settings)) as visit:
            inputs, keywords = visit((inputs, keywords), "input")
            return visit(run(*inputs, **keywords), "output")

    return intercept
