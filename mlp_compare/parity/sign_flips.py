"""ReLU sign flips: a pre-activation that is above 0 in one framework and not in the other.

(Leaky)ReLU is continuous at 0, but its slope is not. The forward pass hardly changes; the gradient does.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlp_workload.config import LEAKY_RELU_SLOPE, Config
from mlp_workload.interface import activation as activation_name
from mlp_workload.interface import pre_activation
from mlp_workload.optimizer import update
from mlp_workload.weights import Array, Parameters
from twincheck.trace import Trace

SLOPES = {"relu": 0.0, "leaky_relu": LEAKY_RELU_SLOPE, "none": 1.0}
"""Slope of each activation for inputs up to 0."""


@dataclass(frozen=True)
class SignFlip:
    """Pre-activation `unit` of `layer` for `example` of the batch at `step`, with `a` and `b` on different sides of 0.

    `rounding` is the largest distance from 0 that rounding explains: 4 eps times the sum of the terms' magnitudes, plus
    the effect of earlier differences of the inputs and weights.
    """

    step: int
    layer: int
    example: int
    unit: int
    a: float
    b: float
    rounding: float

    @property
    def explained(self) -> bool:
        return max(abs(self.a), abs(self.b)) <= self.rounding

    def __str__(self) -> str:
        return (
            f"step {self.step}, {pre_activation(self.layer)}[{self.example}, {self.unit}]: {self.a:.2e} and "
            f"{self.b:.2e} lie on different sides of 0, rounding reaches {self.rounding:.1e}"
        )


def find_sign_flips(
    config: Config, a: Trace, b: Trace, before_a: Parameters, before_b: Parameters, step: int
) -> Iterator[SignFlip]:
    """Yields the sign flips of a step that began from the parameters `before_a` and `before_b`."""
    layers = layer_count(a)
    for layer, activation in enumerate(config.activations(layers)):
        if activation == "none":
            continue
        z_a, z_b = a.tensors[pre_activation(layer)], b.tensors[pre_activation(layer)]
        if z_a.shape != z_b.shape:
            return
        x_a, x_b = layer_inputs(a, layer, layers), layer_inputs(b, layer, layers)
        (weight_a, bias_a), (weight_b, bias_b) = (
            (before[f"layers.{layer}.weight"], before[f"layers.{layer}.bias"]) for before in (before_a, before_b)
        )
        finite = np.isfinite(z_a) & np.isfinite(z_b)
        for example, unit in np.argwhere(((z_a > 0) != (z_b > 0)) & finite).tolist():
            rows = x_a[example], x_b[example], weight_a[unit], weight_b[unit]
            input_a, input_b, row_a, row_b = (row.astype(np.float64) for row in rows)
            x, w, bias = np.abs(input_a), np.abs(row_a), float(bias_a[unit])
            dx, dw, dbias = np.abs(input_a - input_b), np.abs(row_a - row_b), abs(bias - float(bias_b[unit]))
            earlier = float(dx @ w + x @ dw + dx @ dw) + dbias
            rounding = 4 * float(np.finfo(z_a.dtype).eps) * (float(x @ w) + abs(bias)) + earlier
            yield SignFlip(step, layer, example, unit, float(z_a[example, unit]), float(z_b[example, unit]), rounding)


def sign_flip_effect(config: Config, a: Trace, b: Trace, before: Parameters) -> dict[str, Array]:
    """Returns b - a of each gradient, slot and parameter, as far as sign flips cause it.

    `before` is the state from which the step began. The effect is the difference of two backward passes of the
    affected examples, with b's signs and with a's; everything else is a's.
    """
    layers = layer_count(a)
    signs = [tuple(trace.tensors[pre_activation(layer)] > 0 for trace in (a, b)) for layer in range(layers)]
    rows = np.flatnonzero(np.any([(signs_a != signs_b).any(axis=1) for signs_a, signs_b in signs], axis=0))
    effects: dict[str, Array] = {}
    backward = [a.tensors["logits.grad"][rows].astype(np.float64)] * 2  # with a's signs, with b's
    for layer, activation in reversed(list(enumerate(config.activations(layers)))):
        slope = SLOPES[activation]
        backward = [
            gradient * np.where(above[rows], 1.0, slope) for gradient, above in zip(backward, signs[layer], strict=True)
        ]
        difference = backward[1] - backward[0]
        effects[f"layers.{layer}.weight"] = difference.T @ layer_inputs(a, layer, layers)[rows]
        effects[f"layers.{layer}.bias"] = difference.sum(axis=0)
        backward = [gradient @ before[f"layers.{layer}.weight"] for gradient in backward]
    gradients = {name: a.tensors[f"{name}.grad"].astype(np.float64) for name in effects}
    flipped = {name: gradient + effects[name] for name, gradient in gradients.items()}
    after_a, after_b = (update(config, before, one) for one in (gradients, flipped))
    gradient_effects = {f"{name}.grad": change for name, change in effects.items()}
    return gradient_effects | {name: after_b[name] - after_a[name] for name in after_a}


def layer_count(trace: Trace) -> int:
    return sum(name.endswith(".pre_activation") for name in trace.tensors)


def layer_inputs(trace: Trace, layer: int, layers: int) -> Array:
    return trace.tensors["inputs" if layer == 0 else activation_name(layer - 1, layers)]
