"""Recognises code that computes one of torch's usual terms otherwise, from arrays that torch computed before.

With a and b two such arrays and f an activation, torch's terms are f(a), f(a) * b as in gated layers, and f(a + b) as
at the end of a residual block. What the JAX side computes of the same a and b tells what was mistaken.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

AGREES = 2e-5
"""Arrays agree if they differ by less than this part of their largest value.

That is what float32 loses in a few hundred sums, and far less than any difference that has a name.
"""
SAMPLE = 64
"""Values that are looked at before whole arrays are."""
RECENT = 8
"""Arrays before the place that may be a."""


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


FUNCTIONS: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.asarray(erf(x / math.sqrt(2)))),
    "gelu-tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu-quick": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "leaky-relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard-swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard-sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
}
"""Activations of single values, by torch's names in the table of causes."""

_SPECIAL = {"gelu-tanh": "gelu-erf", "gelu-quick": "gelu-quick"}


def activation_cause(theirs: str, ours: str) -> str:
    """Returns the cause if torch applies one activation and JAX another: the nearest one of the table."""
    if (theirs, ours) == ("gelu", "gelu-tanh"):
        return "gelu-tanh"
    return _SPECIAL.get(theirs, f"activation-{theirs}")


Term = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class _Terms:
    """A term of torch's, and those that JAX may have in its place with the causes that they then are."""

    theirs: Term
    ours: Sequence[tuple[str, Term]]


def _with_function(name: str, f: Function) -> Iterator[_Terms]:
    others = [(activation_cause(name, other), g) for other, g in FUNCTIONS.items() if other != name]
    others.append(("activation-left-out", lambda x: x))
    yield _Terms(
        lambda a, b: f(a) + 0 * b,
        [*((cause, _of_first(g)) for cause, g in others), ("activation-doubled", lambda a, b: f(f(a)))],
    )
    yield _Terms(
        lambda a, b: f(a) * b,
        [*((cause, _gated(g)) for cause, g in others), ("gate-swapped", lambda a, b: f(b) * a)],
    )
    yield _Terms(
        lambda a, b: f(a + b),
        [
            ("residual-left-out", lambda a, b: f(a)),
            ("residual-left-out", lambda a, b: f(b)),
            ("residual-order", lambda a, b: f(a) + b),
            ("residual-order", lambda a, b: a + f(b)),
            ("activation-doubled", lambda a, b: f(f(a) + b)),
            ("activation-doubled", lambda a, b: f(a + f(b))),
            *((cause, _of_sum(g)) for cause, g in others),
        ],
    )


def _of_first(g: Function) -> Term:
    return lambda a, b: g(a)


def _gated(g: Function) -> Term:
    return lambda a, b: g(a) * b


def _of_sum(g: Function) -> Term:
    return lambda a, b: g(a + b)


TERMS = [terms for name, f in FUNCTIONS.items() for terms in _with_function(name, f)]

CAUSES = {cause for terms in TERMS for cause, _ in terms.ours}
"""The causes that can be recognised."""


def recognise_terms(ours: Array, theirs: Array, earlier: Sequence[Array]) -> str | None:
    """Returns the cause if both sides compute terms of the same arrays among `earlier`, None if not."""
    some = np.linspace(0, ours.size - 1, min(ours.size, SAMPLE)).astype(int)
    fitting = [e for e in earlier if e.shape == ours.shape and np.isfinite(e).all()]
    arrays = list({e.ravel()[some].tobytes(): e for e in fitting}.values())
    if not arrays or not (np.isfinite(ours).all() and np.isfinite(theirs).all()) or _near(ours, theirs):
        return None
    samples = np.stack([e.ravel()[some] for e in arrays])
    for i in range(len(arrays) - 1, max(len(arrays) - 1 - RECENT, -1), -1):
        for terms in TERMS:
            for j in np.flatnonzero(_near_rows(terms.theirs(samples[i], samples), theirs, some)):
                for cause, term in terms.ours:
                    if (
                        _near_rows(term(samples[i], samples[j])[None], ours, some).all()
                        and _near(term(arrays[i], arrays[j]), ours)
                        and _near(terms.theirs(arrays[i], arrays[j]), theirs)
                    ):
                        return cause
    return None


def _near(a: Array, b: Array) -> bool:
    return float(np.abs(a - b).max()) <= AGREES * float(np.abs(b).max())


def _near_rows(rows: Array, array: Array, some: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Tells for each row of samples whether it agrees with the array."""
    return np.asarray(np.abs(rows - array.ravel()[some]).max(-1) <= AGREES * float(np.abs(array).max()))
