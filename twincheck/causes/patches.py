"""Patches that make a JAX model behave as torch does, one for each known difference that a patch can undo."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from twincheck.causes.replace import (
    Function,
    Patch,
    Patched,
    Wrap,
    attributes,
    functions,
    resolve,
    together,
    user_namespaces,
)

NORMS = tuple(
    f"flax.{package}.{name}"
    for package in ("nnx", "linen")
    for name in ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm")
)
PRODUCTS = tuple(
    f"flax.{package}.{name}"
    for package, names in {
        "nnx": ("Conv", "ConvTranspose", "Einsum", "Linear", "LinearGeneral"),
        "linen": ("Conv", "ConvTranspose", "Dense", "DenseGeneral", "Einsum"),
    }.items()
    for name in names
)
JAX_ACTIVATIONS = (
    "celu",
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softplus",
    "squareplus",
    "tanh",
)
ATTENTIONS = ("jax.nn.dot_product_attention", "flax.nnx.dot_product_attention", "flax.linen.dot_product_attention")
MASKED_OUT = -1e3
"""`jnp.where` with a constant below this fills in a masked position."""
LEAST_MASKED_OUT = -1.0
"""The same for constants that are too near to 0."""


# Activations


def activation(target: Callable[[Any], Any], *names: str) -> Patch:
    """Returns a patch that replaces the activations of `jax.nn` called `names`, by default all, by another one."""
    wraps: dict[str, Wrap] = {
        f"jax.nn.{name}": lambda _: lambda x, *_, **__: target(x) for name in names or JAX_ACTIVATIONS
    }
    if "tanh" in (names or JAX_ACTIVATIONS):
        wraps["jax.numpy.tanh"] = wraps["jax.nn.tanh"]
    return functions(wraps)


_gelu, _relu, _silu, _sigmoid = jax.nn.gelu, jax.nn.relu, jax.nn.silu, jax.nn.sigmoid
_leaky_relu, _elu, _selu, _mish, _softplus = jax.nn.leaky_relu, jax.nn.elu, jax.nn.selu, jax.nn.mish, jax.nn.softplus
_hard_swish, _hard_sigmoid, _relu6, _tanh = jax.nn.hard_swish, jax.nn.hard_sigmoid, jax.nn.relu6, jnp.tanh
_softmax, _log_softmax, _where, _resize = jax.nn.softmax, jax.nn.log_softmax, jnp.where, jax.image.resize


def gelu_erf(x: Any) -> Any:
    return _gelu(x, approximate=False)


def gelu_tanh(x: Any) -> Any:
    return _gelu(x, approximate=True)


def gelu_quick(x: Any) -> Any:
    return x * _sigmoid(1.702 * x)


TARGETS: dict[str, Callable[[Any], Any]] = {
    "relu": _relu,
    "gelu": gelu_erf,
    "silu": _silu,
    "leaky-relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "mish": _mish,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "hard-swish": _hard_swish,
    "hard-sigmoid": _hard_sigmoid,
    "relu6": _relu6,
}
"""The other activations that torch may have in the place."""


def leaky_slope(slope: float) -> Patch:
    """Returns a patch that gives `leaky_relu` another slope."""
    return functions({"jax.nn.leaky_relu": lambda leaky: lambda x, *_, **__: leaky(x, slope)})


# Softmax, statistics, rounding


def _cast(softmax: Function, dtype: Any) -> Function:
    return lambda x, *args, **kwargs: softmax(x.astype(dtype), *args, **kwargs).astype(x.dtype)


def _softmaxes(wrap: Wrap) -> Patch:
    return functions({"jax.nn.softmax": wrap, "jax.nn.log_softmax": wrap})


softmax_float32 = _softmaxes(lambda softmax: _cast(softmax, jnp.float32))
softmax_axis_1 = _softmaxes(lambda softmax: lambda x, *_, **kwargs: softmax(x, **kwargs | {"axis": 1}))
softmax_last_axis = _softmaxes(lambda softmax: lambda x, *_, **kwargs: softmax(x, **kwargs | {"axis": -1}))
softmax_to_log = functions({"jax.nn.softmax": lambda _: _log_softmax})
log_to_softmax = functions({"jax.nn.log_softmax": lambda _: _softmax})
softmax_extra = _softmaxes(lambda _: lambda x, *_, **__: x)


def spread(ddof: int) -> Patch:
    """Returns a patch that makes `std` and `var` divide by n - ddof."""

    def wrap(original: Function) -> Function:
        def call(a: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs.pop("correction", None)
            if len(args) > 3:  # axis, dtype, out, ddof
                args = (*args[:3], ddof, *args[4:])
            else:
                kwargs["ddof"] = ddof
            return original(a, *args, **kwargs)

        return call

    return functions(
        {f"jax.numpy.{name}": wrap for name in ("std", "var")}, {f"jax.Array.{name}": wrap for name in ("std", "var")}
    )


def _half_up(_: Function) -> Function:
    return lambda x, decimals=0, *_, **__: jnp.floor(x * 10.0**decimals + 0.5) / 10.0**decimals


round_half_up = functions({"jax.numpy.round": _half_up, "jax.numpy.rint": _half_up}, {"jax.Array.round": _half_up})


# Norms

fast_variance = attributes(NORMS, {"use_fast_variance": False})


def norm_epsilon(epsilon: float) -> Patch:
    """Returns a patch that gives all norms another epsilon."""
    return attributes(NORMS, {"epsilon": epsilon})


def _norm(spread: Callable[[Any, float], Any]) -> Patch:
    """Returns a patch of LayerNorm over the last axis that divides by `spread(x, epsilon)`."""

    def wrap(original: Function) -> Function:
        def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            unscaled = (x - x.mean(-1, keepdims=True)) / spread(x, self.epsilon)
            scale, bias = _value(self, "scale"), _value(self, "bias")
            shape = (1,) * (x.ndim - 1) + (-1,)
            out = unscaled if scale is None else unscaled * scale.reshape(shape)
            return out if bias is None else out + bias.reshape(shape)

        return call

    return functions({}, {f"flax.{package}.LayerNorm.__call__": wrap for package in ("nnx", "linen")})


def _value(module: Any, name: str) -> Any:
    """Returns a parameter of an NNX or a linen module as an array, None if it has none."""
    if hasattr(module, "get_variable"):  # linen
        return module.get_variable("params", name)
    parameter = getattr(module, name)
    return None if parameter is None else parameter[...]


epsilon_outside_root = _norm(lambda x, epsilon: jnp.std(x, -1, keepdims=True) + epsilon)
unbiased_norm = _norm(lambda x, epsilon: jnp.std(x, -1, keepdims=True, ddof=1) + epsilon)


def _one_plus_scale(original: Function) -> Function:
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        scaled, scale = original(self, x, *args, **kwargs), self.scale
        object.__setattr__(self, "scale", None)
        try:
            return scaled + original(self, x, *args, **kwargs)
        finally:
            object.__setattr__(self, "scale", scale)

    return call


rms_one_plus_scale = functions({}, {"flax.nnx.RMSNorm.__call__": _one_plus_scale})


def _unbiased_running_variance(original: Function) -> Function:
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("use_running_average")
        if self.use_running_average if given is None else given:
            return original(self, x, *args, **kwargs)
        before = self.var[...]
        out = original(self, x, *args, **kwargs)
        count, kept = x.size // x.shape[self.axis], self.momentum * before
        self.var[...] = kept + (self.var[...] - kept) * (count / max(count - 1, 1))
        return out

    return call


unbiased_running_variance = functions({}, {"flax.nnx.BatchNorm.__call__": _unbiased_running_variance})
batch_norm_evaluates = attributes(
    ("flax.nnx.BatchNorm", "flax.linen.BatchNorm"), {"use_running_average": True}, use_running_average=True
)
dropout_off = together(
    attributes(("flax.nnx.Dropout", "flax.linen.Dropout"), {"rate": 0.0}),
    attributes(
        ("flax.nnx.MultiHeadAttention", "flax.linen.MultiHeadAttention"),
        {"dropout_rate": 0.0, "deterministic": True},
        deterministic=True,
    ),
)


# Convolutions, pooling, resizing


def _flip(conv: Function) -> Function:
    def call(lhs: Any, rhs: Any, *args: Any, **kwargs: Any) -> Any:
        numbers = args[4] if len(args) > 4 else kwargs.get("dimension_numbers")
        axes = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers).rhs_spec[2:]
        return conv(lhs, jnp.flip(rhs, axes), *args, **kwargs)

    return call


conv_kernel_flip = functions(
    {
        "jax.lax.conv_general_dilated": _flip,
        "jax.numpy.convolve": lambda convolve: lambda a, v, *args, **kwargs: convolve(a, v[::-1], *args, **kwargs),
        "jax.scipy.signal.convolve": lambda convolve: (
            lambda a, v, *args, **kwargs: convolve(a, jnp.flip(v), *args, **kwargs)
        ),
    }
)


def _pad_conv(change: Callable[[Any, Sequence[int], Sequence[int]], Any]) -> Patch:
    """Returns a patch that changes a convolution's padding, given it, the extent of its kernel and its strides."""

    def wrap(conv: Function) -> Function:
        def call(lhs: Any, rhs: Any, window_strides: Any, padding: Any, *args: Any, **kwargs: Any) -> Any:
            numbers = args[2] if len(args) > 2 else kwargs.get("dimension_numbers")
            dilation = args[1] if len(args) > 1 else kwargs.get("rhs_dilation")
            sizes = [rhs.shape[axis] for axis in lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers).rhs_spec[2:]]
            extents = [d * (k - 1) + 1 for k, d in zip(sizes, dilation or [1] * len(sizes), strict=True)]
            return conv(lhs, rhs, window_strides, change(padding, extents, window_strides), *args, **kwargs)

        return call

    return functions({"jax.lax.conv_general_dilated": wrap})


