"""How far two computations of one thing may lie apart, and why: the one table that the parity check judges by.

|a - b| <= max(absolute, relative * max|b|), the inner maximum over the tensor: sums cancel, so that a single element's
own size says nothing about its rounding.
"""

from collections.abc import Callable, Mapping
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

Table = Mapping[str, "Bound"]
"""Bounds by `kind`."""
Bounds = Callable[[str], Bound]
"""The bound of the tensor of that name."""

EXACT = Bound(reason="bytes of the data set, whole numbers and counts: nothing rounds")
"""Nothing may differ."""

DRIFT_FLOAT64 = 1e-13
"""Of losses, parameters and momentum of float64 runs, relative to the tensor or to 1, whichever is larger.

A prototype's parameters stayed within 7e-16 over 3,000 steps. Nothing amplifies: the loss falls and the step is small.
"""


def kind(name: str) -> str:
    """The row of the table that a tensor of an MLP's trace belongs to."""
    if name.startswith("batch."):
        return "batch"
    if name.startswith("epochs."):
        return f"epochs.{kind(name.removeprefix('epochs.'))}"
    if name.startswith("evaluation.") or name in ("inputs", "logits", "loss", "logits.grad"):
        return name
    last = name.rpartition(".")[2]
    return {"grad": "gradients", "weight": "parameters", "bias": "parameters"}.get(last, f"{last}s")


def table(dtype: str, terms: int, steps: float = 1) -> Table:
    """The bounds by `kind`, for products of at most `terms` terms, `steps` after both sides had the same parameters.

    A sum of n rounded terms errs by about sqrt(n) eps of its terms' size (Higham and Mary 2019, 10.1137/18M1226312);
    4 stands for the maximum over 10^5 elements of what is by nature random. A difference of parameters does a random
    walk, which grows as the square root of the steps, in float32; in float64 `DRIFT_FLOAT64` bounds it. XLA takes
    subnormal numbers for 0.
    """
    eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
    walk = max(steps, 1) ** 0.5
    drifted = tiny + 8 * eps * (walk - 1)  # what parameters of size 1 are apart, through a curvature of 1
    product = 4 * terms**0.5 * eps * walk
    each = f"4 sqrt({terms}) eps: each number is a sum of up to {terms} products"
    log = "as the logits, from whose differences it is computed, taken as of size 1 where the loss is smaller"
    if dtype == "float64":
        drift = loss = momentum = Bound(
            DRIFT_FLOAT64, DRIFT_FLOAT64, "rounding does not add up over a run; a prototype stayed within 7e-16"
        )
    else:
        rounds = "8 eps sqrt(steps), a rounding of each update on each side, and of the last update as of its gradient"
        drift = Bound(8 * eps * walk, tiny, rounds)
        momentum = Bound(product, drifted, "as the gradients, of which it is a sum")
        loss = Bound(product, product, log)
    table = {
        "batch": EXACT,
        "inputs": Bound(4 * eps, tiny, "4 eps: a division, a difference and a division, each side in its own way"),
        "pre_activations": Bound(product, tiny, each),
        "activations": Bound(product, tiny, "as the pre-activations, whose differences pass with slope 1 at most"),
        "logits": Bound(product, tiny, "as the pre-activations"),
        "loss": loss,
        "logits.grad": Bound(product, tiny, "as the logits, whose error softmax passes on; at least `gradient_floors`"),
        "gradients": Bound(product, drifted, f"{each}; at least `gradient_floors`"),
        "momentums": momentum,
        "parameters": drift,
        "evaluation.labels": EXACT,
        "evaluation.losses": Bound(product, product, log),
        "evaluation.predictions": EXACT,
        "evaluation.correct": EXACT,
        "evaluation.loss": Bound(product, product, log),
    }
    return table | {f"epochs.{row}": table[row] for row in ("loss", "momentums", "parameters")}


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
