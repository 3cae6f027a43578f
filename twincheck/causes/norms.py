"""Norms: the patches that undo their differences, and what differs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from twincheck.causes.cause import NORMS_PAGE, Cause, torch_page
from twincheck.causes.replace import Function, attributes, functions
from twincheck.recording import Patch

NORMS = tuple(
    f"flax.{package}.{name}"
    for package in ("nnx", "linen")
    for name in ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm")
)

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


batch_norm_evaluates = attributes(
    ("flax.nnx.BatchNorm", "flax.linen.BatchNorm"), {"use_running_average": True}, use_running_average=True
)


CAUSES: Sequence[Cause] = (
    Cause(
        "fast-variance",
        "Norm: Flax computes the variance as E[x^2] - E[x]^2 by default, which loses digits if the mean is large.",
        "nnx.LayerNorm(..., use_fast_variance=False)",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
        fast_variance,
    ),
    Cause(
        "norm-epsilon",
        "Norm: the epsilons differ; torch's default is 1e-5, Flax's 1e-6, but 1e-5 for BatchNorm.",
        "epsilon=1e-5 in the norm, or torch's eps",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
        norm_epsilon(1e-5),
    ),
    Cause(
        "norm-epsilon-1e-6",
        "Norm: torch's epsilon is 1e-6 here, JAX has another one.",
        "nnx.LayerNorm(..., epsilon=1e-6)",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
        norm_epsilon(1e-6),
    ),
    Cause(
        "norm-epsilon-1e-12",
        "Norm: torch's epsilon is 1e-12 here, as in BERT; JAX has another one.",
        "nnx.LayerNorm(..., epsilon=1e-12)",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
        norm_epsilon(1e-12),
    ),
    Cause(
        "norm-epsilon-1e-3",
        "Norm: torch's epsilon is 1e-3 here, as in models that come from TensorFlow; JAX has another one.",
        "nnx.BatchNorm(..., epsilon=1e-3)",
        torch_page("nn.BatchNorm2d"),
        NORMS_PAGE,
        norm_epsilon(1e-3),
    ),
    Cause(
        "norm-epsilon-outside-root",
        "Norm: torch adds epsilon to the standard deviation here, Flax to the variance, inside the root.",
        "(x - mean) / (jnp.sqrt(var) + epsilon)",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
        epsilon_outside_root,
    ),
    Cause(
        "norm-unbiased",
        "Norm: torch divides by the unbiased standard deviation here (x.std()), Flax by the biased one.",
        "(x - mean) / (jnp.std(x, -1, keepdims=True, ddof=1) + epsilon)",
        torch_page("std"),
        NORMS_PAGE,
        unbiased_norm,
    ),
    Cause(
        "norm-epsilon-place",
        "Norm: each row differs by a factor of its own, as with another epsilon or epsilon in another place.",
        "Use the epsilon of the PyTorch model, inside the root as it does or outside.",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
    ),
    Cause(
        "rms-norm-offset",
        "RMSNorm: torch multiplies by 1 + weight here, as in Gemma, Flax by the weight.",
        "nnx.RMSNorm with the scale 1 + weight",
        torch_page("nn.RMSNorm"),
        NORMS_PAGE,
        rms_one_plus_scale,
    ),
    Cause(
        "norm-axes",
        "Norm: the axes that are normalized differ.",
        "nnx.LayerNorm(..., reduction_axes=..., feature_axes=...) as torch's normalized_shape",
        torch_page("nn.LayerNorm"),
        NORMS_PAGE,
    ),
    Cause(
        "norm-groups",
        "GroupNorm: the numbers of groups differ; Flax's default is 32.",
        "nnx.GroupNorm(..., num_groups=...) as in torch",
        torch_page("nn.GroupNorm"),
        NORMS_PAGE,
    ),
    Cause(
        "batch-norm-momentum",
        "BatchNorm: torch's momentum is the weight of the new value, Flax's that of the old: 0.1 there is 0.9 here.",
        "nnx.BatchNorm(..., momentum=0.9), that is 1 - torch's momentum",
        torch_page("nn.BatchNorm2d"),
        NORMS_PAGE,
    ),
    Cause(
        "batch-norm-running-variance",
        "BatchNorm: torch's running variance is of the unbiased variance, Flax's of the biased one, which is smaller.",
        "Multiply the new variance by n / (n - 1), or accept it: predictions differ by 1 / (2n).",
        torch_page("nn.BatchNorm2d"),
        NORMS_PAGE,
    ),
    Cause(
        "batch-norm-mode",
        "BatchNorm: torch uses its running statistics here (eval mode), JAX those of the batch.",
        "model.eval(), or use_running_average=True",
        torch_page("nn.BatchNorm2d"),
        NORMS_PAGE,
        batch_norm_evaluates,
    ),
    Cause(
        "batch-norm-training",
        "BatchNorm: torch uses the statistics of the batch here (training mode), JAX its running statistics.",
        "model.train(), or use_running_average=False",
        torch_page("nn.BatchNorm2d"),
        NORMS_PAGE,
    ),
)