def _symmetric(padding: Any, extents: Sequence[int], strides: Sequence[int]) -> Any:
    same = isinstance(padding, str) and padding.upper().startswith("SAME")
    return [((extent - 1) // 2,) * 2 for extent in extents] if same else padding


def _to_the_end(padding: Any, extents: Sequence[int], strides: Sequence[int]) -> Any:
    if isinstance(padding, str):
        return padding
    return [(0, p + q) if s > 1 else (p, q) for (p, q), s in zip(padding, strides, strict=True)]


def _causal(padding: Any, extents: Sequence[int], strides: Sequence[int]) -> Any:
    return [(extent - 1, 0) for extent in extents]


conv_padding_symmetric = _pad_conv(_symmetric)
conv_padding_at_end = _pad_conv(_to_the_end)
conv_padding_causal = _pad_conv(_causal)
conv_padding_none = _pad_conv(lambda padding, extents, strides: "VALID")


def _transpose_pads(change: Callable[[int, int], tuple[int, int]]) -> Patch:
    """Returns a patch that gives `lax.conv_transpose` other padding than SAME, from the kernel's extent and stride."""

    def wrap(conv: Function) -> Function:
        def call(lhs: Any, rhs: Any, strides: Any, padding: Any, *args: Any, **kwargs: Any) -> Any:
            numbers = args[1] if len(args) > 1 else kwargs.get("dimension_numbers")
            if padding == "SAME":
                axes = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers or _channels_last(lhs.ndim)).rhs_spec[
                    2:
                ]
                padding = [change(rhs.shape[axis], stride) for axis, stride in zip(axes, strides, strict=True)]
            return conv(lhs, rhs, strides, padding, *args, **kwargs)

        return call

    return functions({"jax.lax.conv_transpose": wrap})


def _channels_last(ndim: int) -> tuple[str, str, str]:
    space = "DHW"[-(ndim - 2) :]
    return f"N{space}C", f"{space}IO", f"N{space}C"


def _torch_pads(kernel: int, stride: int) -> tuple[int, int]:
    """Padding (k - 1) // 2 and an output `stride` times as long as the input, torch's usual arrangement."""
    padding = (kernel - 1) // 2
    return kernel - 1 - padding, kernel - 1 - padding + stride + 2 * padding - kernel


conv_transpose_padding = _transpose_pads(_torch_pads)


def _flip_transposed(conv: Function) -> Function:
    def call(lhs: Any, rhs: Any, *args: Any, **kwargs: Any) -> Any:
        numbers = args[3] if len(args) > 3 else kwargs.get("dimension_numbers")
        axes = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers or _channels_last(lhs.ndim)).rhs_spec[2:]
        return conv(lhs, jnp.flip(rhs, axes), *args, **kwargs)

    return call


