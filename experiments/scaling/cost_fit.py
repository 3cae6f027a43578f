"""The costs of a machine, fitted to timings."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize  # type: ignore[import-untyped]

from experiments.scaling.cost_model import Costs, Counts, seconds

Array = npt.NDArray[np.float64]
_DEPENDENT = 1e-3
"""A count that others make up but for this share tells nothing of its own."""


@dataclass(frozen=True)
class Fit:
    """`fitted` and `held_out` (n,) are the timings by the model, the latter by costs that were fitted without the
    timing's group; `low` and `high` are the extremes of these costs.

    `untold` names costs that the timings can't tell: their counts are zero in all of them, or follow from the others'.
    They are 0, and where they are more than that another one has it in it.
    """

    costs: Costs
    low: Costs
    high: Costs
    untold: tuple[str, ...]
    fitted: Array
    held_out: Array


def fit(counts: Sequence[Counts], measured: Sequence[float], groups: Sequence[Hashable]) -> Fit:
    """The costs, none below 0, with the least squares of the relative errors (Lawson and Hanson's NNLS).

    Raises `ValueError` where there are no more timings than costs, so that any would fit, or only one group.
    """
    design, of = np.array(counts, float), np.array(measured)
    costs, told = _solve(design, of)
    if len(of) <= len(told) or len(set(groups)) < 2:
        raise ValueError(f"{len(of)} timings in {len(set(groups))} groups are too few for {len(told)} costs")
    held_out, others = np.zeros(len(of)), []
    for group in dict.fromkeys(groups):
        left = np.array([one == group for one in groups])
        other, _ = _solve(design[~left], of[~left])
        held_out[left] = design[left] @ np.array(other)
        others.append(other)
    untold = tuple(name for place, name in enumerate(Costs._fields) if place not in told)
    low, high = (Costs(*found) for found in (np.min(others, axis=0).tolist(), np.max(others, axis=0).tolist()))
    return Fit(costs, low, high, untold, np.array([seconds(costs, one) for one in counts]), held_out)


def _solve(design: Array, measured: Array) -> tuple[Costs, list[int]]:
    """The costs, and the columns of `design` (timings, costs) that were told apart."""
    relative: Any = design / measured[:, None]
    told: list[int] = []
    for column in range(relative.shape[1]):
        rest = relative[:, column] - _projected(relative[:, told], relative[:, column])
        if np.linalg.norm(rest) > _DEPENDENT * np.linalg.norm(relative[:, column]):
            told.append(column)
    sizes = np.linalg.norm(relative[:, told], axis=0)
    found, _ = optimize.nnls(relative[:, told] / sizes, np.ones(len(measured)))
    costs = np.zeros(relative.shape[1])
    costs[told] = found / sizes
    return Costs(*costs.tolist()), told


def _projected(columns: Array, column: Array) -> Array:
    """`column` as far as `columns` make it up."""
    sizes = np.linalg.norm(columns, axis=0)
    found: Array = columns / sizes @ np.linalg.lstsq(columns / sizes, column, rcond=None)[0]
    return found
