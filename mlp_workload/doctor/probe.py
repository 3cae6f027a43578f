"""What runs in a process of its own, because it may crash or hang: the child's half. The parent's is `Answer`."""

import json
import os
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import BadVariable

Facts = dict[str, Any]
Floats = npt.NDArray[np.float32]

EXAMPLES, PIXELS, UNITS = 200, 784, 200


def tell(facts: Callable[[], Iterable[Facts]]) -> None:
    """Prints each part of `facts` as a line of JSON as soon as it is known, and an exception as the last.

    "doing" in a part says what is begun next: where the process ends by it, that is known. Whatever else is printed
    goes to standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        try:
            for part in facts():
                print(json.dumps(part), file=lines, flush=True)
            print(json.dumps({"doing": "end"}), file=lines, flush=True)
        except Exception as error:
            print(json.dumps({"error": _described(error)}), file=lines, flush=True)


def _described(error: Exception) -> Facts:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    said = textwrap.shorten(str(error), 300) or type(error).__name__
    variable = error.variable if isinstance(error, BadVariable) else None
    return {"type": type(error).__name__, "said": said, "missing": missing, "variable": variable}


def product(multiply: Callable[[Floats, Floats], Any]) -> Facts:
    """How far a first layer's product, (200, 784) by (784, 200) in float32, is from NumPy's in float64, and may be.

    The bound is that of a sum of n products: 4 √n eps of the largest number.
    """
    rng = np.random.default_rng(0)
    images = rng.random((EXAMPLES, PIXELS), np.float32)
    weights = rng.uniform(-1, 1, (PIXELS, UNITS)).astype(np.float32)
    expected = images.astype(np.float64) @ weights.astype(np.float64)
    error = np.abs(np.asarray(multiply(images, weights), np.float64) - expected).max()
    allowed = 4 * np.sqrt(PIXELS) * np.finfo(np.float32).eps * np.abs(expected).max()
    return {"error": float(error), "allowed": float(allowed)}
