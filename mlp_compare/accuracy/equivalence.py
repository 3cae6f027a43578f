"""Whether two frameworks' final accuracies are the same within a margin that is fixed before anything is measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats  # type: ignore[import-untyped]

MARGIN = 50
"""Correct of 10,000, half a percentage point: about two standard errors of an accuracy of 90 to 95 % on 10,000 examples
(30 to 22). With another test set of that size nobody could see a smaller difference between two single runs."""
LEVEL = 0.05
"""Of each one-sided test; intervals therefore hold 90 %."""
POWER = 0.8
"""With which the seeds that are said to be needed would show equivalence, were there no difference at all."""
TWO_HUMP_SEEDS = 59
"""The fewest seeds that allow a verdict where runs can lose a class. Such a run has about 1,000 fewer correct, so that
one more among twenty moves the mean by the margin; to see one at all of these 5 % takes ln 0.05 / ln 0.95 = 58.4 runs
with a probability of 95 %. With fewer the t-tests' and the bootstrap's assumption, that the runs at hand look like
those to come, fails: five runs without a lost class have a small deviation and prove nothing."""

_ROUNDING = 1 / 12
"""Variance of the rounding to whole numbers, below which no framework's is taken to be: five equal counts are no proof
that the sixth is equal too."""
_RESAMPLES = 9999

Counts = npt.NDArray[np.float64]
Interval = tuple[float, float]
Verdict = Literal["equivalent", "different", "too few seeds"]


@dataclass(frozen=True)
class Equivalence:
    """What N final counts of each side say about the difference of the means, a - b.

    `tost_p` is the larger p of the two one-sided tests (Schuirmann 1987) of a difference of MARGIN or more either way;
    `t_interval` is the 90 % interval that belongs to them, `bootstrap_interval` one without a distribution, for few
    seeds too narrow. `seeds_needed` is what the deviations at hand ask for; those of five seeds are themselves known to
    a factor of two, and it goes with their square.
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
    verdict: Verdict

    def __str__(self) -> str:
        if self.verdict == "equivalent":
            return "equivalent within the margin"
        if self.verdict == "different":
            return "different"
        if self.seeds_needed > self.n:
            return f"N too small to conclude: about {self.seeds_needed:,} seeds would be needed"
        return "N too small to conclude: the difference is near the margin"


def equivalence(a: Sequence[int], b: Sequence[int], *, paired: bool, two_humps: bool) -> Equivalence:
    """Compares the counts (N,) of both sides, N at least 2; where they are `paired`, a[i] and b[i] belong together.

    "equivalent" takes a `tost_p` below LEVEL and a bootstrap interval within the margin, "different" both intervals
    outside it; where there may be `two_humps`, either takes TWO_HUMP_SEEDS.
    """
    one, other = np.array(a, np.float64), np.array(b, np.float64)
    n, difference = len(one), float(one.mean() - other.mean())
    if paired:
        standard_error, degrees = math.sqrt(_variance(one - other, 2 * _ROUNDING) / n), n - 1.0
    else:
        standard_error, degrees = _welch(_variance(one, _ROUNDING), _variance(other, _ROUNDING), n)
    reach = float(stats.t.ppf(1 - LEVEL, degrees)) * standard_error
    t_interval = (difference - reach, difference + reach)
    bootstrap_interval = _bootstrap(one, other, paired)
    tost_p = float(stats.t.sf((MARGIN - abs(difference)) / standard_error, degrees))
    needed = seeds_needed(standard_error * math.sqrt(n), degrees / (n - 1))
    intervals = (t_interval, bootstrap_interval)
    verdict: Verdict = "too few seeds"
    if n >= TWO_HUMP_SEEDS or not two_humps:
        if tost_p < LEVEL and bootstrap_interval[0] > -MARGIN and bootstrap_interval[1] < MARGIN:
            verdict = "equivalent"
        elif all(low > MARGIN for low, _ in intervals) or all(high < -MARGIN for _, high in intervals):
            verdict = "different"
    return Equivalence(
        n=n,
        means=(float(one.mean()), float(other.mean())),
        deviations=(float(one.std(ddof=1)), float(other.std(ddof=1))),
        difference=difference,
        standard_error=standard_error,
        degrees_of_freedom=degrees,
        t_interval=t_interval,
        bootstrap_interval=bootstrap_interval,
        tost_p=tost_p,
        seeds_needed=max(needed, TWO_HUMP_SEEDS) if two_humps else needed,
        verdict=verdict,
    )


def _variance(counts: Counts, smallest: float) -> float:
    return max(float(counts.var(ddof=1)), smallest)


def _welch(one: float, other: float, n: int) -> tuple[float, float]:
    """Standard error and degrees of freedom of a difference of means of n each (Welch 1947)."""
    return math.sqrt((one + other) / n), (n - 1) * (one + other) ** 2 / (one**2 + other**2)


def _bootstrap(one: Counts, other: Counts, paired: bool) -> Interval:
    """By percentiles (Efron 1979): scipy's default, BCa, is undefined where all resamples are equal."""

    def difference(one: Counts, other: Counts, axis: int) -> Any:
        return one.mean(axis=axis) - other.mean(axis=axis)

    interval = stats.bootstrap(
        (one, other),
        difference,
        paired=paired,
        n_resamples=_RESAMPLES,
        confidence_level=1 - 2 * LEVEL,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def seeds_needed(deviation: float, degrees: float) -> int:
    """The fewest seeds with which `tost_power` is at least POWER."""
    few, enough = 1, 2
    while tost_power(deviation, degrees, enough) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if tost_power(deviation, degrees, middle) < POWER else (few, middle)
    return enough


def tost_power(deviation: float, degrees: float, n: int) -> float:
    """The probability that n seeds show equivalence where the true difference is 0.

    `deviation` is the standard error times sqrt(n), `degrees` the degrees of freedom over n - 1. With k the margin over
    the true standard error, t the critical value and u the estimated over the true standard error, it is the mean of
    2 Phi(k - t u) - 1 over the distribution of u, a chi, up to u = k / t (Phillips 1990).
    """
    freedom, k = degrees * (n - 1), MARGIN * math.sqrt(n) / deviation
    t = float(stats.t.ppf(1 - LEVEL, freedom))
    last = float(stats.chi2.cdf(freedom * (k / t) ** 2, freedom))

    def shown(quantile: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        u = np.sqrt(stats.chi2.ppf(quantile, freedom) / freedom)
        return np.asarray(2 * stats.norm.cdf(k - t * u) - 1)

    return float(integrate.fixed_quad(shown, 0, last, n=50)[0])
