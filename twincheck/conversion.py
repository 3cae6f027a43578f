"""The weights of a pair as a file, and as code that makes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from mlp_workload.files import clear_write_errors, write_atomically
from twincheck.recording import Array
from twincheck.weights import Weight


def write(pair: Any, path: Path) -> str:
    """Writes torch's weights by their names in the JAX model as safetensors; returns `code` that does the same."""
    state = pair.torch.parameters
    arrays = {weight.jax: np.asarray(weight(state), order="C") for weight in pair.weights}
    with clear_write_errors(path):
        write_atomically(path, save(arrays))
    return code(pair.weights, state)


def code(weights: Sequence[Weight], state: Mapping[str, Array]) -> str:
    """Returns a Python module with a function that makes the JAX parameters out of torch's `state`."""
    lines = [f"        {weight.code(state)}" for weight in weights]
    needs_numpy = any("np." in line for line in lines)
    return "\n".join(
        [
            *(["import numpy as np", "", ""] if needs_numpy else []),
            "def convert(state):",
            '    """Returns the JAX parameters by name. `state` is torch\'s state_dict() as NumPy arrays."""',
            "    return {",
            *lines,
            "    }",
            "",
        ]
    )
