"""Medians and ratios of interleaved timings, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95
_RESAMPLES = 4999


@dataclass(frozen=True)
class Ratio:
    """`of` over `to`: the median of the rounds' ratios with its bootstrap interval; below 1, `of` is faster."""

    of: str
    to: str
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2 / self.ratio

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio(seconds: Mapping[str, Sequence[float]], of: str, to: str) -> Ratio:
    """From each round's seconds of both, which ran within one round of each other.

    The interval resamples rounds (percentiles; seeded), so that what a round has in common, a busy machine, cancels.
    """
    pairs = np.array(seconds[of]) / np.array(seconds[to])
    middle = float(np.median(pairs))
    if len(pairs) < 2 or np.ptp(pairs) == 0:
        return Ratio(of, to, middle, middle, middle, len(pairs))
    found = stats.bootstrap(
        (pairs,), np.median, confidence_level=CONFIDENCE, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return Ratio(of, to, middle, float(found.low), float(found.high), len(pairs))


def break_even(ready: tuple[float, float], epoch: tuple[float, float]) -> float | None:
    """Epochs after which the first of two, which may be ready later, has overtaken the second; None for never."""
    later, gain = ready[0] - ready[1], epoch[1] - epoch[0]
    if later <= 0:
        return 0.0 if gain >= 0 else None
    return later / gain if gain > 0 else None


def medians(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each number over a rung's processes; of lists, the median of the processes' medians."""
    return {
        name: float(np.median([np.median(sample[name]) for sample in samples]))
        for name, value in samples[0].items()
        if name.endswith(("_seconds", "_megabytes")) and np.size(value)
    }
