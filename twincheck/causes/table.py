"""The known differences between PyTorch and JAX: what differs, how the JAX side is fixed, where it is documented."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twincheck.causes import patches
from twincheck.causes.replace import Patch

TORCH = "https://docs.pytorch.org/docs/stable/generated/"
FLAX = "https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/"
JAX = "https://docs.jax.dev/en/latest/_autosummary/"
OPTAX = "https://optax.readthedocs.io/en/latest/api/"


@dataclass(frozen=True)
class Cause:
    """A known difference between a PyTorch model and a JAX model.

    Attributes:
        name: a short name.
        says: one sentence that says what differs.
        fix: code, or an instruction, that changes the JAX side.
        torch_reference: documentation of torch's side.
        jax_reference: documentation of JAX's side.
        patch: changes the JAX side for as long as a context lasts, so that the difference is gone; None for a cause
            that is recognised by its settings or by its values.
    """

    name: str
    says: str
    fix: str
    torch_reference: str
    jax_reference: str
    patch: Patch | None = None


def _torch(page: str) -> str:
    return f"{TORCH}torch.{page}.html"


def _jax(page: str) -> str:
    return f"{JAX}{page}.html"


def _nnx(page: str) -> str:
    return f"{FLAX}{page}.html"


def _optax(page: str) -> str:
    return f"{OPTAX}{page}"


ACTIVATIONS_PAGE = _nnx("nn/activations")
NORMS = _nnx("nn/normalization")
LINEAR = _nnx("nn/linear")
ATTENTION = _nnx("nn/attention")
RECURRENT = _nnx("nn/recurrent")
DROPOUT = _nnx("nn/stochastic")
POOLING = "https://flax.readthedocs.io/en/latest/api_reference/flax.linen/layers.html"
SDPA = _torch("nn.functional.scaled_dot_product_attention")
JAX_ATTENTION = _jax("jax.nn.dot_product_attention")

ACTIVATION_NAMES = {
    "relu": ("ReLU", "jax.nn.relu(x)"),
    "gelu": ("GELU", "jax.nn.gelu(x, approximate=False)"),
    "silu": ("SiLU", "jax.nn.silu(x)"),
    "leaky-relu": ("LeakyReLU", "jax.nn.leaky_relu(x, 0.01)"),
    "elu": ("ELU", "jax.nn.elu(x)"),
    "selu": ("SELU", "jax.nn.selu(x)"),
    "mish": ("Mish", "jax.nn.mish(x)"),
    "softplus": ("Softplus", "jax.nn.softplus(x)"),
    "sigmoid": ("Sigmoid", "jax.nn.sigmoid(x)"),
    "tanh": ("Tanh", "jnp.tanh(x)"),
    "hard-swish": ("Hardswish", "jax.nn.hard_swish(x)"),
    "hard-sigmoid": ("Hardsigmoid", "jax.nn.hard_sigmoid(x)"),
    "relu6": ("ReLU6", "jax.nn.relu6(x)"),
}

CAUSES: Sequence[Cause] = (
    # Activations
    Cause(
        "gelu-tanh",
        "GELU: jax.nn.gelu is the tanh approximation by default, torch's is exact (erf).",
        "jax.nn.gelu(x, approximate=False)",
        _torch("nn.GELU"),
        _jax("jax.nn.gelu"),
        patches.activation(patches.gelu_erf, "gelu"),
    ),
    Cause(
        "gelu-erf",
        'GELU: torch uses the tanh approximation here (approximate="tanh", "gelu_new"), JAX another form.',
        "jax.nn.gelu(x, approximate=True)",
        _torch("nn.GELU"),
        _jax("jax.nn.gelu"),
        patches.activation(patches.gelu_tanh, "gelu"),
    ),
    Cause(
        "gelu-quick",
        "GELU: torch uses the fast form x * sigmoid(1.702 * x) here, JAX another one.",
        "x * jax.nn.sigmoid(1.702 * x)",
        _torch("nn.GELU"),
        _jax("jax.nn.gelu"),
        patches.activation(patches.gelu_quick, "gelu", "silu"),
    ),
    Cause(
        "leaky-slope",
        "Leaky ReLU: the slopes for negative values differ; the default of both is 0.01.",
        "jax.nn.leaky_relu(x, negative_slope=...) as torch's",
        _torch("nn.LeakyReLU"),
        _jax("jax.nn.leaky_relu"),
        patches.leaky_slope(0.01),
    ),
    Cause(
        "leaky-slope-0.2",
        "Leaky ReLU: torch's slope for negative values is 0.2 here, JAX has another one (0.01 by default).",
        "jax.nn.leaky_relu(x, negative_slope=0.2)",
        _torch("nn.LeakyReLU"),
        _jax("jax.nn.leaky_relu"),
        patches.leaky_slope(0.2),
    ),
    *(
        Cause(
            f"activation-{name}",
            f"Activation: torch applies {torch_name} here, JAX another activation.",
            code,
            _torch(f"nn.{torch_name}"),
            ACTIVATIONS_PAGE,
            patches.activation(patches.TARGETS[name]),
        )
        for name, (torch_name, code) in ACTIVATION_NAMES.items()
    ),
    Cause(
        "activation-extra",
        "Activation: JAX applies an activation here, torch none.",
        "Leave the activation out.",
        _torch("nn.Identity"),
        ACTIVATIONS_PAGE,
        patches.activation(lambda x: x),
    ),
    Cause(
        "activation-left-out",
        "Activation: torch applies an activation here, JAX none.",
        "Apply the activation of the PyTorch model.",
        "https://docs.pytorch.org/docs/stable/nn.html#non-linear-activations-weighted-sum-nonlinearity",
        ACTIVATIONS_PAGE,
    ),
    Cause(
        "activation-doubled",
        "Activation: JAX applies one more activation than torch, to the same values.",
        "Apply the activation once.",
        "https://docs.pytorch.org/docs/stable/nn.html#non-linear-activations-weighted-sum-nonlinearity",
        ACTIVATIONS_PAGE,
    ),
    Cause(
        "gate-swapped",
        "Gate: torch applies the activation to one of two factors, JAX to the other one.",
        "act(gate) * up, with the factors as in the PyTorch model",
        _torch("nn.functional.glu"),
        ACTIVATIONS_PAGE,
    ),
    # Softmax, statistics, rounding
    Cause(
        "softmax-float32",
        "Softmax: torch computes it in float32 here, JAX in the lower precision of its input.",
        "jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)",
        _torch("nn.functional.softmax"),
        _jax("jax.nn.softmax"),
        patches.softmax_float32,
    ),
    Cause(
        "softmax-axis",
        "Softmax: torch takes it over axis 1 here, JAX over another axis (the last one by default).",
        "jax.nn.softmax(x, axis=1)",
        _torch("nn.functional.softmax"),
        _jax("jax.nn.softmax"),
        patches.softmax_axis_1,
    ),
    Cause(
        "softmax-last-axis",
        "Softmax: torch takes it over the last axis here, JAX over another axis.",
        "jax.nn.softmax(x, axis=-1)",
        _torch("nn.functional.softmax"),
        _jax("jax.nn.softmax"),
        patches.softmax_last_axis,
    ),
    Cause(
        "softmax-log",
        "Softmax: torch gives out log-probabilities here (log_softmax), JAX probabilities (softmax).",
        "jax.nn.log_softmax(x)",
        _torch("nn.functional.log_softmax"),
        _jax("jax.nn.log_softmax"),
        patches.softmax_to_log,
    ),
    Cause(
        "log-softmax",
        "Softmax: torch gives out probabilities here (softmax), JAX log-probabilities (log_softmax).",
        "jax.nn.softmax(x)",
        _torch("nn.functional.softmax"),
        _jax("jax.nn.softmax"),
        patches.log_to_softmax,
    ),
    Cause(
        "softmax-extra",
        "Softmax: JAX applies a softmax here, torch none; torch's CrossEntropyLoss takes logits.",
        "Leave the softmax out.",
        _torch("nn.CrossEntropyLoss"),
        _optax("losses.html"),
        patches.softmax_extra,
    ),
    Cause(
        "std-ddof",
        "std and var: torch divides by n - 1 by default, jax.numpy by n.",
        "jnp.std(x, axis, ddof=1)",
        _torch("std"),
        _jax("jax.numpy.std"),
        patches.spread(1),
    ),
    Cause(
        "std-biased",
        "std and var: torch divides by n here (unbiased=False, correction=0), JAX by n - 1.",
        "jnp.std(x, axis, ddof=0)",
        _torch("std"),
        _jax("jax.numpy.std"),
        patches.spread(0),
    ),
    Cause(
        "round-half",
        "Rounding: the PyTorch model rounds halves up here, jnp.round (as torch.round) to the even neighbour.",
        "jnp.floor(x + 0.5)",
        _torch("round"),
        _jax("jax.numpy.round"),
        patches.round_half_up,
    ),
    # Norms
    Cause(
        "norm-epsilon",
        "Norm: the epsilons differ; torch's default is 1e-5, Flax's 1e-6, but 1e-5 for BatchNorm.",
        "epsilon=1e-5 in the norm, or torch's eps",
        _torch("nn.LayerNorm"),
        NORMS,
        patches.norm_epsilon(1e-5),
    ),
    Cause(
        "norm-epsilon-1e-6",
        "Norm: torch's epsilon is 1e-6 here, JAX has another one.",
        "nnx.LayerNorm(..., epsilon=1e-6)",
        _torch("nn.LayerNorm"),
        NORMS,
        patches.norm_epsilon(1e-6),
    ),
    Cause(
        "norm-epsilon-1e-12",
        "Norm: torch's epsilon is 1e-12 here, as in BERT; JAX has another one.",
        "nnx.LayerNorm(..., epsilon=1e-12)",
        _torch("nn.LayerNorm"),
        NORMS,
        patches.norm_epsilon(1e-12),
    ),
    Cause(
        "norm-epsilon-1e-3",
        "Norm: torch's epsilon is 1e-3 here, as in models that come from TensorFlow; JAX has another one.",
        "nnx.BatchNorm(..., epsilon=1e-3)",
        _torch("nn.BatchNorm2d"),
        NORMS,
        patches.norm_epsilon(1e-3),
    ),
    Cause(
        "norm-epsilon-outside-root",
        "Norm: torch adds epsilon to the standard deviation here, Flax to the variance, inside the root.",
        "(x - mean) / (jnp.sqrt(var) + epsilon)",
        _torch("nn.LayerNorm"),
        NORMS,
        patches.epsilon_outside_root,
    ),
    Cause(
        "norm-unbiased",
        "Norm: torch divides by the unbiased standard deviation here (x.std()), Flax by the biased one.",
        "(x - mean) / (jnp.std(x, -1, keepdims=True, ddof=1) + epsilon)",
        _torch("std"),
        NORMS,
        patches.unbiased_norm,
    ),
    Cause(
        "norm-epsilon-place",
        "Norm: each row differs by a factor of its own, as with another epsilon or epsilon in another place.",
        "Use the epsilon of the PyTorch model, inside the root as it does or outside.",
        _torch("nn.LayerNorm"),
        NORMS,
    ),
    Cause(
        "fast-variance",
        "Norm: Flax computes the variance as E[x^2] - E[x]^2 by default, which loses digits if the mean is large.",
        "nnx.LayerNorm(..., use_fast_variance=False)",
        _torch("nn.LayerNorm"),
        NORMS,
        patches.fast_variance,
    ),
    Cause(
        "rms-norm-offset",
        "RMSNorm: torch multiplies by 1 + weight here, as in Gemma, Flax by the weight.",
        "nnx.RMSNorm with the scale 1 + weight",
        _torch("nn.RMSNorm"),
        NORMS,
        patches.rms_one_plus_scale,
    ),
    Cause(
        "norm-axes",
        "Norm: the axes that are normalized differ.",
        "nnx.LayerNorm(..., reduction_axes=..., feature_axes=...) as torch's normalized_shape",
        _torch("nn.LayerNorm"),
        NORMS,
    ),
    Cause(
        "norm-groups",
        "GroupNorm: the numbers of groups differ; Flax's default is 32.",
        "nnx.GroupNorm(..., num_groups=...) as in torch",
        _torch("nn.GroupNorm"),
        NORMS,
    ),
    Cause(
        "batch-norm-momentum",
        "BatchNorm: torch's momentum is the weight of the new value, Flax's that of the old: 0.1 there is 0.9 here.",
        "nnx.BatchNorm(..., momentum=0.9), that is 1 - torch's momentum",
        _torch("nn.BatchNorm2d"),
        NORMS,
    ),
    Cause(
        "batch-norm-running-variance",
        "BatchNorm: torch's running variance is of the unbiased variance, Flax's of the biased one, which is smaller.",
        "Multiply the new variance by n / (n - 1), or accept it: predictions differ by 1 / (2n).",
        _torch("nn.BatchNorm2d"),
        NORMS,
        patches.unbiased_running_variance,
    ),
    Cause(
        "batch-norm-mode",
        "BatchNorm: torch uses its running statistics here (eval mode), JAX those of the batch.",
        "model.eval(), or use_running_average=True",
        _torch("nn.BatchNorm2d"),
        NORMS,
        patches.batch_norm_evaluates,
    ),
    # Convolutions, pooling, resizing
    Cause(
        "conv-padding",
        "Convolution: the padding differs; Flax's default is SAME, which pads a strided convolution more at the end.",
        "nnx.Conv(..., padding=((p, p), (p, p))) with torch's padding p",
        _torch("nn.Conv2d"),
        LINEAR,
        patches.conv_padding_symmetric,
    ),
    Cause(
        "conv-padding-end",
        "Convolution: torch pads at the end only here, before a strided convolution, JAX on both sides.",
        "nnx.Conv(..., padding=((0, 1), (0, 1)))",
        _torch("nn.functional.pad"),
        LINEAR,
        patches.conv_padding_at_end,
    ),
    Cause(
        "conv-padding-causal",
        "Convolution: torch pads at the start only here (a causal convolution), JAX otherwise.",
        'nnx.Conv(..., padding="CAUSAL")',
        _torch("nn.Conv1d"),
        LINEAR,
        patches.conv_padding_causal,
    ),
    Cause(
        "conv-padding-none",
        "Convolution: torch pads nothing by default, Flax as much as SAME needs.",
        'nnx.Conv(..., padding="VALID")',
        _torch("nn.Conv2d"),
        LINEAR,
        patches.conv_padding_none,
    ),
    Cause(
        "conv-kernel-flip",
        "Convolution: torch slides the kernel as it is, the JAX side flips it, as jnp.convolve does.",
        "jnp.convolve(x, kernel[::-1]), or do not flip the kernel",
        _torch("nn.Conv1d"),
        _jax("jax.numpy.convolve"),
        patches.conv_kernel_flip,
    ),
    Cause(
        "conv-strides",
        "Convolution: the strides differ.",
        "nnx.Conv(..., strides=...) as torch's stride",
        _torch("nn.Conv2d"),
        LINEAR,
    ),
    Cause(
        "conv-dilation",
        "Convolution: the dilations of the kernels differ.",
        "nnx.Conv(..., kernel_dilation=...) as torch's dilation",
        _torch("nn.Conv2d"),
        LINEAR,
    ),
    Cause(
        "conv-groups",
        "Convolution: the numbers of groups differ.",
        "nnx.Conv(..., feature_group_count=...) as torch's groups",
        _torch("nn.Conv2d"),
        LINEAR,
    ),
    Cause(
        "conv-transpose-padding",
        "ConvTranspose: torch's padding takes away from the output, Flax's SAME puts an odd pixel on the other side.",
        "nnx.ConvTranspose(..., padding=[(k - 1 - p, k - 1 - p + output_padding), ...])",
        _torch("nn.ConvTranspose2d"),
        LINEAR,
        patches.conv_transpose_padding,
    ),
    Cause(
        "conv-transpose-flip",
        "ConvTranspose: torch's kernel is the gradient of a convolution's, Flax's is that kernel flipped in space.",
        "jnp.flip(kernel, spatial axes) when the weights are loaded, or transpose_kernel=True with (k, k, out, in)",
        _torch("nn.ConvTranspose2d"),
        LINEAR,
        patches.conv_transpose_flip,
    ),
    Cause(
        "avg-pool-padding",
        "Average pooling: torch leaves the padding out of the mean here (count_include_pad=False), Flax counts it.",
        "nnx.avg_pool(..., count_include_pad=False)",
        _torch("nn.AvgPool2d"),
        POOLING,
        patches.avg_pool_counts_padding(False),
    ),
    Cause(
        "avg-pool-padding-counted",
        "Average pooling: torch counts the padding in the mean by default, the JAX side leaves it out.",
        "nnx.avg_pool(..., count_include_pad=True)",
        _torch("nn.AvgPool2d"),
        POOLING,
        patches.avg_pool_counts_padding(True),
    ),
    Cause(
        "pool-padding",
        "Pooling: torch pads alike on both sides, Flax's SAME more at the end.",
        "nnx.max_pool(..., padding=((1, 1), (1, 1))) with torch's padding",
        _torch("nn.MaxPool2d"),
        POOLING,
        patches.pool_padding_symmetric,
    ),
    Cause(
        "pool-padding-none",
        "Pooling: torch pads nothing by default and drops what is left over, Flax's SAME keeps it.",
        'nnx.max_pool(..., padding="VALID")',
        _torch("nn.MaxPool2d"),
        POOLING,
        patches.pool_padding_none,
    ),
    Cause(
        "pool-max",
        "Pooling: torch takes the largest value of a window here, JAX the mean.",
        "nnx.max_pool(...)",
        _torch("nn.MaxPool2d"),
        POOLING,
        patches.pool_max,
    ),
    Cause(
        "pool-mean",
        "Pooling: torch takes the mean of a window here, JAX the largest value.",
        "nnx.avg_pool(...)",
        _torch("nn.AvgPool2d"),
        POOLING,
        patches.pool_mean,
    ),
    Cause(
        "padding-border",
        "Padding: only the border of the image differs; the padding has another value or mode.",
        'nnx.Conv(..., padding="REFLECT" or "CIRCULAR") as torch\'s padding_mode; pad with the same value',
        _torch("nn.functional.pad"),
        _jax("jax.numpy.pad"),
    ),
    Cause(
        "resize-antialias",
        "Resize: jax.image.resize smooths by default when it makes an image smaller, torch's interpolate does not.",
        "jax.image.resize(x, shape, method, antialias=False)",
        _torch("nn.functional.interpolate"),
        _jax("jax.image.resize"),
        patches.resize("linear|triangle"),
    ),
    Cause(
        "resize-corners",
        "Resize: torch aligns the corner pixels here (align_corners=True), jax.image.resize uses half-pixel centers.",
        "jax.image.scale_and_translate with scale (new - 1) / (old - 1), or a matrix of the weights",
        _torch("nn.functional.interpolate"),
        _jax("jax.image.resize"),
        patches.resize("linear|triangle|cubic", corners=True),
    ),
    Cause(
        "resize-bicubic",
        "Resize: torch's bicubic kernel has the coefficient -0.75, that of jax.image.resize -0.5, and borders differ.",
        'jax.image.resize(x, shape, "bicubic-pytorch", antialias=False)',
        _torch("nn.functional.interpolate"),
        _jax("jax.image.resize"),
        patches.resize("cubic"),
    ),
    Cause(
        "resize-nearest",
        'Resize: torch\'s "nearest" takes the pixel floor(i * scale), jax.image.resize that at half-pixel centers.',
        'x[:, (jnp.arange(new) * old) // new], or torch\'s mode="nearest-exact"',
        _torch("nn.functional.interpolate"),
        _jax("jax.image.resize"),
        patches.resize("nearest"),
    ),
    # Attention
    Cause(
        "attention-float32",
        "Attention: jax.nn.dot_product_attention, and so nnx's, takes the softmax in float32 even in a float64 model.",
        "Write the products and the softmax with jnp.einsum, or compare in float32.",
        SDPA,
        JAX_ATTENTION,
        patches.attention_own_dtype,
    ),
    Cause(
        "attention-unscaled",
        "Attention: torch does not scale the scores here, as in T5; JAX multiplies them by 1 / sqrt(size of a head).",
        "jax.nn.dot_product_attention(..., scale=1.0)",
        SDPA,
        JAX_ATTENTION,
        patches.attention_scale(0.5),
    ),
    Cause(
        "attention-scale",
        "Attention: torch multiplies the scores by 1 / sqrt(size of a head), JAX does not.",
        "scores / jnp.sqrt(head_size)",
        SDPA,
        JAX_ATTENTION,
        patches.attention_scale(-0.5),
    ),
    Cause(
        "attention-other-scale",
        "Attention: the JAX side has a scale of its own, torch the default 1 / sqrt(size of a head).",
        "scores / jnp.sqrt(head_size), or scale=None in jax.nn.dot_product_attention",
        SDPA,
        JAX_ATTENTION,
        patches.attention_default_scale,
    ),
    Cause(
        "causal-mask",
        "Mask: in torch a position sees itself and those before it; JAX's mask is another, as by a wrong diagonal.",
        "jnp.tri(length, dtype=bool), or jnp.triu(..., k=1) for what is hidden",
        SDPA,
        _jax("jax.numpy.tri"),
        patches.causal_mask,
    ),
    Cause(
        "attention-causal",
        "Attention: torch masks later positions (is_causal=True), JAX does not.",
        "jax.nn.dot_product_attention(..., is_causal=True)",
        SDPA,
        JAX_ATTENTION,
        patches.attention_causal,
    ),
    Cause(
        "attention-not-causal",
        "Attention: JAX masks later positions (is_causal=True), torch does not.",
        "jax.nn.dot_product_attention(..., is_causal=False)",
        SDPA,
        JAX_ATTENTION,
        patches.attention_not_causal,
    ),
    Cause(
        "mask-polarity",
        "Mask: True means the opposite; in torch's key_padding_mask it hides a position, in Flax's masks it keeps one.",
        "mask=~mask",
        _torch("nn.MultiheadAttention"),
        ATTENTION,
        patches.mask_polarity,
    ),
    Cause(
        "mask-value",
        "Mask: torch adds -10000 to hidden scores, JAX replaces them; rows that are hidden altogether differ.",
        "scores + jnp.where(mask, 0.0, -10000.0)",
        SDPA,
        JAX_ATTENTION,
        patches.mask_added,
    ),
    Cause(
        "mask-value-finite",
        "Mask: torch fills hidden scores with the lowest finite value, JAX with -inf, and hidden rows are NaN.",
        "jnp.where(mask, scores, jnp.finfo(scores.dtype).min)",
        SDPA,
        JAX_ATTENTION,
        patches.mask_fill(-3.4028234663852886e38),
    ),
    Cause(
        "mask-fill",
        "Mask: JAX fills hidden scores with a value that is not low enough, so that hidden positions count.",
        "jnp.where(mask, scores, jnp.finfo(scores.dtype).min)",
        SDPA,
        JAX_ATTENTION,
        patches.mask_low_enough,
    ),
    Cause(
        "masked-rows",
        "Mask: rows that are hidden altogether are NaN on one side (filled with -inf) and finite on the other.",
        "Fill hidden scores with the value that the PyTorch model uses, or hide no whole row.",
        SDPA,
        JAX_ATTENTION,
    ),
    Cause(
        "attention-heads",
        "Attention: the numbers of heads differ.",
        "nnx.MultiHeadAttention(num_heads=...) as in torch",
        _torch("nn.MultiheadAttention"),
        ATTENTION,
    ),
    Cause(
        "heads-tiled",
        "Grouped heads: torch tiles the key and value heads (0 1 0 1) here, JAX repeats each (0 0 1 1).",
        "jnp.tile(k, ...) in place of jnp.repeat(k, ...)",
        _torch("Tensor.repeat"),
        _jax("jax.numpy.tile"),
        patches.repeat_to_tile,
    ),
    Cause(
        "heads-repeated",
        "Grouped heads: torch repeats each key and value head (0 0 1 1, repeat_interleave), JAX tiles them (0 1 0 1).",
        "jnp.repeat(k, groups, axis) in place of jnp.tile(k, ...)",
        _torch("repeat_interleave"),
        _jax("jax.numpy.repeat"),
        patches.tile_to_repeat,
    ),
    Cause(
        "rotary-interleaved",
        "Rotary embedding: torch rotates neighbours (0 1)(2 3), as GPT-J does, JAX halves (0 d/2).",
        "Rotate x[..., ::2] with x[..., 1::2].",
        _torch("view_as_complex"),
        _jax("jax.numpy.stack"),
        patches.rotary_interleaved,
    ),
    Cause(
        "rotary-halves",
        "Rotary embedding: torch rotates halves (0 d/2), as GPT-NeoX does, JAX neighbours (0 1)(2 3).",
        "Rotate x[..., : d // 2] with x[..., d // 2 :].",
        _torch("cat"),
        _jax("jax.numpy.concatenate"),
        patches.rotary_halves,
    ),
    Cause(
        "rotary-bfloat16",
        "Rotary embedding: JAX computes the angles in bfloat16, which keeps 8 bits, torch in float32.",
        "Compute positions, frequencies, cos and sin in float32 and cast the result.",
        "https://docs.pytorch.org/docs/stable/amp.html",
        _jax("jax.numpy.cos"),
        patches.rotary_float32,
    ),
    Cause(
        "rotary-base",
        "Rotary embedding: the base of the angles is 10000 in torch, another one in JAX.",
        "angles with the base (rope_theta) of the PyTorch model",
        _torch("polar"),
        _jax("jax.numpy.cos"),
        patches.rotary_base,
    ),
    Cause(
        "rotary-direction",
        "Rotary embedding: torch rotates the other way; the sign of the sines differs.",
        "(x1 * cos - x2 * sin, x2 * cos + x1 * sin)",
        _torch("polar"),
        _jax("jax.numpy.sin"),
        patches.rotary_direction,
    ),
    Cause(
        "dropout-on",
        "Dropout: it is on in JAX, off in torch (eval mode).",
        "model.eval(), or deterministic=True",
        _torch("nn.Dropout"),
        DROPOUT,
        patches.dropout_off,
    ),
    Cause(
        "dropout-rate",
        "Dropout: the rates differ.",
        "nnx.Dropout(rate=...) as torch's p",
        _torch("nn.Dropout"),
        DROPOUT,
    ),
    # Embeddings, residuals, pooling of a sequence
    Cause(
        "embedding-scale",
        "Embedding: one side multiplies it by the square root of its size, the other does not.",
        "embed(tokens) * jnp.sqrt(features)",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "padding-index",
        "Embedding: torch's padding_idx gets no gradient; Flax's Embed has no such option.",
        "Set the gradient of the row to zero, with an optax mask or jax.lax.stop_gradient.",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "embedding-max-norm",
        "Embedding: torch shortens rows to max_norm; Flax's Embed does not.",
        "Divide the rows by their norms where these exceed max_norm.",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "tied-weights",
        "Tied weights: in torch the output layer shares the embedding's weights, in JAX both have their own.",
        "embed.attend(x) in place of a linear layer",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "token-types",
        "Embedding: torch adds the embedding of the default token type (row 0), JAX leaves it out.",
        "Add token_type_embeddings(jnp.zeros_like(tokens)).",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "positions-left-out",
        "Embedding: torch adds the same array to every example, as position embeddings, JAX none or another one.",
        "x + positions",
        _torch("nn.Embedding"),
        LINEAR,
    ),
    Cause(
        "residual-left-out",
        "Residual: torch adds an earlier tensor here, JAX does not.",
        "x + f(x)",
        _torch("add"),
        _jax("jax.numpy.add"),
    ),
    Cause(
        "residual-doubled",
        "Residual: JAX adds an earlier tensor that torch does not add.",
        "f(x) without x",
        _torch("add"),
        _jax("jax.numpy.add"),
    ),
    Cause(
        "residual-order",
        "Residual: torch adds it before the activation, JAX after.",
        "act(f(x) + x)",
        _torch("add"),
        _jax("jax.numpy.add"),
    ),
    Cause(
        "residual-norm",
        "Residual: the two sides add different tensors, such as the input of a norm and its output.",
        "x + f(norm(x)) or norm(x) + f(norm(x)), as the PyTorch model",
        _torch("add"),
        _jax("jax.numpy.add"),
    ),
    Cause(
        "pooling",
        "Pooling to one vector: the sides take different ones of first (CLS) and last position, mean, sum, maximum.",
        "x[:, 0], x[:, -1], x.mean(1) or x.max(1), as the PyTorch model",
        _torch("mean"),
        _jax("jax.numpy.mean"),
    ),
    # Recurrent layers
    Cause(
        "gru-two-biases",
        "GRU: torch has two biases, of which that of the hidden state is inside the reset gate; nnx.GRUCell has one.",
        "A cell with a bias b_hn: tanh(W x + b_in + r * (U h + b_hn))",
        _torch("nn.GRU"),
        RECURRENT,
    ),
    Cause(
        "gru-gate-order",
        "GRU: torch's gates come in the order r, z, n; JAX's parts in another order.",
        "r, z, n = jnp.split(gates, 3, -1)",
        _torch("nn.GRU"),
        RECURRENT,
        patches.split_order((1, 0, 2)),
    ),
    Cause(
        "gru-reset",
        "GRU: torch applies the reset gate after the product with the hidden state, JAX before.",
        "n = jnp.tanh(W @ x + b_in + r * (U @ h + b_hn))",
        _torch("nn.GRU"),
        RECURRENT,
    ),
    Cause(
        "gru-update",
        "GRU: torch's update gate is the share of the old state that is kept, JAX's that of the new one.",
        "h = (1 - z) * n + z * h",
        _torch("nn.GRU"),
        RECURRENT,
    ),
    Cause(
        "recurrent-start",
        "Recurrent layer: torch starts from zeros, JAX from another state.",
        "Start from jnp.zeros.",
        _torch("nn.GRU"),
        RECURRENT,
    ),
    Cause(
        "recurrent-direction",
        "Recurrent layer: JAX runs a sequence in the other direction, or gives its outputs out in that order.",
        "nnx.RNN(cell, reverse=True, keep_order=True) for torch's second direction",
        _torch("nn.GRU"),
        RECURRENT,
    ),
    Cause(
        "lstm-gate-order",
        "LSTM: torch's gates come in the order i, f, g, o; JAX's in another order, in Haiku i, g, f, o.",
        "i, f, g, o = jnp.split(gates, 4, -1)",
        _torch("nn.LSTM"),
        RECURRENT,
        patches.split_order((0, 2, 1, 3)),
    ),
    Cause(
        "forget-gate-bias",
        "LSTM: JAX adds 1 to the forget gate, as Haiku does; torch does not.",
        "Subtract 1 from the forget gate's bias when the weights are loaded.",
        _torch("nn.LSTM"),
        "https://dm-haiku.readthedocs.io/en/latest/api.html#lstm",
    ),
    # Layout
    Cause(
        "nhwc-flatten",
        "Layout: torch flattens (channels, height, width), JAX (height, width, channels).",
        "x.transpose(0, 3, 1, 2).reshape(len(x), -1)",
        _torch("flatten"),
        _jax("jax.numpy.reshape"),
    ),
    Cause(
        "transposed",
        "Layout: the array is transposed on one side.",
        "x.T, or swap the two axes",
        _torch("transpose"),
        _jax("jax.numpy.swapaxes"),
    ),
    Cause(
        "channels-reversed",
        "Layout: the last axis is reversed, as with RGB against BGR.",
        "x[..., ::-1]",
        _torch("flip"),
        _jax("jax.numpy.flip"),
    ),
    Cause(
        "axis-reversed",
        "Layout: an axis is reversed, such as the time axis of a recurrent layer.",
        "jnp.flip(x, axis)",
        _torch("flip"),
        _jax("jax.numpy.flip"),
    ),
    Cause(
        "channels-permuted",
        "Layout: the channels come in another order.",
        "x[..., order], or permute the weights",
        _torch("permute"),
        _jax("jax.numpy.take"),
    ),
    Cause(
        "shifted",
        "Layout: the values lie one or two places further along an axis; padding or the first position differs.",
        "Pad at the same end; count positions from the same number.",
        _torch("roll"),
        _jax("jax.numpy.roll"),
    ),
    Cause("sign", "Sign: the values have the opposite sign.", "-x", _torch("neg"), _jax("jax.numpy.negative")),
    Cause(
        "constant-factor",
        "Scale: the values differ by one factor.",
        "Multiply by the factor.",
        _torch("mul"),
        _jax("jax.numpy.multiply"),
    ),
    Cause(
        "constant-offset",
        "Offset: the values differ by one constant.",
        "Add the constant.",
        _torch("add"),
        _jax("jax.numpy.add"),
    ),
    Cause(
        "bias-left-out",
        "Bias: each channel differs by a constant of its own.",
        "Add the bias of the PyTorch model.",
        _torch("nn.Linear"),
        LINEAR,
    ),
    # Precision
    Cause(
        "matmul-precision",
        "Precision: JAX multiplies matrices in lower precision than their type says, by default so on TPUs and GPUs.",
        'jax.config.update("jax_default_matmul_precision", "highest")',
        _torch("set_float32_matmul_precision"),
        _jax("jax.default_matmul_precision"),
        patches.highest_precision,
    ),
    Cause(
        "layers-bfloat16",
        "Precision: the JAX layers compute in another type (dtype=...), torch's in float32.",
        "nnx.Linear(..., dtype=None)",
        "https://docs.pytorch.org/docs/stable/amp.html",
        LINEAR,
        patches.computes_in_float32,
    ),
    Cause(
        "low-precision",
        "Precision: JAX's values are rounded to bfloat16, torch's are not.",
        "Leave out the cast to bfloat16.",
        "https://docs.pytorch.org/docs/stable/amp.html",
        _jax("jax.numpy.bfloat16"),
        patches.stays_in_float32,
    ),
    # Losses
    Cause(
        "label-smoothing",
        "Loss: torch smooths the labels by 0.1 here (label_smoothing=0.1), optax's loss does not.",
        "optax.softmax_cross_entropy(logits, optax.smooth_labels(one_hot, 0.1))",
        _torch("nn.CrossEntropyLoss"),
        _optax("losses.html"),
        patches.label_smoothing(0.1),
    ),
    Cause(
        "loss-reduction",
        'Loss: one side takes the mean over the batch (torch\'s default reduction="mean"), the other the sum.',
        "losses.mean()",
        _torch("nn.CrossEntropyLoss"),
        _optax("losses.html"),
    ),
)
"""In the order in which they are tried: specific before general."""

BY_NAME: Mapping[str, Cause] = {cause.name: cause for cause in CAUSES}
HYPOTHESES: Sequence[Cause] = tuple(cause for cause in CAUSES if cause.patch is not None)
"""The causes that a patch can undo."""