conv_transpose_flip = functions({"jax.lax.conv_transpose": _flip_transposed})


def avg_pool_counts_padding(counts: bool) -> Patch:
    """Returns a patch that sets whether average pooling counts the padding."""

    def wrap(pool: Function) -> Function:
        def call(
            inputs: Any, window_shape: Any, strides: Any = None, padding: Any = "VALID", *_: Any, **__: Any
        ) -> Any:
            return pool(inputs, window_shape, strides, padding, count_include_pad=counts)

        return call

    return functions({"flax.linen.avg_pool": wrap, "flax.nnx.avg_pool": wrap})


def _pool_padding(change: Callable[[int], Any]) -> Patch:
    def wrap(pool: Function) -> Function:
        def call(inputs: Any, window_shape: Any, strides: Any = None, padding: Any = "VALID", **kwargs: Any) -> Any:
            if padding == "SAME":
                padding = [change(size) for size in window_shape]
            return pool(inputs, window_shape, strides, padding, **kwargs)

        return call

    return functions({f"flax.linen.{name}": wrap for name in ("avg_pool", "max_pool", "min_pool")})


def _symmetric_pool(original: Function) -> Function:
    """Calls an Equinox pooling with as much padding before each axis as behind it."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        padding = self.padding
        object.__setattr__(self, "padding", tuple((max(pads),) * 2 for pads in padding))
        try:
            return original(self, *args, **kwargs)
        finally:
            object.__setattr__(self, "padding", padding)

    return call


pool_padding_symmetric = together(
    _pool_padding(lambda size: ((size - 1) // 2,) * 2), functions({}, {"equinox.nn.Pool.__call__": _symmetric_pool})
)
pool_padding_none = _pool_padding(lambda size: (0, 0))


def _other_pool(name: str) -> Wrap:
    """Returns a replacement of a pooling by Flax's pooling of this name."""

    def wrap(_: Function) -> Function:
        def call(inputs: Any, window: Any, strides: Any = None, padding: Any = "VALID", **__: Any) -> Any:
            return resolve(f"flax.linen.{name}")(inputs, window, strides, padding)

        return call

    return wrap


