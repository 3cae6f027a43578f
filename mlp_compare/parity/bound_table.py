"""Bounds of the parity check: the largest difference allowed for each kind of tensor, and the reason.

The bounds of gradients are at least those of `gradient_noise`: softmax(z) - t is a difference of numbers of size 1. Its
error is therefore about eps even if the difference itself is tiny, as on examples learned by heart. A bound relative to
the gradient would shrink with the gradient.
"""

from collections.abc import Mapping

import numpy as np

from mlp_compare.parity.sign_flips import layer_count, layer_inputs
from mlp_workload.optimizer import SLOTS
from mlp_workload.weights import Parameters
from twincheck.bounds import Bound
from twincheck.trace import Array, Trace

Table = Mapping[str, Bound]
"""Bounds by `kind`."""

EXACT = Bound(reason="bytes of the data set, whole numbers and counts: nothing rounds")

DRIFT_FLOAT64 = 1e-13
"""Bound of losses, parameters and slots in float64 runs, relative to the tensor or to 1, whichever is larger.

Measured: parameters stay within 7e-16 over 3,000 steps.
"""

ADAPTIVE_ROUNDING_FLOAT64 = 1.8e-19
"""Rounding of a gradient of 0.001 in float64.

The update of adam and adamw divides it by epsilon if the gradient is near epsilon: with learning rate 0.001 and epsilon
1e-8 the parameters drift by 1.8e-14 a step, and by 1e-12, a random walk, over 3,000 steps.
"""


def kind(name: str) -> str:
    """Returns the row of the table for a tensor of an MLP's trace."""
    if name.startswith("batch."):
        return "batch"
    if name.startswith("epochs."):
        return f"epochs.{kind(name.removeprefix('epochs.'))}"
    if name.startswith("optimizer."):
        return "optimizer"
    if name.startswith("evaluation.") or name in ("inputs", "logits", "loss", "logits.grad"):
        return name
    last = name.rpartition(".")[2]
    return {"grad": "gradients", "weight": "parameters", "bias": "parameters"}.get(last, f"{last}s")


def table(dtype: str, terms: int, steps: float = 1, adaptive_rate: float = 0.0) -> Table:
    """Returns the bounds by `kind`, for sums of up to `terms` products, `steps` after both sides had equal parameters.

    The error of a sum of n rounded terms is about sqrt(n) eps times the size of the terms (Higham and Mary 2019,
    10.1137/18M1226312). The factor 4 covers the maximum over 10^5 random elements. In float32 the difference of
    parameters is a random walk, which grows as the square root of the steps. In float64 `DRIFT_FLOAT64` bounds it. XLA
    treats subnormal numbers as 0. `adaptive_rate` is the learning rate of adam and adamw over their epsilon.
    """
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    walk = max(steps, 1) ** 0.5
    drifted = tiny + 8 * eps * (walk - 1)  # difference of parameters of size 1, through a curvature of 1
    product = 4 * terms**0.5 * eps * walk
    each = f"4 sqrt({terms}) eps: each number is a sum of up to {terms} products"
    log = "as the logits, from whose differences it is computed; a loss below 1 counts as 1"
    if dtype == "float64":
        drift = loss = Bound(DRIFT_FLOAT64, DRIFT_FLOAT64, "rounding does not add up over a run: measured within 7e-16")
        slots = dict.fromkeys(SLOTS, drift)
        if adaptive_rate and steps > 1:
            walked = max(DRIFT_FLOAT64, ADAPTIVE_ROUNDING_FLOAT64 * adaptive_rate * walk)
            drift = Bound(walked, walked, "rounding of a gradient, divided by epsilon at each step: a random walk")
        elif adaptive_rate:  # an update can be as large for a small slot as for a large one
            summed = "as the gradients, because it is a sum of them, or of their squares; at least the gradient noise"
            slots = {slot: Bound(max(DRIFT_FLOAT64, power * product), tiny, summed) for slot, power in SLOTS.items()}
    else:
        rounds = "8 eps sqrt(steps): each side rounds each update; the last update has the bound of its gradient"
        drift = Bound(8 * eps * walk, tiny, rounds)
        summed = "as the gradients, because it is a sum of them, or of their squares, whose error is doubled"
        slots = {slot: Bound(power * product, power * drifted, summed) for slot, power in SLOTS.items()}
        loss = Bound(product, product, log)
    noisy = "as the logits, whose error softmax passes on; at least the gradient noise"
    table = {
        "batch": EXACT,
        "inputs": Bound(4 * eps, tiny, "4 eps: a division, a subtraction and a division on each side"),
        "pre_activations": Bound(product, tiny, each),
        "activations": Bound(product, tiny, "as the pre-activations: the slope is at most 1"),
        "logits": Bound(product, tiny, "as the pre-activations"),
        "loss": loss,
        "logits.grad": Bound(product, tiny, noisy),
        "gradients": Bound(product, drifted, f"{each}; at least the gradient noise"),
        **{kind(slot): bound for slot, bound in slots.items()},
        "optimizer": EXACT,
        "parameters": drift,
        "evaluation.labels": EXACT,
        "evaluation.losses": Bound(product, product, log),
        "evaluation.predictions": EXACT,
        "evaluation.correct": EXACT,
        "evaluation.loss": Bound(product, product, log),
    }
    return table | {f"epochs.{row}": table[row] for row in ("loss", *map(kind, SLOTS), "optimizer", "parameters")}


@np.errstate(over="ignore")  # in a run that diverges
def gradient_noise(trace: Trace, before: Parameters) -> dict[str, float]:
    """Returns absolute bounds of `logits.grad`, of gradients and slots, for a step from `before`.

    The bound of the logits' gradient is 4 eps max(1, |logits|) / batch. Further back, the error passes through the
    weights and is summed over the batch with the layer's inputs. Signs are random, so sums grow as the root of squares.
    """
    logits = trace.tensors["logits"]
    batch = len(logits)
    error = 4 * float(np.finfo(logits.dtype).eps) * max(1.0, _largest(logits)) / batch
    noise = {"logits.grad": error}
    layers = layer_count(trace)
    for layer in reversed(range(layers)):
        inputs = layer_inputs(trace, layer, layers)
        noise[f"layers.{layer}.bias.grad"] = error * batch**0.5
        noise[f"layers.{layer}.weight.grad"] = error * batch**0.5 * _largest(inputs)
        error *= float(np.sqrt(np.square(before[f"layers.{layer}.weight"].astype(np.float64)).sum(axis=0)).max())
    slots: dict[str, float] = {}
    for name, value in noise.items():
        size = _largest(trace.tensors[name]) + value
        for slot, power in SLOTS.items():  # of a difference of powers, by the mean value theorem
            slots[name.replace(".grad", f".{slot}")] = power * size ** (power - 1) * value
    return slots | noise


def _largest(array: Array) -> float:
    return float(np.abs(array).max())
