"""Rounding noise in gradients that are close to zero.

softmax(z) - t is a difference of numbers of size 1. Its error is therefore about eps even if the difference itself is
tiny, as on examples learned by heart. A bound relative to the gradient would shrink with the gradient.
"""

import numpy as np

from mlp_compare.parity.sign_flips import layer_count, layer_inputs
from mlp_workload.optimizer import SLOTS
from mlp_workload.weights import Parameters
from twincheck.trace import Array, Trace


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
