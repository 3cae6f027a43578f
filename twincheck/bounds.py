"""How far two computations of one tensor may lie apart.

|a - b| <= max(absolute, relative * max|b|), the inner maximum over the tensor: sums cancel, so that a single element's
own size says nothing about its rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Bound:
    """`relative` is to the largest magnitude in the tensor. The reason is told beside it.

    One that `grows` allows for the rounding that a tensor takes over from those that it was computed from.
    """

    relative: float = 0.0
    absolute: float = 0.0
    reason: str = ""
    grows: bool = False

    def after(self, tensors: int) -> Self:
        """Returns the bound of a tensor that comes after so many that differ."""
        return replace(self, relative=self.relative * (1 + tensors / _DOUBLED_AFTER)) if self.grows else self


_DOUBLED_AFTER = 8
"""Tensors that differ, behind which a bound that grows has doubled: a block of a model with its gradients."""


Bounds = Callable[[str], Bound]
"""The bound of the tensor of that name."""


_TERMS, _TERMS_BELOW_FLOAT64 = 1000, 16
"""Default `terms` of `uniform`. Rounding leaves float32 little room: docs/porting.md has the measurements."""


def uniform(dtype: npt.DTypeLike, terms: int | None = None) -> Bounds:
    """One bound for whatever a model of one's own holds: 16 sqrt(terms) eps for a few layers of such sums.

    It grows with depth, by 1 + n / 8 behind n tensors that differ. By default `terms` is 1,000 in float64, and 16
    below it, where more would hide small mistakes.
    """
    format = np.finfo(dtype)
    if terms is None:
        terms = _TERMS if format.bits >= 64 else _TERMS_BELOW_FLOAT64
    reason = f"16 sqrt({terms}) eps, a few layers of sums, times 1 + n / {_DOUBLED_AFTER} behind n tensors that differ"
    bound = Bound(16 * terms**0.5 * float(format.eps), reason=reason, grows=True)
    return lambda name: bound
