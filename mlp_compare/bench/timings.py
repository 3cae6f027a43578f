"""Medians and ratios of interleaved timings, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST = 6
"""Fewest rounds for an interval of a median; with fewer, only the range is given."""


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of the seconds of one variant over those of another, below 1 if the first is faster.

    `low` and `high` are its 95 % bootstrap interval or, with fewer than FEWEST rounds, the range of all rounds.
    """

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
        note = "" if self.is_interval else f", all of {self.rounds} rounds"
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f}{note})"


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str) -> Ratio:
    """Returns the ratio of two variants from their seconds in each round.

    The interval is a seeded percentile bootstrap over rounds, so that the load of the machine in a round cancels.
    """
    pairs = np.array(seconds[of]) / np.array(seconds[to])
    if not (pairs.size and np.isfinite(pairs).all()):
        raise ValueError(f"{of} and {to} have no times to compare")
    middle = float(np.median(pairs))
    if len(pairs) < FEWEST or np.ptp(pairs) == 0:
        return Ratio(middle, float(pairs.min()), float(pairs.max()), len(pairs))
    interval = stats.bootstrap(
        (pairs,), np.median, confidence_level=0.95, n_resamples=4999, method="percentile", rng=0
    ).confidence_interval
    return Ratio(middle, float(interval.low), float(interval.high), len(pairs))


def break_even(ready: Sequence[float], epoch: Sequence[float]) -> str:
    """Returns in words when the first of two is ahead, from the seconds until each is ready and per epoch."""
    later, gain = ready[0] - ready[1], epoch[1] - epoch[0]
    if later <= 0 <= gain:
        return "from the start"
    if gain <= 0 <= later:
        return "never"
    return f"from {later / gain:.0f} epochs on" if gain > 0 else f"for {later / gain:.0f} epochs"


def medians(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the median of each number over a variant's processes; for lists, the median of their medians."""
    return {
        name: float(np.median([np.median(sample[name]) for sample in samples]))
        for name in samples[0]
        if name.endswith(("_seconds", "_megabytes")) and all(np.size(sample.get(name, ())) for sample in samples)
    }
