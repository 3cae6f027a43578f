"""Initial weights by named schemes, as NumPy arrays. Each framework's own initializer must match them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlp_workload.weights import Parameters

Initialization = Literal["torch_linear", "kaiming_normal", "flax_linear"]
Layer = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal cut off at +-2. JAX divides by it to keep the variance."""


def initial_parameters(initialization: Initialization, widths: Sequence[int], seed: int) -> Parameters:
    """Returns float64 weights of an MLP of these widths, under canonical names, equal on every machine."""
    np.empty(sum(fan_in * fan_out for fan_in, fan_out in pairwise(widths)))  # fails at once if memory is too small
    rng = np.random.default_rng(seed)
    parameters: Parameters = {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(widths)):
        weight, bias = SCHEMES[initialization](rng, fan_in, fan_out)
        parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"] = weight, bias
    return parameters


def torch_linear(rng: np.random.Generator, fan_in: int, fan_out: int) -> Layer:
    """Draws weight (fan_out, fan_in) and bias (fan_out,) uniform in +-1/sqrt(fan_in), `torch.nn.Linear`'s default.

    Torch computes the bound by `kaiming_uniform_(a=sqrt(5))`: bound = sqrt(6 / ((1 + a^2) fan_in)).
    """
    bound = fan_in**-0.5
    return rng.uniform(-bound, bound, (fan_out, fan_in)), rng.uniform(-bound, bound, fan_out)


def kaiming_normal(rng: np.random.Generator, fan_in: int, fan_out: int) -> Layer:
    """Draws normal weights of variance 2 / fan_in, `torch.nn.init.kaiming_normal_`'s default; biases are zero.

    He et al. 2015, equation 10. `jax.nn.initializers.he_normal` has this variance, but truncates.
    """
    return rng.normal(0.0, (2 / fan_in) ** 0.5, (fan_out, fan_in)), np.zeros(fan_out)


def flax_linear(rng: np.random.Generator, fan_in: int, fan_out: int) -> Layer:
    """Draws weights by `lecun_normal`, the default of Flax's `Linear`; biases are zero.

    They are normal, truncated at +-2 standard deviations and rescaled to variance 1 / fan_in.
    """
    normal = rng.normal(size=(fan_out, fan_in))
    while (outside := np.abs(normal) > 2).any():
        normal[outside] = rng.normal(size=int(outside.sum()))
    return normal * fan_in**-0.5 / TRUNCATED_STD, np.zeros(fan_out)


SCHEMES: dict[Initialization, Callable[[np.random.Generator, int, int], Layer]] = {
    "torch_linear": torch_linear,
    "kaiming_normal": kaiming_normal,
    "flax_linear": flax_linear,
}
