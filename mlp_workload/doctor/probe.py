"""The child's part of a probe: a process of its own, because it may crash or hang. The parent's part is `Answer`."""

import json
import os
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.data.shipped import PIXELS
from mlp_workload.errors import BadVariable

Facts = dict[str, Any]
Floats = npt.NDArray[np.float32]

EXAMPLES, UNITS = 200, 200


def tell(facts: Callable[[], Iterable[Facts]]) -> None:
    """Prints each part of `facts` as a line of JSON as soon as it comes, and an exception as the last line.

    "doing" in a part names the next action, so that it is known if the process crashes. All other output goes to
    standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        try:
            for part in facts():
                print(json.dumps(part), file=lines, flush=True)
            print(json.dumps({"doing": "end"}), file=lines, flush=True)
        except Exception as error:
            kind = type(error).__name__
            described = {
                "type": kind,
                "said": textwrap.shorten(str(error), 300) or kind,
                "missing": error.name if isinstance(error, ModuleNotFoundError) else None,
                "variable": error.variable if isinstance(error, BadVariable) else None,
            }
            print(json.dumps({"error": described}), file=lines, flush=True)


def product(multiply: Callable[[Floats, Floats], Any]) -> Facts:
    """Returns the error of a float32 product of a first layer's size against NumPy's in float64, and its bound.

    The bound is that of a sum of n products: 4 √n eps times the largest number.
    """
    rng = np.random.default_rng(0)
    images = rng.random((EXAMPLES, PIXELS), np.float32)
    weights = rng.uniform(-1, 1, (PIXELS, UNITS)).astype(np.float32)
    expected = images.astype(np.float64) @ weights.astype(np.float64)
    error = np.abs(np.asarray(multiply(images, weights), np.float64) - expected).max()
    allowed = 4 * np.sqrt(PIXELS) * np.finfo(np.float32).eps * np.abs(expected).max()
    return {"error": float(error), "allowed": float(allowed)}
