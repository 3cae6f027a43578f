"""How near two arrays are, and one to another after a change."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from twincheck.causes.terms import AGREES

Array = NDArray[np.float64]
Recognise = Callable[[Array, Array, Sequence[Array]], bool]

MENDED = 30
"""An explanation must make the distance this many times smaller."""
SMALLEST = 8
"""Arrays with fewer values agree with anything."""


def distance(a: Array, b: Array) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def mends(changed: Array, ours: Array, theirs: Array) -> bool:
    """Says whether `changed` agrees with `theirs`, and is much nearer to it than `ours`."""
    if not (np.isfinite(changed).all() and np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return False
    left = distance(changed, theirs)
    return left <= AGREES * float(np.abs(theirs).max()) and left * MENDED <= distance(ours, theirs)


def common_factor(ours: Array, theirs: Array) -> float | None:
    """Returns the factor between the arrays, None if it is not the same everywhere."""
    square = float((ours * ours).sum())
    factor = float((ours * theirs).sum()) / square if square > 0 and math.isfinite(square) else math.nan
    return factor if math.isfinite(factor) and mends(ours * factor, ours, theirs) else None


def is_near(a: float, b: float, relative: float = 1e-5) -> bool:
    return abs(a - b) <= relative * abs(b)
