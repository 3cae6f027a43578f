"""Bounds on the difference of two computations of one tensor.

|a - b| <= max(absolute, relative * max|b|), with the inner maximum over the whole tensor. The size of a single element
says nothing about its rounding, because sums cancel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt


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


ALLOWED_EPS = 16
"""A tensor may differ by this many eps of its largest value: sums in another order differ by a few.

Each tensor is computed from the other model's own tensors, so no rounding is inherited.
"""

ALLOWED_LOSS = 16
"""A tensor may differ by this many times what its own computation loses between float64 and float32, on either side.

So code that loses digits by cancellation may lose them in other places on the other side.
"""

ROUNDING_FLOOR = 1e-12
"""A gradient below this part of the largest one is rounding, as that of a key's bias, which is 0 by symmetry.

Float64's rounding of a sum is some 1e-15 of its terms, and a few layers of sums are a thousand times that at most.
"""

EPS = {name: float(np.finfo(name).eps) for name in ("float32", "float64")}


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
