"""Kink crossings: one pre-activation that falls on different sides of 0 in the two frameworks.

(Leaky)ReLU is continuous there, its slope is not: the forward pass hardly notices, the gradient really is another one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlp_workload.config import LEAKY_RELU_SLOPE, Config
from mlp_workload.interface import activation, pre_activation
from mlp_workload.weights import Array, Parameters
from twincheck.trace import Trace

SLOPES = {"relu": 0.0, "leaky_relu": LEAKY_RELU_SLOPE, "none": 1.0}
"""Of each activation where its input is not above 0."""


@dataclass(frozen=True)
class Crossing:
    """Pre-activation `unit` of `layer` for `example` of the batch at `step`: `a` and `b` on different sides of 0.

    `rounding` is how far from 0 rounding can put such a sum: 4 eps times the sum of its terms' magnitudes,
    plus what the differences that its inputs and weights already have make of it. Beyond that it is not explained.
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


def has_kink(config: Config, layer: int, layers: int) -> bool:
    """Whether the slope behind that pre-activation changes at 0."""
    return layer < layers - 1 or config.logits_activation != "none"


def find_crossings(
    config: Config, a: Trace, b: Trace, before_a: Parameters, before_b: Parameters, step: int
) -> Iterator[Crossing]:
    """The crossings of a step of an MLP which began from the parameters `before_a` and `before_b`."""
    layers = layer_count(a)
    for layer in range(layers):
        if not has_kink(config, layer, layers):
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
            one, other, w_one, w_other = (row.astype(np.float64) for row in rows)
            x, w, bias = np.abs(one), np.abs(w_one), abs(float(bias_a[unit]))
            x_apart, w_apart = np.abs(one - other), np.abs(w_one - w_other)
            apart = float(x_apart @ w + x @ w_apart + x_apart @ w_apart) + abs(
                float(bias_a[unit]) - float(bias_b[unit])
            )
            rounding = 4 * float(np.finfo(z_a.dtype).eps) * (float(x @ w) + bias) + apart
            yield Crossing(step, layer, example, unit, float(z_a[example, unit]), float(z_b[example, unit]), rounding)


def effect(config: Config, a: Trace, b: Trace, before: Parameters) -> dict[str, Array]:
    """What the crossings make of a step that began from the parameters `before`: b - a of each gradient, momentum and
    parameter, as far as they come from units being on different sides of 0.

    The backward pass of the examples concerned with b's sides of 0 less the one with a's, all else being a's.
    """
    layers = layer_count(a)
    sides = [tuple(trace.tensors[pre_activation(layer)] > 0 for trace in (a, b)) for layer in range(layers)]
    rows = np.flatnonzero(np.any([(one != other).any(axis=1) for one, other in sides], axis=0))
    effects: dict[str, Array] = {}
    backward = [a.tensors["logits.grad"][rows].astype(np.float64)] * 2  # by a's sides of 0, by b's
    for layer in reversed(range(layers)):
        slope = SLOPES[config.logits_activation if layer == layers - 1 else config.activation]
        backward = [
            gradient * np.where(above[rows], 1.0, slope) for gradient, above in zip(backward, sides[layer], strict=True)
        ]
        difference = backward[1] - backward[0]
        effects[f"layers.{layer}.weight"] = difference.T @ layer_inputs(a, layer, layers)[rows]
        effects[f"layers.{layer}.bias"] = difference.sum(axis=0)
        backward = [gradient @ before[f"layers.{layer}.weight"] for gradient in backward]
    factor = config.learning_rate * (1 + config.momentum if config.nesterov else 1)
    return (
        {f"{name}.grad": change for name, change in effects.items()}
        | {f"{name}.momentum": change for name, change in effects.items()}
        | {name: -factor * change for name, change in effects.items()}
    )


def layer_count(trace: Trace) -> int:
    return sum(name.endswith(".pre_activation") for name in trace.tensors)


def layer_inputs(trace: Trace, layer: int, layers: int) -> Array:
    return trace.tensors["inputs" if layer == 0 else activation(layer - 1, layers)]
