"""Convolutions, pooling and resizing: the patches that undo their differences, and what differs."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from twincheck.causes.cause import LINEAR_PAGE, POOLING_PAGE, Cause, jax_page, torch_page
from twincheck.causes.replace import Function, Wrap, functions, resolve, together
from twincheck.recording import Patch


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


CAUSES: Sequence[Cause] = (
    Cause(
        "conv-padding",
        "Convolution: the padding differs; Flax's default is SAME, which pads a strided convolution more at the end.",
        'nnx.Conv(..., padding=((p, p), (p, p))) with torch\'s padding p; "CIRCULAR" or "REFLECT" for its padding_mode',
        torch_page("nn.Conv2d"),
        LINEAR_PAGE,
        conv_padding_symmetric,
    ),
    Cause(
        "conv-padding-end",
        "Convolution: torch pads at the end only here, before a strided convolution, JAX on both sides.",
        "nnx.Conv(..., padding=((0, 1), (0, 1)))",
        torch_page("nn.functional.pad"),
        LINEAR_PAGE,
        conv_padding_at_end,
    ),
    Cause(
        "conv-padding-causal",
        "Convolution: torch pads at the start only here (a causal convolution), JAX otherwise.",
        'nnx.Conv(..., padding="CAUSAL")',
        torch_page("nn.Conv1d"),
        LINEAR_PAGE,
        conv_padding_causal,
    ),
    Cause(
        "conv-padding-none",
        "Convolution: torch pads nothing by default, Flax as much as SAME needs.",
        'nnx.Conv(..., padding="VALID")',
        torch_page("nn.Conv2d"),
        LINEAR_PAGE,
        conv_padding_none,
    ),
    Cause(
        "conv-kernel-flip",
        "Convolution: one side flips the kernel, as jnp.convolve does, the other does not, as torch's layers.",
        "jnp.convolve(x, kernel[::-1]), or jnp.flip(kernel, spatial axes) for other functions",
        torch_page("nn.Conv1d"),
        jax_page("jax.numpy.convolve"),
        conv_kernel_flip,
    ),
    Cause(
        "conv-strides",
        "Convolution: the strides differ.",
        "nnx.Conv(..., strides=...) as torch's stride",
        torch_page("nn.Conv2d"),
        LINEAR_PAGE,
    ),
    Cause(
        "conv-dilation",
        "Convolution: the dilations of the kernels differ.",
        "nnx.Conv(..., kernel_dilation=...) as torch's dilation",
        torch_page("nn.Conv2d"),
        LINEAR_PAGE,
    ),
    Cause(
        "conv-transpose-padding",
        "ConvTranspose: torch's padding takes away from the output, Flax's SAME puts an odd pixel on the other side.",
        "nnx.ConvTranspose(..., padding=[(k - 1 - p, k - 1 - p + output_padding), ...])",
        torch_page("nn.ConvTranspose2d"),
        LINEAR_PAGE,
        conv_transpose_padding,
    ),
    Cause(
        "conv-transpose-flip",
        "ConvTranspose: the JAX layer uses the kernel flipped in height and width, compared with torch.",
        "jnp.flip(kernel, spatial axes) in this layer; nnx.ConvTranspose takes torch's kernel flipped",
        torch_page("nn.ConvTranspose2d"),
        LINEAR_PAGE,
        conv_transpose_flip,
    ),
    Cause(
        "avg-pool-padding",
        "Average pooling: torch leaves the padding out of the mean here (count_include_pad=False), Flax counts it.",
        "nnx.avg_pool(..., count_include_pad=False)",
        torch_page("nn.AvgPool2d"),
        POOLING_PAGE,
        avg_pool_counts_padding(False),
    ),
    Cause(
        "avg-pool-padding-counted",
        "Average pooling: torch counts the padding in the mean by default, the JAX side leaves it out.",
        "nnx.avg_pool(..., count_include_pad=True)",
        torch_page("nn.AvgPool2d"),
        POOLING_PAGE,
        avg_pool_counts_padding(True),
    ),
    Cause(
        "pool-padding",
        "Pooling: torch pads alike on both sides, Flax's SAME more at the end.",
        "nnx.max_pool(..., padding=((1, 1), (1, 1))) with torch's padding",
        torch_page("nn.MaxPool2d"),
        POOLING_PAGE,
        pool_padding_symmetric,
    ),
    Cause(
        "pool-padding-none",
        "Pooling: torch pads nothing by default and drops what is left over, Flax's SAME keeps it.",
        'nnx.max_pool(..., padding="VALID")',
        torch_page("nn.MaxPool2d"),
        POOLING_PAGE,
        pool_padding_none,
    ),
    Cause(
        "pool-max",
        "Pooling: torch takes the largest value of a window here, JAX the mean.",
        "nnx.max_pool(...)",
        torch_page("nn.MaxPool2d"),
        POOLING_PAGE,
        pool_max,
    ),
    Cause(
        "pool-mean",
        "Pooling: torch takes the mean of a window here, JAX the largest value.",
        "nnx.avg_pool(...)",
        torch_page("nn.AvgPool2d"),
        POOLING_PAGE,
        pool_mean,
    ),
    Cause(
        "padding-border",
        "Padding: only the border of the image differs; the padding has another value or mode.",
        'nnx.Conv(..., padding="REFLECT" or "CIRCULAR") as torch\'s padding_mode; pad with the same value',
        torch_page("nn.functional.pad"),
        jax_page("jax.numpy.pad"),
    ),
    Cause(
        "resize-antialias",
        "Resize: jax.image.resize smooths by default when it makes an image smaller, torch's interpolate does not.",
        "jax.image.resize(x, shape, method, antialias=False)",
        torch_page("nn.functional.interpolate"),
        jax_page("jax.image.resize"),
        resize("linear|triangle"),
    ),
    Cause(
        "resize-corners",
        "Resize: torch aligns the corner pixels here (align_corners=True), jax.image.resize uses half-pixel centers.",
        "jax.image.scale_and_translate with scale (new - 1) / (old - 1), or a matrix of the weights",
        torch_page("nn.functional.interpolate"),
        jax_page("jax.image.resize"),
        resize("linear|triangle|cubic", corners=True),
    ),
    Cause(
        "resize-bicubic",
        "Resize: torch's bicubic kernel has the coefficient -0.75, that of jax.image.resize -0.5, and borders differ.",
        'jax.image.resize(x, shape, "bicubic-pytorch", antialias=False)',
        torch_page("nn.functional.interpolate"),
        jax_page("jax.image.resize"),
        resize("cubic"),
    ),
    Cause(
        "resize-nearest",
        'Resize: torch\'s "nearest" takes the pixel floor(i * scale), jax.image.resize that at half-pixel centers.',
        'x[:, (jnp.arange(new) * old) // new], or torch\'s mode="nearest-exact"',
        torch_page("nn.functional.interpolate"),
        jax_page("jax.image.resize"),
        resize("nearest"),
    ),
)
