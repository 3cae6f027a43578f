"""Entropy, cross-entropy and KL divergence in float64: the oracle that both frameworks are checked against.

Distributions lie along the last axis. 0 log 0 counts as 0, and a positive p against q = 0 as infinity.
"""

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Base = Literal["bits", "nats"]
Array = npt.NDArray[np.float64]

NATS_PER_UNIT: dict[Base, float] = {"bits": math.log(2), "nats": 1.0}


def entropy(p: npt.ArrayLike, base: Base = "bits", check: bool = True) -> Array:
    """Returns H(p) = -sum p log p of distributions (..., classes), as (...).

    `check=False` takes p as it is: the tutorial's third example sums to 1.002, and its printed 0.0313 needs this. A nan
    or a negative number then makes the result nan. Raises `ValueError` if `check` finds that p is not a distribution.
    """
    return cross_entropy(p, p, base, check)


def cross_entropy(p: npt.ArrayLike, q: npt.ArrayLike, base: Base = "bits", check: bool = True) -> Array:
    """Returns H(p, q) = -sum p log q of distributions (..., classes), as (...): H(p) + KL(p || q).

    Takes probabilities; `torch.nn.functional.cross_entropy` and the trainers' losses take logits instead.
    Raises `ValueError` if `check` finds that p or q is not a distribution.
    """
    p, q = _distributions(check, p=p, q=q)
    return np.asarray((0.0 - _xlogy(p, q).sum(axis=-1)) / NATS_PER_UNIT[base])  # 0 - 0 is 0, and -0 is not


def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike, base: Base = "bits", check: bool = True) -> Array:
    """Returns KL(p || q) = sum p log(p / q) of distributions (..., classes), as (...).

    `torch.nn.functional.kl_div(log q, p)` takes its arguments in the other order, and q as logarithms.
    Raises `ValueError` if `check` finds that p or q is not a distribution.
    """
    p, q = _distributions(check, p=p, q=q)
    return np.asarray((_xlogy(p, p) - _xlogy(p, q)).sum(axis=-1) / NATS_PER_UNIT[base])


def _xlogy(x: Array, y: Array) -> Array:
    """Returns x log y, and 0 if x is 0 and y is a number, like `scipy.special.xlogy`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & ~np.isnan(y), 0.0, x * np.log(y))


def check_distributions(**distributions: Array) -> None:
    """Raises `ValueError` if a value of (..., classes) is negative or nan, a sum is not 1, or classes differ in number.

    Sums may be off by float32 rounding: machine epsilon times the number of classes.
    """
    for name, p in distributions.items():
        if not (p >= 0).all():
            raise ValueError(f"{name} holds {p[~(p >= 0)][0]}, expected probabilities of at least 0")
        sums = np.atleast_1d(p.sum(axis=-1))
        wrong = sums[~(np.abs(sums - 1) <= np.finfo(np.float32).eps * p.shape[-1])]
        if wrong.size:
            raise ValueError(f"{name} sums to {wrong[0]:.12g}, expected 1")
    classes = {name: p.shape[-1] for name, p in distributions.items()}
    if len(set(classes.values())) > 1:  # NumPy would broadcast one class
        raise ValueError(f"expected the same number of classes, got {classes}")


def check_labels(labels: npt.NDArray[np.integer[Any]], classes: int) -> None:
    """Raises `ValueError` unless all `labels` are integers from 0 to classes-1."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are {labels.dtype}, expected integers")
    if (wrong := labels[(labels < 0) | (labels >= classes)]).size:
        raise ValueError(f"label {wrong[0]}, expected 0 to {classes - 1}")


def _distributions(check: bool, **values: npt.ArrayLike) -> tuple[Array, ...]:
    distributions = {name: np.asarray(p, np.float64) for name, p in values.items()}
    if check:
        check_distributions(**distributions)
    return tuple(distributions.values())
