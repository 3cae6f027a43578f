"""The smallest pair of models for each setting that differs between paired modules."""

from flax import nnx
from planted_nets import dense, flax_layers, layer, layers, words
from planted_pairs import HYPOTHESIS_PAIRS, MOMENTUM_PAIR
from planted_places import conv, norm
from torch import nn

SETTING_PAIRS = (
    *(pair for pair in HYPOTHESIS_PAIRS if pair.cause in ("norm-epsilon", "conv-transpose-padding")),
    conv("conv-padding", {}, {"padding": "VALID"}, {}),
    MOMENTUM_PAIR,
    norm(
        "norm-groups",
        layers(nn.GroupNorm, 2, 8),
        flax_layers(nnx.GroupNorm, 8, num_groups=2, epsilon=1e-5),
        flax_layers(nnx.GroupNorm, 8, num_groups=4, epsilon=1e-5),
        tiny=False,
    ),
    words(
        "norm-axes",
        layer,
        layer,
        layer,
        layers=layers(nn.LayerNorm, 8),
        right_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5),
        wrong_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5, reduction_axes=(-2, -1)),
    ),
    conv("conv-strides", {"stride": 2, "padding": 1}, {"strides": 2, "padding": 1}, {"strides": (1, 1), "padding": 1}),
    conv("conv-dilation", {"dilation": 2, "padding": 2}, {"kernel_dilation": 2}, {"padding": 2}),
    conv("conv-padding", {"padding": 2}, {"padding": 2}, {"padding": ((2, 1), (2, 1))}),
    conv("conv-padding", {"padding": 1, "padding_mode": "circular"}, {"padding": "CIRCULAR"}, {"padding": "SAME"}),
    dense(
        "dropout-rate",
        layer,
        layer,
        layer,
        layers=lambda: {"layer": nn.Dropout(0.1).eval()},
        right_layers=flax_layers(nnx.Dropout, 0.1, deterministic=True),
        wrong_layers=flax_layers(nnx.Dropout, 0.2, deterministic=True),
    ),
)
