"""The bounds of the parity check follow from the noise of the gradients."""

import numpy as np
import pytest

from examples.numpy_side.mlp import forward_backward
from mlp_compare.parity.bound_table import gradient_noise
from mlp_workload.initial import initial_parameters
from twincheck.trace import Trace


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_the_noise_of_slots_is_the_change_that_the_noise_of_a_gradient_makes(scale):
    rng = np.random.default_rng(0)
    parameters = initial_parameters("torch_linear", (5, 7, 6, 4), seed=1)
    x, labels = scale * rng.normal(size=(9, 5)), rng.integers(0, 4, 9)
    trace = Trace({"inputs": x, **forward_backward(parameters, ["relu", "relu", "none"], x, labels)})
    noise = gradient_noise(trace, parameters)
    for name in parameters:
        size, change = np.abs(trace.tensors[f"{name}.grad"]).max(), noise[f"{name}.grad"]
        squared = (2 * size + change) * change  # (size + change)^2 - size^2 without its cancellation
        for slot, changed in (("momentum", change), ("first_moment", change), ("second_moment", squared)):
            assert changed <= noise[f"{name}.{slot}"] * (1 + 1e-12) <= 1.1 * changed
