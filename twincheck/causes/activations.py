"""Activations, softmax, statistics and rounding: the patches that undo their differences, and what differs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from twincheck.causes.cause import ACTIVATIONS_PAGE, Cause, jax_page, optax_page, torch_page
from twincheck.causes.replace import Function, Wrap, functions
from twincheck.recording import Patch

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
_softmax, _log_softmax = jax.nn.softmax, jax.nn.log_softmax


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
        torch_page("nn.GELU"),
        jax_page("jax.nn.gelu"),
        activation(gelu_erf, "gelu"),
    ),
    Cause(
        "gelu-erf",
        'GELU: torch uses the tanh approximation here (approximate="tanh", "gelu_new"), JAX another form.',
        "jax.nn.gelu(x, approximate=True)",
        torch_page("nn.GELU"),
        jax_page("jax.nn.gelu"),
        activation(gelu_tanh, "gelu"),
    ),
    Cause(
        "gelu-quick",
        "GELU: torch uses the fast form x * sigmoid(1.702 * x) here, JAX another one.",
        "x * jax.nn.sigmoid(1.702 * x)",
        torch_page("nn.GELU"),
        jax_page("jax.nn.gelu"),
        activation(gelu_quick, "gelu", "silu"),
    ),
    Cause(
        "leaky-slope",
        "Leaky ReLU: the slopes for negative values differ; the default of both is 0.01.",
        "jax.nn.leaky_relu(x, negative_slope=...) as torch's",
        torch_page("nn.LeakyReLU"),
        jax_page("jax.nn.leaky_relu"),
        leaky_slope(0.01),
    ),
    Cause(
        "leaky-slope-0.2",
        "Leaky ReLU: torch's slope for negative values is 0.2 here, JAX has another one (0.01 by default).",
        "jax.nn.leaky_relu(x, negative_slope=0.2)",
        torch_page("nn.LeakyReLU"),
        jax_page("jax.nn.leaky_relu"),
        leaky_slope(0.2),
    ),
    *(
        Cause(
            f"activation-{name}",
            f"Activation: torch applies {torch_name} here, JAX another activation.",
            code,
            torch_page(f"nn.{torch_name}"),
            ACTIVATIONS_PAGE,
            activation(TARGETS[name]),
        )
        for name, (torch_name, code) in ACTIVATION_NAMES.items()
    ),
    Cause(
        "activation-extra",
        "Activation: JAX applies an activation here, torch none.",
        "Leave the activation out.",
        torch_page("nn.Identity"),
        ACTIVATIONS_PAGE,
        activation(lambda x: x),
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
        "Leave the additional activation out.",
        "https://docs.pytorch.org/docs/stable/nn.html#non-linear-activations-weighted-sum-nonlinearity",
        ACTIVATIONS_PAGE,
    ),
    Cause(
        "gate-swapped",
        "Gate: torch applies the activation to one of two factors, JAX to the other one.",
        "act(gate) * up, with the factors as in the PyTorch model",
        torch_page("nn.functional.glu"),
        ACTIVATIONS_PAGE,
    ),
    # Softmax, statistics, rounding
    Cause(
        "softmax-float32",
        "Softmax: torch computes it in float32 here, JAX in the lower precision of its input.",
        "jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)",
        torch_page("nn.functional.softmax"),
        jax_page("jax.nn.softmax"),
        softmax_float32,
    ),
    Cause(
        "softmax-axis",
        "Softmax: torch takes it over axis 1 here, JAX over another axis (the last one by default).",
        "jax.nn.softmax(x, axis=1)",
        torch_page("nn.functional.softmax"),
        jax_page("jax.nn.softmax"),
        softmax_axis_1,
    ),
    Cause(
        "softmax-last-axis",
        "Softmax: torch takes it over the last axis here, JAX over another axis.",
        "jax.nn.softmax(x, axis=-1)",
        torch_page("nn.functional.softmax"),
        jax_page("jax.nn.softmax"),
        softmax_last_axis,
    ),
    Cause(
        "softmax-log",
        "Softmax: torch gives out log-probabilities here (log_softmax), JAX probabilities (softmax).",
        "jax.nn.log_softmax(x)",
        torch_page("nn.functional.log_softmax"),
        jax_page("jax.nn.log_softmax"),
        softmax_to_log,
    ),
    Cause(
        "log-softmax",
        "Softmax: torch gives out probabilities here (softmax), JAX log-probabilities (log_softmax).",
        "jax.nn.softmax(x)",
        torch_page("nn.functional.softmax"),
        jax_page("jax.nn.softmax"),
        log_to_softmax,
    ),
    Cause(
        "softmax-extra",
        "Softmax: JAX applies a softmax here, torch none; torch's CrossEntropyLoss takes logits.",
        "Leave the softmax out.",
        torch_page("nn.CrossEntropyLoss"),
        optax_page("losses.html"),
        softmax_extra,
    ),
    Cause(
        "std-ddof",
        "std and var: one side divides by n - 1, as torch by default, the other by n, as jax.numpy by default.",
        "jnp.std(x, axis, ddof=1), which is torch's default; ddof=0 for torch's correction=0",
        torch_page("std"),
        jax_page("jax.numpy.std"),
        spread(1),
    ),
    Cause(
        "std-biased",
        "std and var: torch divides by n here (unbiased=False, correction=0), JAX by n - 1.",
        "jnp.std(x, axis, ddof=0)",
        torch_page("std"),
        jax_page("jax.numpy.std"),
        spread(0),
    ),
    Cause(
        "round-half",
        "Rounding: the PyTorch model rounds halves up here, jnp.round (as torch.round) to the even neighbour.",
        "jnp.floor(x + 0.5)",
        torch_page("round"),
        jax_page("jax.numpy.round"),
        round_half_up,
    ),
)
