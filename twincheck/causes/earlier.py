"""Recognises sums and pools of arrays that torch computed before."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from twincheck.causes.agreement import Array, Recognise, distance, mends
from twincheck.causes.terms import AGREES, FUNCTIONS, RECENT, SAMPLE


def _same_shape(ours: Array, earlier: Sequence[Array]) -> list[Array]:
    return [e for e in earlier if e.shape == ours.shape and np.isfinite(e).all()]


def token_types(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """An earlier array that is the same at all positions is missing from a sum."""
    rows = [
        e
        for e in _same_shape(ours, earlier)
        if e.ndim > 1 and np.array_equal(e, np.broadcast_to(e[..., :1, :], e.shape))
    ]
    return any(mends(ours + e, ours, theirs) for e in rows)


def residual(sign: float) -> Recognise:
    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        return any(mends(ours + sign * e, ours, theirs) for e in _same_shape(ours, earlier))

    return recognise


def other_residual(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """A sum has another of the earlier arrays as a term."""
    terms = _same_shape(ours, earlier)
    if not terms or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return False
    some = np.linspace(0, ours.size - 1, min(ours.size, SAMPLE)).astype(int)  # the sums of all pairs would take minutes
    missing = (theirs - ours).ravel()[some]
    samples = np.stack([e.ravel()[some] for e in terms])
    close = AGREES * float(np.abs(theirs).max())
    for e, sample in zip(terms, samples, strict=True):
        for i in np.flatnonzero(np.abs(sample - samples - missing).max(1) <= close):
            if mends(ours + e - terms[i], ours, theirs):
                return True
    return False


def pooled(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Both sides are drawn from one sequence or image: a position, the mean, the sum or the largest value."""
    for whole in _wholes([e for e in earlier if e.ndim > ours.ndim and len(e) == len(ours) and np.isfinite(e).all()]):
        for rows in _rows(whole, ours.shape):
            choices = [rows[:, 0], rows[:, -1], rows.mean(1), rows.max(1), rows[:, 1:].mean(1), rows.sum(1)]
            ours_is, theirs_is = (
                [i for i, choice in enumerate(choices) if distance(choice, a) <= AGREES * np.abs(a).max()]
                for a in (ours, theirs)
            )
            if ours_is and theirs_is and not set(ours_is) & set(theirs_is):
                return True
    return False


def _wholes(earlier: Sequence[Array]) -> Iterator[Array]:
    """Yields arrays that may be pooled: earlier ones, and sums of two recent ones, as they are and activated."""
    yield from earlier
    recent = earlier[-RECENT:]
    sums = (a + b for a, b in itertools.combinations(recent, 2) if a.shape == b.shape)
    for array in (*recent, *sums):
        yield array
        for name in ("relu", "gelu", "silu"):
            yield FUNCTIONS[name](array)


def _rows(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yields an array (batch, ..., features) as (batch, rows, features), channels last and first."""
    for moved in (array, np.moveaxis(array, 1, -1)) if array.ndim > 2 else (array,):
        rest = moved.ndim - len(shape) + 1
        if moved.shape[rest:] == shape[1:] and math.prod(moved.shape[1:rest]) > 1:
            yield moved.reshape(shape[0], -1, *shape[1:])
