"""Faults of the initial weights and their layout."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from mlp_compare.parity.faults.fault import Fault, wrapped
from mlp_workload.batches import epoch_order
from mlp_workload.data import load
from mlp_workload.data.shipped import TRAIN_EXAMPLES
from mlp_workload.weights import Array, Parameters


def _each(edit: Callable[[str, Array], Array]) -> Any:
    """Returns a plant that passes each initial parameter through `edit(name, array)`."""
    return wrapped(
        "mlp_workload.initial:initial_parameters",
        lambda right, *arguments: {name: edit(name, array) for name, array in right(*arguments).items()},
    )


def _by_fan_out(name: str, array: Array) -> Array:
    return array * (array.shape[1] / array.shape[0]) ** 0.5 if array.ndim == 2 else array


def _cut_off(name: str, array: Array) -> Array:
    deviation = (2 / array.shape[-1]) ** 0.5
    return np.clip(array, -2 * deviation, 2 * deviation) if array.ndim == 2 else array


def _transposed(parameters: Any) -> Any:
    return {name: array.T.copy() if name.startswith("layers.1.weight") else array for name, array in parameters.items()}


def _read_transposed(original: Any, model: Any, parameters: Any) -> Any:
    return original(model, _transposed(parameters))


def _forgotten_transpose() -> ExitStack:
    """Transposes in both directions, so that loading and saving weights hide it."""
    stack = ExitStack()
    stack.enter_context(wrapped("jax_mlp.trainer:from_canonical", _read_transposed)())
    stack.enter_context(wrapped("jax_mlp.trainer:to_canonical", lambda right, params: _transposed(right(params)))())
    return stack


def near_zero(parameters: Parameters) -> Parameters:
    """Makes unit i of the first layer about 0 for example i of the first batch of `leaky` with seed 0.

    In float32 the sign of many of these pre-activations differs between the frameworks.
    """
    batch = load("mnist").train.images[epoch_order(0, 1, TRAIN_EXAMPLES)[:200]].reshape(200, -1) / 255
    parameters["layers.0.bias"] = -(batch * parameters["layers.0.weight"]).sum(axis=1)
    return parameters


FAULTS = [
    Fault("variance by fan-out", "torch", 0, "layers.0.weight", preset="relu", plant=_each(_by_fan_out)),
    Fault("normal weights cut off at 2 deviations", "jax", 0, "layers.0.weight", preset="relu", plant=_each(_cut_off)),
    Fault("initial biases zero", "jax", 0, "layers.0.bias",
          plant=_each(lambda name, array: array * 0 if name.endswith("bias") else array)),
    Fault("another seed", "torch", 0, "layers.0.weight",
          plant=wrapped("mlp_workload.initial:initial_parameters",
                        lambda right, scheme, widths, seed: right(scheme, widths, seed + 1))),
    Fault("square weight transposed when it is loaded", "torch", 0, "layers.1.weight",
          plant=wrapped("reference_torch.trainer:load_canonical", _read_transposed)),
    Fault("square weight transposed, in and out", "jax", 1, "layers.1.pre_activation", plant=_forgotten_transpose),
]  # fmt: skip
