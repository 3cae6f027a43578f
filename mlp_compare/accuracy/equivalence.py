"""Equivalence test of two frameworks' final accuracies, within a margin fixed before measuring."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats

MARGIN = 50
"""Margin in correct of 10,000, half a percentage point.

It is about two standard errors (30 to 22) of an accuracy of 90 to 95 % on 10,000 examples. Another test set of that
size would not show a smaller difference between two single runs.
"""
LEVEL = 0.05
"""Level of each one-sided test; intervals therefore cover 90 %."""
POWER = 0.8
"""Probability with which `seeds_needed` seeds show equivalence if the true difference is 0."""
TWO_HUMP_SEEDS = 59
"""Fewest seeds that allow a result if runs can lose a class.

A lost class costs about 1,000 correct, so one such run in twenty moves the mean by the margin. Seeing one of these 5 %
with a probability of 95 % takes ln 0.05 / ln 0.95 = 58.4 runs. With fewer seeds the tests assume wrongly that future
runs look like the measured ones.
"""

_ROUNDING = 1 / 12
"""Variance of rounding to whole numbers, the least that a framework is taken to have: equal counts prove little."""

Counts = npt.NDArray[np.float64]
Interval = tuple[float, float]
Result = Literal["equivalent", "different", "too few seeds"]


@dataclass(frozen=True)
class Equivalence:
    """Statistics of the difference of means, a - b, from n final counts of each side.

    `tost_p` is the larger p of two one-sided tests (Schuirmann 1987) of a difference of MARGIN or more either way.
    `t_interval` is their 90 % interval. `bootstrap_interval` assumes no distribution; it is too narrow for few seeds.
    `seeds_needed` goes with the square of the deviations, which five seeds determine only to a factor of two.
    """

    n: int
    means: tuple[float, float]
    deviations: tuple[float, float]
    difference: float
    standard_error: float
    degrees_of_freedom: float
    t_interval: Interval
    bootstrap_interval: Interval
    tost_p: float
    seeds_needed: int
    result: Result

    def __str__(self) -> str:
        if self.result == "equivalent":
            return "equivalent within the margin"
        if self.result == "different":
            return "different"
        if self.seeds_needed > self.n:
            return f"N too small to conclude: about {self.seeds_needed:,} seeds would be needed"
        return "N too small to conclude: the difference is near the margin"


def equivalence(a: Sequence[int], b: Sequence[int], *, paired: bool, two_humps: bool) -> Equivalence:
    """Compares the counts (n,) of both sides, n at least 2; if `paired`, a[i] and b[i] belong together.

    The result "equivalent" requires a `tost_p` below LEVEL and a bootstrap interval within the margin. "different"
    requires both intervals outside the margin. If there may be `two_humps`, both require TWO_HUMP_SEEDS seeds.
    """
    counts_a, counts_b = np.array(a, np.float64), np.array(b, np.float64)
    n, difference = len(counts_a), float(counts_a.mean() - counts_b.mean())
    if paired:
        standard_error, degrees = math.sqrt(_variance(counts_a - counts_b, 2 * _ROUNDING) / n), n - 1.0
    else:  # Welch 1947
        var_a, var_b = _variance(counts_a, _ROUNDING), _variance(counts_b, _ROUNDING)
        standard_error = math.sqrt((var_a + var_b) / n)
        degrees = (n - 1) * (var_a + var_b) ** 2 / (var_a**2 + var_b**2)
    reach = float(stats.t.ppf(1 - LEVEL, degrees)) * standard_error
    t_interval = (difference - reach, difference + reach)
    bootstrap_interval = _bootstrap(counts_a, counts_b, paired)
    tost_p = float(stats.t.sf((MARGIN - abs(difference)) / standard_error, degrees))
    needed = seeds_needed(standard_error * math.sqrt(n), degrees / (n - 1))
    intervals = (t_interval, bootstrap_interval)
    result: Result = "too few seeds"
    if n >= TWO_HUMP_SEEDS or not two_humps:
        if tost_p < LEVEL and bootstrap_interval[0] > -MARGIN and bootstrap_interval[1] < MARGIN:
            result = "equivalent"
        elif all(low > MARGIN for low, _ in intervals) or all(high < -MARGIN for _, high in intervals):
            result = "different"
    needed = max(needed, TWO_HUMP_SEEDS) if two_humps else needed
    means = float(counts_a.mean()), float(counts_b.mean())
    deviations = float(counts_a.std(ddof=1)), float(counts_b.std(ddof=1))
    test = difference, standard_error, degrees, *intervals, tost_p
    return Equivalence(n, means, deviations, *test, needed, result)


def _variance(counts: Counts, smallest: float) -> float:
    return max(float(counts.var(ddof=1)), smallest)


def _bootstrap(a: Counts, b: Counts, paired: bool) -> Interval:
    """Returns the percentile interval (Efron 1979): BCa, scipy's default, is undefined if all resamples are equal."""

    def difference(a: Counts, b: Counts, axis: int) -> Any:
        return a.mean(axis=axis) - b.mean(axis=axis)

    interval = stats.bootstrap(
        (a, b),
        difference,
        paired=paired,
        n_resamples=9999,
        confidence_level=1 - 2 * LEVEL,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def seeds_needed(deviation: float, degrees: float) -> int:
    """Returns the fewest seeds with a `tost_power` of at least POWER."""
    counts = range(2, 2**32)  # more than any deviation of counts up to 10,000 needs
    return counts[bisect_left(counts, POWER, key=lambda n: tost_power(deviation, degrees, n))]


def tost_power(deviation: float, degrees: float, n: int) -> float:
    """Returns the probability that n seeds show equivalence if the true difference is 0.

    `deviation` is the standard error times sqrt(n), `degrees` the degrees of freedom over n - 1. Let k be the margin
    over the true standard error, t the critical value, and u the estimated over the true standard error. The power is
    the mean of 2 Phi(k - t u) - 1 over the chi distribution of u, up to u = k / t (Phillips 1990).
    """
    freedom, k = degrees * (n - 1), MARGIN * math.sqrt(n) / deviation
    t = float(stats.t.ppf(1 - LEVEL, freedom))
    last = float(stats.chi2.cdf(freedom * (k / t) ** 2, freedom))

    def shown(quantile: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        u = np.sqrt(stats.chi2.ppf(quantile, freedom) / freedom)
        return np.asarray(2 * stats.norm.cdf(k - t * u) - 1)

    return float(integrate.fixed_quad(shown, 0, last, n=50)[0])
