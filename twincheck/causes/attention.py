"""Attention, masks and rotary embeddings: the patches that undo their differences, and what differs."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twincheck.causes.cause import (
    ATTENTION_PAGE,
    DROPOUT_PAGE,
    JAX_ATTENTION_PAGE,
    SDPA_PAGE,
    Cause,
    jax_page,
    torch_page,
)
from twincheck.causes.norms import dropout_off
from twincheck.causes.replace import Function, Wrap, functions, user_namespaces
from twincheck.recording import Patch, Patched

ATTENTIONS = ("jax.nn.dot_product_attention", "flax.nnx.dot_product_attention", "flax.linen.dot_product_attention")
MASKED_OUT = -1e3
"""`jnp.where` with a constant below this fills in a masked position."""
LEAST_MASKED_OUT = -1.0
"""The same for constants that are too near to 0."""


_softmax, _where = jax.nn.softmax, jnp.where


def _lowest(x: Any) -> float:
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
    lowest = _lowest(scores)
    if mask is not None:
        scores = _where(mask, scores, lowest)
    if is_causal:
        scores = _where(
            jnp.tri(scores.shape[-2], scores.shape[-1], dtype=bool)[(None,) * (scores.ndim - 2)], scores, lowest
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


def _attention(change: Callable[..., tuple[Any, Any, dict[str, Any]]]) -> dict[str, Wrap]:
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
    scores = functions({"jax.nn.softmax": softmax, **_attention(scaled)})

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
    | _attention(lambda query, mask, kwargs: (query, mask, {k: v for k, v in kwargs.items() if k != "scale"}))
)


def _masked_where(change: Callable[[Any, Any, Any], Any], below: float = MASKED_OUT) -> dict[str, Wrap]:
    """Returns a replacement of `jnp.where` for calls that fill in masked scores, given (condition, scores, fill)."""

    def is_fill(value: Any) -> bool:
        if value is None or np.ndim(value) or isinstance(value, jax.core.Tracer):
            return False
        return bool(np.asarray(value).dtype.kind == "f" and float(value) < below)

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


mask_polarity = functions(_masked_where(lambda condition, x, fill: _where(condition, fill, x)) | _attention(_inverted))


def mask_fill(fill: float) -> Patch:
    """Returns a patch that fills masked scores with another value."""
    return functions(_masked_where(lambda condition, x, _: _where(condition, x, jnp.asarray(fill, x.dtype))))


mask_low_enough = functions(
    _masked_where(lambda condition, x, _: _where(condition, x, _lowest(x)), below=LEAST_MASKED_OUT)
)
mask_added = functions(_masked_where(lambda condition, x, _: x + _where(condition, 0.0, -1e4).astype(x.dtype)))


def _causal_scores(softmax: Function) -> Function:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if x.ndim > 2 and x.shape[-1] == x.shape[-2]:
            allowed = jnp.tri(x.shape[-2], x.shape[-1], dtype=bool)[(None,) * (x.ndim - 2)]
            x = _where(allowed, x, _lowest(x))
        return softmax(x, *args, **kwargs)

    return call


attention_causal = functions(
    {"jax.nn.softmax": _causal_scores}
    | _attention(lambda query, mask, kwargs: (query, mask, kwargs | {"is_causal": True}))
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
    | _attention(lambda query, mask, kwargs: (query, mask, kwargs | {"is_causal": False}))
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
        "attention-float32",
        "Attention: jax.nn.dot_product_attention, and so nnx's, takes the softmax in float32 even in a float64 model.",
        "Write the products and the softmax with jnp.einsum, or compare in float32.",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_own_dtype,
    ),
    Cause(
        "attention-unscaled",
        "Attention: torch does not scale the scores here, as in T5; JAX multiplies them by 1 / sqrt(size of a head).",
        "jax.nn.dot_product_attention(..., scale=1.0)",
        SDPA_PAGE,
        JAX_ATTENTION_PAGE,
        attention_scale(0.5),
    ),
    Cause(
        "attention-scale",
        "Attention: torch multiplies the scores by 1 / sqrt(size of a head), JAX does not.",
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
    Cause(
        "dropout-on",
        "Dropout: it is on in JAX, off in torch (eval mode).",
        "model.eval(), or deterministic=True",
        torch_page("nn.Dropout"),
        DROPOUT_PAGE,
        dropout_off,
    ),
    Cause(
        "dropout-rate",
        "Dropout: the rates differ.",
        "nnx.Dropout(rate=...) as torch's p",
        torch_page("nn.Dropout"),
        DROPOUT_PAGE,
    ),
)
