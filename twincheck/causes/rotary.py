"""Rotary embeddings: the patches that undo their differences, and what differs."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from twincheck.causes.cause import Cause, jax_page, torch_page
from twincheck.causes.replace import Function, Wrap, functions, user_namespaces
from twincheck.recording import Patch, Patched


def _user_functions(pattern: str, wrap: Wrap) -> Patch:
    """Returns a patch of the program's own functions and callable classes whose names match a pattern."""

    @Patch
    @contextmanager
    def patch(modules: Sequence[object]) -> Iterator[Patched]:
        wraps, methods, found = {}, {}, dict[int, str]()
        for namespace in user_namespaces(modules):
            package = namespace.get("__name__", "")
            for name, value in namespace.items():
                if callable(value) and re.search(pattern, name, re.IGNORECASE) and id(value) not in found:
                    found[id(value)] = name
                    if isinstance(value, type):
                        methods[f"{package}.{name}.__call__"] = wrap
                    else:
                        wraps[f"{package}.{name}"] = wrap
        with functions(wraps, methods)(modules) as patched:
            yield patched

    return patch


ROTARY = r"rot(ary|ate|_emb|_pos)|rope"


def _rotate(to_halves: Callable[[Any], Any], back: Callable[[Any], Any]) -> Patch:
    """Returns a patch under which rotary embeddings see their arrays, and give them back, in another order."""

    def wrap(original: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            plain = original(*args, **kwargs)
            shapes = {a.shape for a in jax.tree.leaves(plain) if hasattr(a, "shape")}

            def reorder(a: Any) -> Any:
                return to_halves(a) if getattr(a, "shape", None) in shapes else a

            args, kwargs = jax.tree.map(
                reorder, (args, kwargs), is_leaf=lambda a: not isinstance(a, (tuple, list, dict))
            )
            return jax.tree.map(back, original(*args, **kwargs))

        return call

    return _user_functions(ROTARY, wrap)


def _halves(x: Any) -> Any:
    return jnp.concatenate((x[..., ::2], x[..., 1::2]), axis=-1)


def _interleaved(x: Any) -> Any:
    return jnp.stack(jnp.split(x, 2, axis=-1), axis=-1).reshape(x.shape)


rotary_interleaved = _rotate(_halves, _interleaved)
rotary_halves = _rotate(_interleaved, _halves)


def _without_bfloat16(original: Function) -> Function:
    def call(*args: Any, **kwargs: Any) -> Any:
        low, jnp.bfloat16 = jnp.bfloat16, jnp.float32
        try:
            return original(*args, **kwargs)
        finally:
            jnp.bfloat16 = low

    return call


rotary_float32 = _user_functions(ROTARY, _without_bfloat16)


def _with_usual_base(original: Function) -> Function:
    names = {"base", "theta", "rope_theta"} & set(_parameters(original))

    def call(*args: Any, **kwargs: Any) -> Any:
        if not names:
            return original(*args, **kwargs)
        given = inspect.signature(original).bind(*args, **kwargs)
        given.apply_defaults()
        given.arguments.update(dict.fromkeys(names, 10_000.0))
        return original(*given.args, **given.kwargs)

    return call


def _parameters(function: Function) -> Sequence[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # it has none that can be read
        return ()


rotary_base = _user_functions(ROTARY, _with_usual_base)
rotary_direction = functions({"jax.numpy.sin": lambda sin: lambda x, *args, **kwargs: -sin(x, *args, **kwargs)})


CAUSES: Sequence[Cause] = (
    Cause(
        "rotary-interleaved",
        "Rotary embedding: torch rotates neighbours (0 1)(2 3), as GPT-J does, JAX halves (0 d/2).",
        "Rotate x[..., ::2] with x[..., 1::2].",
        torch_page("view_as_complex"),
        jax_page("jax.numpy.stack"),
        rotary_interleaved,
    ),
    Cause(
        "rotary-halves",
        "Rotary embedding: torch rotates halves (0 d/2), as GPT-NeoX does, JAX neighbours (0 1)(2 3).",
        "Rotate x[..., : d // 2] with x[..., d // 2 :].",
        torch_page("cat"),
        jax_page("jax.numpy.concatenate"),
        rotary_halves,
    ),
    Cause(
        "rotary-bfloat16",
        "Rotary embedding: JAX computes the angles in bfloat16, which keeps 8 bits, torch in float32.",
        "Compute positions, frequencies, cos and sin in float32 and cast the result.",
        "https://docs.pytorch.org/docs/stable/amp.html",
        jax_page("jax.numpy.cos"),
        rotary_float32,
    ),
    Cause(
        "rotary-base",
        "Rotary embedding: the base of the angles is 10000 in torch, another one in JAX.",
        "angles with the base (rope_theta) of the PyTorch model",
        torch_page("polar"),
        jax_page("jax.numpy.cos"),
        rotary_base,
    ),
    Cause(
        "rotary-direction",
        "Rotary embedding: torch rotates the other way; the sign of the sines differs.",
        "(x1 * cos - x2 * sin, x2 * cos + x1 * sin)",
        torch_page("polar"),
        jax_page("jax.numpy.sin"),
        rotary_direction,
    ),
)
