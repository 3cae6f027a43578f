"""Flax's names and layouts, and torch's: `{flax's name: (torch's name, flax's axes in torch's order)}`."""

from collections.abc import Mapping, Sequence

VECTOR = (0,)
IMAGES = (0, 3, 1, 2)  # (batch, height, width, channels) to (batch, channels, height, width)

PARAMETERS: dict[str, tuple[str, Sequence[int]]] = {
    "conv.kernel": ("conv.weight", (3, 2, 0, 1)),  # (height, width, in, out) to (out, in, height, width)
    "batch_norm.scale": ("batch_norm.weight", VECTOR),
    "batch_norm.bias": ("batch_norm.bias", VECTOR),
    "layer_norm.scale": ("layer_norm.weight", VECTOR),
    "layer_norm.bias": ("layer_norm.bias", VECTOR),
    "linear.kernel": ("linear.weight", (1, 0)),  # (in, out) to (out, in)
    "linear.bias": ("linear.bias", VECTOR),
}
STATISTICS: dict[str, tuple[str, Sequence[int]]] = {
    "batch_norm.mean": ("batch_norm.running_mean", VECTOR),
    "batch_norm.var": ("batch_norm.running_var", VECTOR),
}
GRADIENTS = {f"{flax}.grad": (f"{torch}.grad", axes) for flax, (torch, axes) in PARAMETERS.items()}
SAME = ("layer_norm.input", "layer_norm.output", "linear.input", "linear.output", "output", "loss", "output.grad")

FLAX: Mapping[str, str | tuple[str, Sequence[int]] | None] = {
    **PARAMETERS,
    **STATISTICS,
    **GRADIENTS,
    **{name: (name, IMAGES) for name in ("conv.input", "conv.output", "batch_norm.input", "batch_norm.output")},
    "gelu": ("gelu.output", IMAGES),
    "flatten": "flatten.output",
    **{name: name for name in SAME},
}
TORCH_ONLY = {"gelu.input": None, "flatten.input": None}  # functions in Flax, and only their results are sown
