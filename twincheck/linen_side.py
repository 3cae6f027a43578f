"""Flax linen models as a side of a pair: with their variables, bound, or a Flax model of `transformers`."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta, unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from mlp_workload.errors import UserError
from twincheck.jax_calls import call_of, is_array
from twincheck.jax_side import JaxSide, Variables
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
        names = f" of {', '.join(map(str, variables))}" if isinstance(variables, Mapping) else ""
        given = f"{type(variables).__name__}{names}"
        raise UserError(f'linen takes variables as module.init returns them, or {{"params": params}}, not a {given}')
    flat = flatten_dict(unfreeze(meta.unbox(variables)))
    named = _names(list(flat))

    def apply(variables: Variables, inputs: Any, recorder: Recorder) -> Any:
        tree = unflatten_dict({path: variables.get(named[path], leaf) for path, leaf in flat.items()})
        if pretrained:
            model = copy.copy(module)
            model.params = tree if "params" in module.params else tree["params"]
        else:
            model = module.bind(tree, mutable=[name for name in tree if name != "params"])
        parts = list(_modules(module.module if pretrained else model))
        with recorder.patched(parts), nn.intercept_methods(_interceptor(recorder)):
            output = invoke(call, model, inputs)
        if not pretrained:
            after = flatten_dict(unfreeze(meta.unbox(model.variables)))
            recorder.state = {
                named[path]: leaf for path, leaf in after.items() if path in named and path[0] != "params"
            }
        return output

    arrays = {named[path]: leaf for path, leaf in flat.items()}
    params = {named[path]: leaf for path, leaf in flat.items() if path[0] == "params"}
    trainable = {name for name, leaf in params.items() if is_array(leaf) and is_float(leaf)}
    return JaxSide("flax.linen", arrays, trainable, inputs, apply)


def _modules(value: Any) -> Iterator[nn.Module]:
    """Yields a module and those that its fields hold. Others are made when the model runs."""
    if isinstance(value, nn.Module):
        yield value
        value = [getattr(value, name, None) for name in value.__dataclass_fields__ if name != "parent"]
    if isinstance(value, Mapping):
        value = list(value.values())
    for part in value if isinstance(value, tuple | list) else ():
        yield from _modules(part)


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
