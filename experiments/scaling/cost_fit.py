"""The costs of a machine, fitted to timings."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from experiments.scaling.cost_model import Costs, Counts, seconds

Array = npt.NDArray[np.float64]
_DEPENDENT = 1e-3
"""Relative residual below which a count is taken to follow from the others."""


@dataclass(frozen=True)
class Fit:
    """Costs fitted to n timings.

    `fitted` and `held_out` (n,) are the timings by the model. For `held_out` the costs were fitted without the timing's
    group; `low` and `high` are the extremes of those costs.

    `unidentified` names costs that the timings do not determine: their counts are all zero, or follow from the others.
    Such a cost is set to 0, and the others include it.
    """

    costs: Costs
    low: Costs
    high: Costs
    unidentified: tuple[str, ...]
    fitted: Array
    held_out: Array


def fit(counts: Sequence[Counts], measured: Sequence[float], groups: Sequence[Hashable]) -> Fit:
    """Returns the costs, none below 0, with least squares of the relative errors (Lawson and Hanson's NNLS).

    Raises `ValueError` if there are no more timings than costs, so that any would fit, or only one group.
    """
    design, times = np.array(counts, float), np.array(measured)
    costs, identified = _solve(design, times)
    if len(times) <= len(identified) or len(set(groups)) < 2:
        raise ValueError(f"{len(times)} timings in {len(set(groups))} groups are too few for {len(identified)} costs")
    held_out, fits = np.zeros(len(times)), []
    for group in dict.fromkeys(groups):
        left_out = np.array([group == own_group for own_group in groups])
        fit_without, _ = _solve(design[~left_out], times[~left_out])
        held_out[left_out] = design[left_out] @ np.array(fit_without)
        fits.append(fit_without)
    unidentified = tuple(name for column, name in enumerate(Costs._fields) if column not in identified)
    low, high = Costs(*np.min(fits, axis=0).tolist()), Costs(*np.max(fits, axis=0).tolist())
    return Fit(costs, low, high, unidentified, np.array([seconds(costs, count) for count in counts]), held_out)


def _solve(design: Array, measured: Array) -> tuple[Costs, list[int]]:
    """Returns the costs, and the columns of `design` (timings, costs) that the timings identify."""
    relative: Any = design / measured[:, None]
    identified: list[int] = []
    for column in range(relative.shape[1]):
        rest = relative[:, column] - _projected(relative[:, identified], relative[:, column])
        if np.linalg.norm(rest) > _DEPENDENT * np.linalg.norm(relative[:, column]):
            identified.append(column)
    sizes = np.linalg.norm(relative[:, identified], axis=0)
    solution, _ = optimize.nnls(relative[:, identified] / sizes, np.ones(len(measured)))
    costs = np.zeros(relative.shape[1])
    costs[identified] = solution / sizes
    return Costs(*costs.tolist()), identified


def _projected(columns: Array, column: Array) -> Array:
    """Returns the projection of `column` onto the span of `columns`."""
    sizes = np.linalg.norm(columns, axis=0)
    projection: Array = columns / sizes @ np.linalg.lstsq(columns / sizes, column, rcond=None)[0]
    return projection