pool_max = functions({f"flax.{package}.avg_pool": _other_pool("max_pool") for package in ("linen", "nnx")})
pool_mean = functions({f"flax.{package}.max_pool": _other_pool("avg_pool") for package in ("linen", "nnx")})


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.75, as in torch and OpenCV."""
    a, d = -0.75, np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.asarray(np.where(d <= 1, near, np.where(d < 2, far, 0.0)))


def _interpolate(old: int, new: int, method: str, corners: bool) -> NDArray[np.float64]:
    """Returns the matrix (new, old) by which torch resizes one axis without antialiasing."""
    grid = np.arange(new)
    if method == "nearest":
        return np.asarray(np.eye(old)[np.minimum((grid * (old / new)).astype(int), old - 1)])
    at = grid * ((old - 1) / max(new - 1, 1)) if corners else (grid + 0.5) * (old / new) - 0.5
    kernel, reach = (_cubic, 2) if "cubic" in method else (lambda d: np.maximum(1 - np.abs(d), 0), 1)
    matrix = np.zeros((new, old))
    for offset in range(1 - reach, reach + 1):
        index = np.floor(at).astype(int) + offset
        np.add.at(matrix, (grid, np.clip(index, 0, old - 1)), kernel(at - index))
    return matrix


def resize(methods: str, corners: bool = False) -> Patch:
    """Returns a patch that resizes as torch does without antialiasing, for the methods that contain a word."""

    def wrap(original: Function) -> Function:
        def call(image: Any, shape: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
            name = getattr(method, "name", method).lower()
            if not re.search(methods, name):
                return original(image, shape, method, *args, **kwargs)
            for axis, (old, new) in enumerate(zip(image.shape, shape, strict=True)):
                if old != new:
                    matrix = jnp.asarray(_interpolate(old, new, name, corners), image.dtype)
                    image = jnp.moveaxis(jnp.tensordot(matrix, image, ((1,), (axis,))), 0, axis)
            return image

        return call

    return functions({"jax.image.resize": wrap})


# Attention


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


def _on_diagonal(k: int) -> Wrap:
    """Returns a replacement of `tri`, `tril` and `triu` that starts at diagonal k."""

    def wrap(original: Function) -> Function:
        def call(m: Any, *args: Any, **kwargs: Any) -> Any:
            if original.__name__ == "tri":
                return original(m, *args[:1], k, *args[2:], **{n: v for n, v in kwargs.items() if n != "k"})
            return original(m, k)

        return call

    return wrap


attention_not_causal = functions(
    _masked_where(lambda condition, x, fill: x if _is_for_all(condition) else _where(condition, x, fill))
    | _attention(lambda query, mask, kwargs: (query, mask, kwargs | {"is_causal": False}))
)
causal_mask = functions(
    {"jax.numpy.tri": _on_diagonal(0), "jax.numpy.tril": _on_diagonal(0), "jax.numpy.triu": _on_diagonal(1)}
    | _masked_where(_in_order)
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


# Gates, precision, losses


def split_order(order: Sequence[int]) -> Patch:
    """Returns a patch that gives the parts of `jnp.split` in another order, if there are as many as `order` has."""

    def wrap(original: Function) -> Function:
        def call(ary: Any, indices_or_sections: Any, axis: int = 0) -> Any:
            parts = original(ary, indices_or_sections, axis)
            return [parts[i] for i in order] if len(parts) == len(order) else parts

        return call

    return functions({"jax.numpy.split": wrap})


@Patch
@contextmanager
def highest_precision(modules: Sequence[object]) -> Iterator[Patched]:
    """Computes matrix products in the precision of their inputs."""
    highest = attributes(PRODUCTS, {"precision": lax.Precision.HIGHEST})
    with jax.default_matmul_precision("highest"), highest(modules) as patched:
        yield patched


LOW = ("bfloat16", "float16")


def _not_lowered(astype: Function) -> Function:
    def call(x: Any, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        return x if jnp.dtype(dtype).name in LOW else astype(x, dtype, *args, **kwargs)

    return call


stays_in_float32 = functions({}, {"jax.Array.astype": _not_lowered})
computes_in_float32 = attributes((*PRODUCTS, *NORMS, "flax.nnx.Embed", "flax.linen.Embed"), {"dtype": jnp.float32})


def label_smoothing(alpha: float) -> Patch:
    """Returns a patch that smooths the labels of optax's cross-entropy with integer labels."""

    def wrap(_: Function) -> Function:
        def call(logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
            log_p = _log_softmax(logits)
            picked = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
            return -(1 - alpha) * picked - alpha * log_p.mean(-1)

        return call

    return functions({"optax.softmax_cross_entropy_with_integer_labels": wrap})
