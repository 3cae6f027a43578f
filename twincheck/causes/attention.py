"""Attention, but for its masks: the patches that undo their differences, and what differs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twincheck.causes.cause import ATTENTION_PAGE, JAX_ATTENTION_PAGE, SDPA_PAGE, Cause, jax_page, torch_page
from twincheck.causes.replace import Function, Wrap, functions
from twincheck.recording import Patch, Patched

ATTENTIONS = ("jax.nn.dot_product_attention", "flax.nnx.dot_product_attention", "flax.linen.dot_product_attention")


_softmax, _where = jax.nn.softmax, jnp.where


def lowest(x: Any) -> float:
    return float(jnp.finfo(x.dtype).min)  # type: ignore[no-untyped-call]


def _dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> Any:
    """Computes attention of shape (..., length, heads, size) in the dtype of its inputs; heads of keys may be fewer."""
    groups = query.shape[-2] // key.shape[-2]
    key, value = (jnp.repeat(a, groups, axis=-2) for a in (key, value))
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    fill = lowest(scores)
    if mask is not None:
        scores = _where(mask, scores, fill)
    if is_causal:
        scores = _where(
            jnp.tri(scores.shape[-2], scores.shape[-1], dtype=bool)[(None,) * (scores.ndim - 2)], scores, fill
        )
    return jnp.einsum("...hqk,...khd->...qhd", _softmax(scores), value)


def _in_own_dtype(original: Function) -> Function:
    def call(query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        if set(kwargs) - {"scale", "is_causal", "implementation"}:
            return original(query, key, value, bias, mask, **kwargs)
        kwargs.pop("implementation", None)
        return _dot_product_attention(query, key, value, bias, mask, **kwargs)

    return call


attention_own_dtype = functions({"jax.nn.dot_product_attention": _in_own_dtype})


def with_attention(change: Callable[..., tuple[Any, Any, dict[str, Any]]]) -> dict[str, Wrap]:
    """Returns replacements of the attention functions, given what to do with (query, mask, keyword arguments)."""

    def wrap(original: Function) -> Function:
        def call(
            query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            query, mask, kwargs = change(query, mask, kwargs)
            return original(query, key, value, bias, mask, *args, **kwargs)

        return call

    return dict.fromkeys(ATTENTIONS, wrap)


def attention_scale(power: float) -> Patch:
    """Returns a patch that multiplies attention scores by size^power, where the size is that of a head.

    The size is known to the attention functions. In code that calls `softmax` itself, it is the size of the axis
    that the last `einsum`, `matmul` or `@` summed over.
    """
    size = 1

    def einsum(original: Function) -> Function:
        def call(spec: Any, *operands: Any, **kwargs: Any) -> Any:
            nonlocal size
            if isinstance(spec, str) and "->" in spec and len(operands) == 2:
                terms, out = spec.replace(" ", "").replace("...", "").split("->")
                first, second = terms.split(",")
                summed = [
                    operands[0].shape[first.index(letter) - len(first)]
                    for letter in first
                    if letter in second and letter not in out
                ]
                size = int(np.prod(summed))
            return original(spec, *operands, **kwargs)

        return call

    def matmul(original: Function) -> Function:
        def call(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal size
            size = a.shape[-1]
            return original(a, b, *args, **kwargs)

        return call

    def softmax(original: Function) -> Function:
        return lambda x, *args, **kwargs: original(x * float(size) ** power, *args, **kwargs)

    def scaled(query: Any, mask: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        if kwargs.get("scale") is not None:
            return query, mask, kwargs | {"scale": kwargs["scale"] * float(query.shape[-1]) ** power}
        return query * float(query.shape[-1]) ** power, mask, kwargs

    sizes = functions({"jax.numpy.einsum": einsum, "jax.numpy.matmul": matmul}, {"jax.Array.__matmul__": matmul})
    scores = functions({"jax.nn.softmax": softmax, **with_attention(scaled)})

    @contextmanager
    def patch(modules: Sequence[object]) -> Iterator[Patched]:
        with sizes(modules), scores(modules) as patched:
            yield patched

    return Patch(patch, scores.names)


def _by_heads(softmax: Function) -> Function:
    """Takes scores (batch, heads, queries, keys) times sqrt(heads), if they were divided by the root of the width."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return softmax(x * x.shape[-3] ** 0.5 if x.ndim > 3 else x, *args, **kwargs)

    return call


attention_default_scale = functions(
    {"jax.nn.softmax": _by_heads}
    | with_attention(lambda query, mask, kwargs: (query, mask, {k: v for k, v in kwargs.items() if k != "scale"}))
)


def _repeat_to_tile(_: Function) -> Function:
    def call(a: Any, repeats: Any, axis: int | None = None, **__: Any) -> Any:
        return jnp.concatenate([a] * int(repeats), axis=axis or 0)

    return call


def _tile_to_repeat(original: Function) -> Function:
    def call(a: Any, reps: Any) -> Any:
        reps = (reps,) if isinstance(reps, int) else tuple(reps)
        for axis, count in enumerate(reps, a.ndim - len(reps)):
            if axis < 0:
                return original(a, reps)
            a = a if count == 1 else jnp.repeat(a, count, axis=axis)
        return a

    return call


repeat_to_tile = functions({"jax.numpy.repeat": _repeat_to_tile}, {"jax.Array.repeat": _repeat_to_tile})
tile_to_repeat = functions({"jax.numpy.tile": _tile_to_repeat})


CAUSES: Sequence[Cause] = (
    Cause(
        "attention-float32",
        "Attention: jax.nn.dot_product_attention, and so nnx's, takes the softmax in float32 even in a float64 model.",
        "Write the products and the softmax with jnp.einsum, or compare in float32.",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_own_dtype,
    ),
    Cause(
        "attention-unscaled",
        "Attention: JAX's scores have a factor 1 / sqrt(size of a head) that torch's lack, as in T5.",
        "jax.nn.dot_product_attention(..., scale=1.0), or without the factor",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_scale(0.5),
    ),
    Cause(
        "attention-scale",
        "Attention: torch's scores have a factor 1 / sqrt(size of a head) that JAX's lack.",
        "scores / jnp.sqrt(head_size)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_scale(-0.5),
    ),
    Cause(
        "attention-other-scale",
        "Attention: the JAX side has a scale of its own, torch the default 1 / sqrt(size of a head).",
        "scores / jnp.sqrt(head_size), or scale=None in jax.nn.dot_product_attention",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_default_scale,
    ),
    Cause(
        "attention-heads",
        "Attention: the numbers of heads differ.",
        "nnx.MultiHeadAttention(num_heads=...) as in torch",
        torch_page("nn.MultiheadAttention"),
        ATTENTION_PAGE,
    ),
    Cause(
        "heads-tiled",
        "Grouped heads: torch tiles the key and value heads (0 1 0 1) here, JAX repeats each (0 0 1 1).",
        "jnp.tile(k, ...) in place of jnp.repeat(k, ...)",
        torch_page("Tensor.repeat"),
        jax_page("jax.numpy.tile"),
        repeat_to_tile,
    ),
    Cause(
        "heads-repeated",
        "Grouped heads: torch repeats each key and value head (0 0 1 1, repeat_interleave), JAX tiles them (0 1 0 1).",
        "jnp.repeat(k, groups, axis) in place of jnp.tile(k, ...)",
        torch_page("repeat_interleave"),
        jax_page("jax.numpy.repeat"),
        tile_to_repeat,
    ),
)
