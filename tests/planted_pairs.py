"""The smallest pair of models for each cause that a patch undoes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from jax.nn import gelu
from planted_attention import ATTENTION_PAIRS
from planted_nets import dense, elementwise, flax_layers, image, layer, layers, words
from planted_places import (
    FILTER,
    GemmaNorm,
    OwnGroupNorm,
    UnbiasedNorm,
    Unflipped,
    WrittenGemmaNorm,
    WrittenNorm,
    conv,
    convolved,
    corner_matrix,
    epsilon,
    filtered,
    in_half,
    jax_gates,
    jax_loss,
    jax_three_gates,
    norm,
    pool,
    resized,
    same_layer,
    torch_convolved,
    torch_gates,
    torch_loss,
    torch_three_gates,
    weighted,
)
from torch import nn

ACTIVATION_PAIRS = (
    elementwise("gelu-tanh", F.gelu, lambda x: gelu(x, approximate=False), gelu),
    dense(
        "gelu-erf",
        lambda net, x: F.gelu(x, approximate="tanh"),
        lambda net, x: nnx.gelu(x),
        lambda net, x: nnx.gelu(x, approximate=False),
    ),
    dense(
        "gelu-quick",
        lambda net, x: x * torch.sigmoid(1.702 * x),
        lambda net, x: x * jax.nn.sigmoid(1.702 * x),
        lambda net, x: jax.nn.gelu(x),
    ),
    dense(
        "leaky-slope",
        lambda net, x: F.leaky_relu(x),
        lambda net, x: jax.nn.leaky_relu(x),
        lambda net, x: jax.nn.leaky_relu(x, 0.3),
    ),
    elementwise(
        "leaky-slope-0.2", lambda x: F.leaky_relu(x, 0.2), lambda x: jax.nn.leaky_relu(x, 0.2), jax.nn.leaky_relu
    ),
    elementwise("activation-relu", F.relu, jax.nn.relu, functools.partial(jax.nn.gelu, approximate=True)),
    elementwise("activation-gelu", F.gelu, lambda x: jax.nn.gelu(x, approximate=False), jax.nn.relu),
    elementwise("activation-silu", F.silu, jax.nn.silu, gelu),
    elementwise("activation-leaky-relu", F.leaky_relu, jax.nn.leaky_relu, jax.nn.relu),
    elementwise("activation-elu", F.elu, jax.nn.elu, jax.nn.relu),
    elementwise("activation-selu", F.selu, jax.nn.selu, jax.nn.elu),
    elementwise("activation-mish", F.mish, jax.nn.mish, jax.nn.swish),
    elementwise("activation-softplus", F.softplus, jax.nn.softplus, jax.nn.relu),
    elementwise("activation-sigmoid", F.sigmoid, jax.nn.sigmoid, jnp.tanh),
    elementwise("activation-tanh", F.tanh, jnp.tanh, jax.nn.sigmoid),
    elementwise("activation-hard-swish", F.hardswish, jax.nn.hard_swish, jax.nn.silu),
    elementwise("activation-hard-sigmoid", F.hardsigmoid, jax.nn.hard_sigmoid, jax.nn.sigmoid),
    elementwise(
        "activation-relu6", lambda x: F.relu6(x * 9), lambda x: jax.nn.relu6(x * 9), lambda x: jax.nn.relu(x * 9)
    ),
    elementwise("activation-extra", lambda x: x, lambda x: x, jax.nn.relu),
)
SOFTMAX_PAIRS = (
    dense(
        "softmax-float32",
        lambda net, x: x.half().float().softmax(-1).half().to(x.dtype),
        lambda net, x: in_half(x, True),
        lambda net, x: in_half(x, False),
    ),
    dense(
        "softmax-axis",
        lambda net, x: x.softmax(1),
        lambda net, x: jax.nn.softmax(x, axis=1),
        lambda net, x: jax.nn.softmax(x),
        shape=(3, 5, 8),
    ),
    dense(
        "softmax-last-axis",
        lambda net, x: x.softmax(-1),
        lambda net, x: jax.nn.softmax(x),
        lambda net, x: jax.nn.softmax(x, axis=1),
        shape=(3, 5, 8),
    ),
    elementwise("softmax-log", lambda x: x.log_softmax(-1), jax.nn.log_softmax, jax.nn.softmax),
    elementwise("log-softmax", lambda x: x.softmax(-1), jax.nn.softmax, jax.nn.log_softmax),
    elementwise("softmax-extra", lambda x: x, lambda x: x, jax.nn.softmax),
    dense(
        "std-ddof",
        lambda net, x: x / x.std(-1, keepdim=True),
        lambda net, x: x / jnp.std(x, -1, keepdims=True, ddof=1),
        lambda net, x: x / x.std(-1, keepdims=True),
    ),
    dense(
        "std-biased",
        lambda net, x: x / x.var(-1, keepdim=True, unbiased=False),
        lambda net, x: x / jnp.var(x, -1, keepdims=True),
        lambda net, x: x / jnp.var(x, -1, keepdims=True, ddof=1),
    ),
    words(
        "round-half",
        lambda net, x: (torch.floor(x * 2) / 2 + 0.5).floor(),
        lambda net, x: jnp.floor(jnp.floor(x * 2) / 2 + 0.5),
        lambda net, x: jnp.round(jnp.floor(x * 2) / 2),
    ),
)
NORM_PAIRS = (
    epsilon("norm-epsilon", 1e-5, 1e-6, nn.LayerNorm),
    epsilon("norm-epsilon-1e-6", 1e-6, 1e-5),
    epsilon("norm-epsilon-1e-12", 1e-12, 1e-6),
    norm(
        "norm-epsilon-1e-3",
        layers(OwnGroupNorm, 2, 8, eps=1e-3),
        flax_layers(nnx.GroupNorm, 8, num_groups=2, epsilon=1e-3),
        flax_layers(nnx.GroupNorm, 8, num_groups=2),
    ),
    norm(
        "norm-epsilon-outside-root",
        layers(UnbiasedNorm, 8, False),
        flax_layers(WrittenNorm, 8, 0),
        flax_layers(nnx.LayerNorm, 8, epsilon=1e-3),
    ),
    norm(
        "norm-unbiased",
        layers(UnbiasedNorm, 8, True),
        flax_layers(WrittenNorm, 8, 1),
        flax_layers(nnx.LayerNorm, 8, epsilon=1e-3),
        tiny=False,
    ),
    words(
        "fast-variance",
        lambda net, x: net.layer(x + 50),
        lambda net, x: net.layer(x + 50),
        lambda net, x: net.layer(x + 50),
        layers=layers(nn.LayerNorm, 8),
        right_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32),
        wrong_layers=flax_layers(nnx.LayerNorm, 8, epsilon=1e-5, dtype=jnp.float32),
    ),
    norm(
        "rms-norm-offset",
        layers(GemmaNorm, 8),
        flax_layers(WrittenGemmaNorm, 8),
        flax_layers(nnx.RMSNorm, 8),
        tiny=False,
    ),
    image(
        "batch-norm-mode",
        layer,
        lambda net, x: net.layer(x, use_running_average=True),
        lambda net, x: net.layer(x, use_running_average=False),
        layers=lambda: {"layer": nn.BatchNorm2d(4).eval()},
        right_layers=flax_layers(nnx.BatchNorm, 4, use_running_average=True, momentum=0.9),
    ),
)
CONV_PAIRS = (
    conv("conv-padding", {"stride": 2, "padding": 1}, {"strides": 2, "padding": 1}, {"strides": 2}),
    image(
        "conv-padding-end",
        lambda net, x: net.layer(F.pad(x, (0, 1, 0, 1))),
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, 3, stride=2),
        right_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), strides=2, padding=((0, 1), (0, 1))),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), strides=2, padding=1),
    ),
    image(
        "conv-padding-causal",
        lambda net, x: net.layer(F.pad(x, (2, 0, 2, 0))),
        layer,
        layer,
        layers=layers(nn.Conv2d, 4, 4, 3),
        right_layers=flax_layers(nnx.Conv, 4, 4, (3, 3), padding=((2, 0), (2, 0))),
        wrong_layers=flax_layers(nnx.Conv, 4, 4, (3, 3)),
    ),
    image(
        "conv-padding-none",
        torch_convolved,
        convolved("VALID"),
        convolved("SAME"),
    ),
    dense(
        "conv-kernel-flip",
        lambda net, x: F.conv1d(x[:, None], torch.tensor([[FILTER]]), padding=1)[:, 0],
        lambda net, x: filtered(x, jnp.asarray(FILTER[::-1], x.dtype)),
        lambda net, x: filtered(x, jnp.asarray(FILTER, x.dtype)),
    ),
    image(
        "conv-transpose-padding",
        layer,
        layer,
        layer,
        layers=layers(nn.ConvTranspose2d, 4, 4, 3, stride=2, padding=1, output_padding=1),
        right_layers=flax_layers(nnx.ConvTranspose, 4, 4, (3, 3), strides=(2, 2), padding=((1, 2), (1, 2))),
        wrong_layers=flax_layers(nnx.ConvTranspose, 4, 4, (3, 3), strides=(2, 2)),
    ),
    image(
        "conv-transpose-flip",
        layer,
        layer,
        layer,
        layers=layers(nn.ConvTranspose2d, 4, 4, 2, stride=2),
        right_layers=flax_layers(nnx.ConvTranspose, 4, 4, (2, 2), strides=(2, 2), padding="VALID"),
        wrong_layers=flax_layers(Unflipped, 4, 4, (2, 2), strides=(2, 2), padding="VALID"),
    ),
    image(
        "avg-pool-padding",
        lambda net, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        pool("avg_pool", padding=((1, 1), (1, 1)), count_include_pad=False),
        pool("avg_pool", padding=((1, 1), (1, 1))),
    ),
    image(
        "avg-pool-padding-counted",
        lambda net, x: F.avg_pool2d(x, 3, 2, 1),
        pool("avg_pool", padding=((1, 1), (1, 1))),
        pool("avg_pool", padding=((1, 1), (1, 1)), count_include_pad=False),
    ),
    image(
        "pool-padding",
        lambda net, x: F.max_pool2d(x, 3, 2, 1),
        pool("max_pool", padding=((1, 1), (1, 1))),
        pool("max_pool", padding="SAME"),
    ),
    image(
        "pool-padding-none",
        lambda net, x: F.max_pool2d(x, 3, 2).mean((2, 3), keepdim=True),
        lambda net, x: pool("max_pool")(net, x).mean((1, 2), keepdims=True),
        lambda net, x: pool("max_pool", padding="SAME")(net, x).mean((1, 2), keepdims=True),
    ),
    image(
        "pool-max",
        lambda net, x: F.max_pool2d(x, 3, 2, 1),
        pool("max_pool", padding=((1, 1), (1, 1))),
        pool("avg_pool", padding=((1, 1), (1, 1))),
    ),
    image(
        "pool-mean",
        lambda net, x: F.avg_pool2d(x, 3, 2, 1),
        pool("avg_pool", padding=((1, 1), (1, 1))),
        pool("max_pool", padding=((1, 1), (1, 1))),
    ),
    image(
        "resize-antialias",
        lambda net, x: F.interpolate(x, (5, 5), mode="bilinear"),
        resized("bilinear", 5, antialias=False),
        resized("bilinear", 5),
    ),
    image(
        "resize-corners",
        lambda net, x: F.interpolate(x, (15, 15), mode="bilinear", align_corners=True),
        weighted(corner_matrix(8, 15)),
        resized("bilinear", 15),
    ),
    image(
        "resize-bicubic",
        lambda net, x: F.interpolate(x, (13, 13), mode="bicubic"),
        resized("cubic-pytorch", 13, antialias=False),
        resized("bicubic", 13),
    ),
    image(
        "resize-nearest",
        lambda net, x: F.interpolate(x, (5, 5)),
        lambda net, x: x[:, np.arange(5) * 8 // 5][:, :, np.arange(5) * 8 // 5],
        resized("nearest", 5),
    ),
)
OTHER_PAIRS = (
    dense(
        "gru-gate-order", torch_three_gates, jax_three_gates, functools.partial(jax_three_gates, swapped=True), width=4
    ),
    dense("lstm-gate-order", torch_gates, jax_gates, functools.partial(jax_gates, order=(0, 2, 1, 3)), width=6),
    dense("low-precision", lambda net, x: x, lambda net, x: x, lambda net, x: x.astype("bfloat16").astype(x.dtype)),
    same_layer("layers-bfloat16", {"dtype": jnp.bfloat16}),
    dense("label-smoothing", torch_loss, jax_loss(True), jax_loss(False)),
)
HYPOTHESIS_PAIRS = (*ACTIVATION_PAIRS, *SOFTMAX_PAIRS, *NORM_PAIRS, *CONV_PAIRS, *ATTENTION_PAIRS, *OTHER_PAIRS)
"""Pairs whose difference a patch undoes."""

MOMENTUM_PAIR = image(
    "batch-norm-momentum",
    layer,
    layer,
    layer,
    layers=layers(nn.BatchNorm2d, 4),
    right_layers=flax_layers(nnx.BatchNorm, 4, momentum=0.9),
    wrong_layers=flax_layers(nnx.BatchNorm, 4, momentum=0.1),
)
