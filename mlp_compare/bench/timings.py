"""Medians and ratios of interleaved timings, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95
FEWEST = 6
"""Rounds of which an interval of a median is made; with fewer, all that can be said is the range."""
_RESAMPLES = 4999


@dataclass(frozen=True)
class Ratio:
    """`of` over `to`, below 1 where `of` is faster: the median of the rounds' ratios, and from `low` to `high` its
    bootstrap interval or, with fewer rounds than an interval takes, all of them."""

    of: str
    to: str
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def is_interval(self) -> bool:
        return self.rounds >= FEWEST

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2 / self.ratio

    def __str__(self) -> str:
        what = "" if self.is_interval else f", all of {self.rounds} rounds"
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}{what})"


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str) -> Ratio:
    """From each round's seconds of both, which ran within one round of each other.

    The interval resamples rounds (percentiles; seeded), so that what a round has in common, a busy machine, cancels.
    """
    pairs = np.array(seconds[of]) / np.array(seconds[to])
    if not (pairs.size and np.isfinite(pairs).all()):
        raise ValueError(f"{of} and {to} have no times to compare")
    middle = float(np.median(pairs))
    if len(pairs) < FEWEST or np.ptp(pairs) == 0:
        return Ratio(of, to, middle, float(pairs.min()), float(pairs.max()), len(pairs))
    found = stats.bootstrap(
        (pairs,), np.median, confidence_level=CONFIDENCE, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Ratio(of, to, middle, float(found.low), float(found.high), len(pairs))


def break_even(ready: tuple[float, float], epoch: tuple[float, float]) -> str:
    """When the first of two is ahead of the second, by the seconds until each is ready and for each epoch."""
    later, gain = ready[0] - ready[1], epoch[1] - epoch[0]
    if later <= 0 <= gain:
        return "from the start"
    if gain <= 0 <= later:
        return "never"
    return f"from {later / gain:.0f} epochs on" if gain > 0 else f"for {later / gain:.0f} epochs"


def medians(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each number over a rung's processes; of lists, the median of the processes' medians."""
    return {
        name: float(np.median([np.median(sample[name]) for sample in samples]))
        for name in samples[0]
        if name.endswith(("_seconds", "_megabytes")) and all(np.size(sample.get(name, ())) for sample in samples)
    }
