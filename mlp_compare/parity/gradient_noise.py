"""What rounding leaves of a gradient that is itself next to nothing.

softmax(z) - t is a difference of numbers of size 1, so that its error is of the size of eps however small it is, as on
examples that are learned by heart; a bound relative to the gradient would shrink with it.
"""

import numpy as np

from mlp_compare.parity.sign_flips import layer_count, layer_inputs
from mlp_workload.weights import Parameters
from twincheck.trace import Array, Trace


def gradient_floors(trace: Trace, before: Parameters) -> dict[str, float]:
    """Absolute bounds of `logits.grad`, each gradient and the momentum it goes into, of an MLP's step from `before`.

    4 eps max(1, |logits|) / batch for the logits. Further back an error passes through the weights, and is summed over
    the batch with the layer's inputs; signs are random, so that sums go by their root of squares.
    """
    with np.errstate(over="ignore"):  # of a run that diverges
        return _floors(trace, before)


def _floors(trace: Trace, before: Parameters) -> dict[str, float]:
    logits = trace.tensors["logits"]
    batch = len(logits)
    error = 4 * float(np.finfo(logits.dtype).eps) * max(1.0, _largest(logits)) / batch
    floors = {"logits.grad": error}
    layers = layer_count(trace)
    for layer in reversed(range(layers)):
        inputs = layer_inputs(trace, layer, layers)
        floors[f"layers.{layer}.bias.grad"] = error * batch**0.5
        floors[f"layers.{layer}.weight.grad"] = error * batch**0.5 * _largest(inputs)
        error *= float(np.sqrt(np.square(before[f"layers.{layer}.weight"].astype(np.float64)).sum(axis=0)).max())
    momentum = {name.replace(".grad", ".momentum"): floor for name, floor in floors.items()}
    return momentum | floors


def _largest(array: Array) -> float:
    return float(np.abs(array).max())
