"""Bounds on the difference of two computations of one tensor.

|a - b| <= max(absolute, relative * max|b|), with the inner maximum over the whole tensor. The size of a single element
says nothing about its rounding, because sums cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

ALLOWED_LOSS = 16
"""A place may differ by this many times what its computation loses between float64 and float32, on either side.

Both sides lose, in another order of sums. In the ports of docs/ports.md that agree, 0.35 of the bound was the most.
"""

ALLOWED_EPS = 16
"""And by this many eps of the tensor's largest value: a loss that is zero by luck, as of a sum of a few terms."""

EPS = {name: float(np.finfo(name).eps) for name in ("float32", "float64")}

DECISIVE = 1000
"""A difference of so many times what is allowed in float32 is no rounding: not even where sums cancel three digits."""

DOUBTFUL = 0.01
"""A forward place may differ by this part of its largest value only if a model computes in few bits, or at random."""

ROUNDED_DEEP = 1e-3
"""A JAX model run by itself in float32 may be off by this part of the largest value; if by more, float64 decides."""

NEARLY_VANISHES = 30
"""A mismatch that becomes this many times smaller was one of the line between a module and the code behind it.

Above the 16 of a bound, so that what is left is another mismatch and not the same within what bounds allow.
"""

NO_GRADIENT = 1e-10
"""Part of the largest gradient below which a gradient is the rounding of zero, in float64; eps is 2e-16."""

ROUNDING_FLOOR = 1e-12
"""A gradient below this part of the largest one is rounding, as that of a key's bias, which is 0 by symmetry.

Float64's rounding of a sum is some 1e-15 of its terms, and a few layers of sums are a thousand times that at most.
"""

RECENT = 8
"""Arrays before a place that may have been added to what a residual carries: about one block of a model."""

CAN_BE_ROUNDING = 10
"""Multiple of the bound below which rounding is still a possible cause; a mistake can be as small."""


@dataclass(frozen=True)
class Bound:
    """Largest difference allowed for one tensor. `relative` is to the largest magnitude in the tensor.

    A bound that `grows` also allows for rounding inherited from earlier tensors. `reason` is shown to the user.
    """

    relative: float = 0.0
    absolute: float = 0.0
    reason: str = ""
    grows: bool = False

    def after(self, tensors: int) -> Self:
        """Returns the bound for a tensor that follows `tensors` tensors which differ."""
        return replace(self, relative=self.relative * (1 + tensors / _DOUBLED_AFTER)) if self.grows else self


_DOUBLED_AFTER = 8
"""Number of differing tensors after which a growing bound has doubled: about one block of a model, with gradients."""


Bounds = Callable[[str], Bound]
"""Maps the name of a tensor to its bound."""


_TERMS, _TERMS_BELOW_FLOAT64 = 1000, 16
"""Default `terms` of `uniform`; docs/porting.md has the measurements behind them."""


def uniform(dtype: npt.DTypeLike, terms: int | None = None) -> Bounds:
    """Returns one bound for every tensor of a model: 16 sqrt(terms) eps, for sums of up to `terms` products.

    The bound grows with depth: it is multiplied by 1 + n / 8 after n tensors that differ. The default of `terms` is
    1,000 in float64, and 16 in smaller types, because a wider bound would hide small mistakes there.
    """
    info = np.finfo(dtype)
    if terms is None:
        terms = _TERMS if info.bits >= 64 else _TERMS_BELOW_FLOAT64
    reason = f"16 sqrt({terms}) eps, a few layers of sums, times 1 + n / {_DOUBLED_AFTER} after n tensors that differ"
    bound = Bound(16 * terms**0.5 * float(info.eps), reason=reason, grows=True)
    return lambda name: bound
