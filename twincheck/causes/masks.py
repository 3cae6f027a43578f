"""Attention masks: the patches that undo their differences, and what differs."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twincheck.causes.attention import lowest, with_attention
from twincheck.causes.cause import ATTENTION_PAGE, JAX_ATTENTION_PAGE, SDPA_PAGE, Cause, jax_page, torch_page
from twincheck.causes.replace import Function, Wrap, functions
from twincheck.recording import Patch

MASKED_OUT = -1e3
"""`jnp.where` with a constant below this fills in a masked position."""
LEAST_MASKED_OUT = -1.0
"""The same for constants that are too near to 0."""

_where = jnp.where


def _masked_where(
    change: Callable[[Any, Any, Any], Any], below: float = MASKED_OUT, least: float = -math.inf
) -> dict[str, Wrap]:
    """Returns a replacement of `jnp.where` for calls that fill in masked scores, given (condition, scores, fill)."""

    def is_fill(value: Any) -> bool:
        if value is None or np.ndim(value) or isinstance(value, jax.core.Tracer):
            return False
        return bool(np.asarray(value).dtype.kind == "f" and least <= float(value) < below)

    def wrap(where: Function) -> Function:
        def call(condition: Any, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
            if is_fill(y) and not is_fill(x):
                return change(condition, x, y)
            if is_fill(x) and not is_fill(y):
                return change(~condition, y, x)
            return where(condition, x, y, **kwargs)

        return call

    return {"jax.numpy.where": wrap}


def _inverted(query: Any, mask: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    return query, None if mask is None else ~jnp.asarray(mask, bool), kwargs


mask_polarity = functions(
    _masked_where(lambda condition, x, fill: _where(condition, fill, x)) | with_attention(_inverted)
)


def mask_fill(fill: float) -> Patch:
    """Returns a patch that fills masked scores with another value."""
    return functions(_masked_where(lambda condition, x, _: _where(condition, x, jnp.asarray(fill, x.dtype))))


mask_low_enough = functions(
    _masked_where(lambda condition, x, _: _where(condition, x, lowest(x)), LEAST_MASKED_OUT, -sys.float_info.max)
)
mask_added = functions(_masked_where(lambda condition, x, _: x + _where(condition, 0.0, -1e4).astype(x.dtype)))


def _causal_scores(softmax: Function) -> Function:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.ndim > 2 and x.shape[-1] == x.shape[-2]:
            allowed = jnp.tri(x.shape[-2], x.shape[-1], dtype=bool)[(None,) * (x.ndim - 2)]
            x = _where(allowed, x, lowest(x))
        return softmax(x, *args, **kwargs)

    return call


attention_causal = functions(
    {"jax.nn.softmax": _causal_scores}
    | with_attention(lambda query, mask, kwargs: (query, mask, kwargs | {"is_causal": True}))
)


def _in_order(condition: Any, x: Any, fill: Any) -> Any:
    """Fills in what a causal mask hides, in place of another mask that is the same for all examples and heads."""
    if not _is_for_all(condition):
        return _where(condition, x, fill)
    allowed = jnp.tri(np.shape(condition)[-1], dtype=bool)[(None,) * (x.ndim - 2)]
    return _where(allowed, x, jnp.asarray(fill, x.dtype))


def _is_for_all(condition: Any) -> bool:
    """Tells whether a mask is between positions, and the same for all examples and heads."""
    shape = np.shape(condition)
    return len(shape) > 1 and shape[-1] == shape[-2] and np.prod(shape[:-2]) == 1


def _tri(original: Function) -> Function:
    return lambda N, M=None, k=0, dtype=None: original(N, M, 0, dtype)


causal_mask = functions(
    {
        "jax.numpy.tri": _tri,
        "jax.numpy.tril": lambda tril: lambda m, k=0: tril(m),
        "jax.numpy.triu": lambda triu: lambda m, k=0: triu(m, 1),
    }
    | _masked_where(_in_order)
)
attention_not_causal = functions(
    _masked_where(lambda condition, x, fill: x if _is_for_all(condition) else _where(condition, x, fill))
    | with_attention(lambda query, mask, kwargs: (query, mask, kwargs | {"is_causal": False}))
)


CAUSES: Sequence[Cause] = (
    Cause(
        "causal-mask",
        "Mask: in torch a position sees itself and those before it; JAX's mask is another, as by a wrong diagonal.",
        "jnp.tri(length, dtype=bool), or jnp.triu(..., k=1) for what is hidden",
        SDPA_PAGE,
        jax_page("jax.numpy.tri"),
        causal_mask,
    ),
    Cause(
        "mask-fill",
        "Mask: JAX fills hidden scores with a value that is not low enough, so that hidden positions count.",
        "jnp.where(mask, scores, jnp.finfo(scores.dtype).min)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        mask_low_enough,
    ),
    Cause(
        "attention-causal",
        "Attention: torch masks later positions (is_causal=True), JAX does not.",
        "jax.nn.dot_product_attention(..., is_causal=True)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_causal,
    ),
    Cause(
        "attention-not-causal",
        "Attention: JAX masks later positions (is_causal=True), torch does not.",
        "jax.nn.dot_product_attention(..., is_causal=False)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_not_causal,
    ),
    Cause(
        "mask-polarity",
        "Mask: True means the opposite; in torch's key_padding_mask it hides a position, in Flax's masks it keeps one.",
        "mask=~mask",
        torch_page("nn.MultiheadAttention"),
        ATTENTION_PAGE,
        mask_polarity,
    ),
    Cause(
        "mask-value",
        "Mask: torch adds -10000 to hidden scores, JAX replaces them; rows that are hidden altogether differ.",
        "scores + jnp.where(mask, 0.0, -10000.0)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        mask_added,
    ),
    Cause(
        "mask-value-finite",
        "Mask: torch fills hidden scores with the lowest finite value, JAX with -inf, and hidden rows are NaN.",
        "jnp.where(mask, scores, jnp.finfo(scores.dtype).min)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        mask_fill(-3.4028234663852886e38),
    ),
    Cause(
        "masked-rows",
        "Mask: rows that are hidden altogether are NaN on one side (filled with -inf) and finite on the other.",
        "Fill hidden scores with the value that the PyTorch model uses, or hide no whole row.",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
    ),
)
