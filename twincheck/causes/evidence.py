"""Causes that are recognised from the values of a place that does not agree.

Each function is given the JAX side's array, torch's in the same layout, and arrays that torch computed before, of any
layout. It says whether one simple operation turns the first into the second. Values in float32 suffice.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from twincheck.causes.agreement import MENDED, SMALLEST, Array, Recognise, common_factor, distance, is_near, mends
from twincheck.causes.earlier import other_residual, pooled, residual, token_types
from twincheck.causes.rearranged import (
    differs_at_border,
    flattened,
    permuted,
    reversed_axes,
    shifted,
    transposed,
)
from twincheck.causes.terms import AGREES, FUNCTIONS, RECENT, recognise_terms
from twincheck.causes.terms import CAUSES as TERM_CAUSES

NEAR_ONE = 1e-2
"""A factor of the size of an epsilon's effect may in truth be another one for each row."""


@dataclass(frozen=True)
class Evidence:
    """Causes, and what returns the name of one of them, or None, given `(ours, theirs, earlier)`."""

    causes: Collection[str]
    find: Callable[[Array, Array, Sequence[Array]], str | None]


def _is(cause: str, recognise: Recognise) -> Evidence:
    return Evidence((cause,), lambda ours, theirs, earlier: cause if recognise(ours, theirs, earlier) else None)


def recognise(
    ours: object,
    theirs: object,
    earlier: Sequence[object] = (),
    embedded: Sequence[object] = (),
    *,
    specific: bool = False,
) -> str | None:
    """Returns the name of the first cause that turns `ours`, JAX's array, into `theirs`, torch's, or None.

    Args:
        ours: what the JAX side computed.
        theirs: what torch computed, in the same layout.
        earlier: torch's arrays from before the place, such as its residual stream.
        embedded: torch's embeddings from before the place, or at it.
        specific: whether to leave out what other causes may look like.
    """
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape or a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu":
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    before = [np.asarray(e, np.float64) for e in earlier]
    if a.size == 1:
        return None if specific else _loss_reduction(a, b, before)
    if a.size < SMALLEST or (np.isfinite(a).all() and np.isfinite(b).all() and (np.ptp(b) == 0 or distance(a, b) == 0)):
        return None
    if a.ndim > 2:  # channels last, beside each array as it is
        before = [laid for e in before for laid in ((np.moveaxis(e, 1, -1), e) if e.ndim == a.ndim else (e,))]
    with np.errstate(all="ignore"):  # activations of large values, infinities on both sides
        for e in embedded:
            if cause := _embedding_scale(a, b, np.asarray(e, np.float64)):
                return cause
        return next(
            (cause for evidence in (SPECIFIC if specific else EVIDENCE) if (cause := evidence.find(a, b, before))), None
        )


def _loss_reduction(ours: Array, theirs: Array, earlier: Sequence[Array]) -> str | None:
    """Returns the cause if one of two losses is a sum over examples and the other a mean."""
    factor = float(theirs.ravel()[0]) / float(ours.ravel()[0]) if ours.any() else math.nan
    for count in {n for e in earlier[-RECENT:] for n in _counts(e.shape)}:
        if is_near(factor, count):
            return "loss-reduction-sum"
        if is_near(factor, 1 / count):
            return "loss-reduction"
    return None


def _embedding_scale(ours: Array, theirs: Array, embedded: Array) -> str | None:
    """Returns the cause if one side has the embedding times the square root of its size, and the other has it alone."""
    if embedded.shape != ours.shape:
        return None
    root = embedded.shape[-1] ** 0.5
    for more in (root - 1, 1 - 1 / root):  # the embedding itself may be of the one side or of the other
        if mends(ours + more * embedded, ours, theirs):
            return "embedding-scale"
        if mends(ours - more * embedded, ours, theirs):
            return "embedding-unscaled"
    return None


def _nan_rows(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """One side is NaN in whole rows, the other is finite; the rest agrees."""
    rows = np.isnan(ours) ^ np.isnan(theirs)
    kept = ~(np.isnan(ours) | np.isnan(theirs))
    whole = bool((rows.all(-1) == rows.any(-1)).all())
    return (
        bool(rows.any() and kept.any())
        and whole
        and distance(ours[kept], theirs[kept]) <= AGREES * np.abs(theirs[kept]).max()
    )


def _sign(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    return mends(-ours, ours, theirs)


def _scaled(accepts: Callable[[float, tuple[int, ...]], bool]) -> Recognise:
    """Recognises a constant factor theirs / ours that is accepted, given the shape."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        factor = common_factor(ours, theirs)
        return factor is not None and accepts(factor, ours.shape)

    return recognise


def _is_one_factor(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """One factor is between the arrays, and one for each row is not much nearer."""
    factor = common_factor(ours, theirs)
    if factor is None:
        return False
    by_row = distance(ours * _factors_of_rows(ours, theirs), theirs)
    return ours.ndim < 2 or by_row * MENDED > distance(ours * factor, theirs) or abs(factor - 1) > NEAR_ONE


def _either(factor: float, expected: float) -> bool:
    return expected != 1 and (is_near(factor, expected) or is_near(1 / factor, expected))


def _counts(shape: tuple[int, ...]) -> set[int]:
    """Returns the numbers of values that a mean over some axes is taken of."""
    return {math.prod(axes) for n in range(1, len(shape) + 1) for axes in itertools.combinations(shape, n)} - {0, 1}


def _rounded(kept_bits: int) -> Recognise:
    """Recognises values that one side rounded to `kept_bits` bits of mantissa."""

    def to_nearest(values: Array) -> Array:
        mantissa, exponent = np.frexp(values)
        return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, kept_bits)), exponent - kept_bits))

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            return False
        is_low, other_is_low = (bool((to_nearest(a) == a).all()) for a in (ours, theirs))
        return is_low and not other_is_low and float(np.mean(to_nearest(theirs) == ours)) > 0.9

    return recognise


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def _log_softmax(x: Array) -> Array:
    return np.asarray(x - logsumexp(x, axis=-1, keepdims=True))


ACTIVATIONS = (*FUNCTIONS.values(), _softmax, _log_softmax)


def _left_out(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Torch applies an activation to what the JAX side gives out as it is."""
    return any(mends(f(ours), ours, theirs) for f in ACTIVATIONS)


def _doubled(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The JAX side applies an activation to what torch gives out as it is."""
    return any(_applied(f, ours, theirs) for f in ACTIVATIONS)


def _applied(function: Callable[[Array], Array], ours: Array, theirs: Array) -> bool:
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return False
    expected = function(theirs)
    apart = distance(expected, ours)
    return apart <= AGREES * float(np.abs(ours).max()) and apart * MENDED <= distance(theirs, ours)


def _negative_slope(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Equal where positive, another factor where negative."""
    negative = theirs < 0
    if not (negative.any() and (~negative).any() and np.array_equal(negative, ours < 0)) or negative.sum() < SMALLEST:
        return False
    factor = common_factor(ours[negative], theirs[negative])
    return factor is not None and mends(np.where(negative, ours * factor, ours), ours, theirs)


def _one_block_offset(offset: float) -> Recognise:
    """Recognises one of four blocks of the last axis to which torch adds an offset, and JAX does not."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        if ours.shape[-1] % 4:
            return False
        added = offset * np.repeat(np.eye(4), ours.shape[-1] // 4, axis=1)
        return any(mends(ours + block, ours, theirs) for block in added)

    return recognise


def _factor_per_row(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Each row has a factor of its own, near 1: another epsilon, or another place for it."""
    if ours.shape[-1] < 4:
        return False
    factor = _factors_of_rows(ours, theirs)
    return bool((np.abs(factor - 1) < 0.5).all()) and mends(ours * factor, ours, theirs)


def _factors_of_rows(ours: Array, theirs: Array) -> Array:
    square = (ours * ours).sum(-1, keepdims=True)
    return np.asarray((ours * theirs).sum(-1, keepdims=True) / np.where(square > 0, square, 1))


def _offset(axes: Callable[[int], tuple[int, ...]]) -> Recognise:
    """Recognises a difference that is the same along some axes."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        along = axes(ours.ndim)
        if math.prod(ours.shape[axis] for axis in along) < 4:
            return False
        return mends(ours + (theirs - ours).mean(along, keepdims=True), ours, theirs)

    return recognise


def _same_for_all_examples(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The difference is the same for all examples, at each position another one."""
    if ours.ndim < 3 or len(ours) < 2 or all(np.array_equal(example, theirs[0]) for example in theirs[1:]):
        return False
    return mends(ours + (theirs - ours)[:1], ours, theirs)


def zero_row(ours: Array, theirs: Array, earlier: Sequence[Array] = ()) -> bool:
    """Tells whether one row of a matrix is zero in torch's array alone, and the others agree."""
    if ours.ndim != 2:
        return False
    differs = np.abs(ours - theirs).max(1) > AGREES * np.abs(theirs).max()
    return int(differs.sum()) == 1 and bool((theirs[differs] == 0).all())


SPECIFIC: Sequence[Evidence] = (
    _is("padding-index", zero_row),
    _is("pooling", pooled),
    Evidence(TERM_CAUSES, recognise_terms),
    _is("token-types", token_types),
    _is("residual-left-out", residual(1.0)),
    _is("residual-doubled", residual(-1.0)),
)
"""Evidence that no other cause shows: one row is zero, or both sides are made of the same earlier arrays."""

EVIDENCE: Sequence[Evidence] = (
    _is("masked-rows", _nan_rows),
    _is("low-precision", _rounded(8)),
    *SPECIFIC,
    _is("sign", _sign),
    _is(
        "std-ddof",
        _scaled(
            lambda f, shape: any(_either(f, (n / (n - 1)) ** 0.5) or _either(f, n / (n - 1)) for n in _counts(shape))
        ),
    ),
    _is("constant-factor", _is_one_factor),
    _is("activation-left-out", _left_out),
    _is("activation-doubled", _doubled),
    _is("residual-norm", other_residual),
    _is("leaky-slope", _negative_slope),
    _is("forget-gate-bias", _one_block_offset(-1.0)),
    _is("forget-gate-bias-left-out", _one_block_offset(1.0)),
    _is("transposed", transposed),
    _is("channels-reversed", reversed_axes(lambda ndim: (-1,))),
    _is("axis-reversed", reversed_axes(lambda ndim: range(ndim - 1))),
    _is("nhwc-flatten", flattened),
    _is("channels-permuted", permuted),
    _is("shifted", shifted),
    _is("padding-border", differs_at_border),
    _is("constant-offset", _offset(lambda ndim: tuple(range(ndim)))),
    _is("bias-left-out", _offset(lambda ndim: tuple(range(ndim - 1)))),
    _is("bias-left-out", _offset(lambda ndim: tuple(range(ndim - 2)) if ndim > 3 else ())),  # with heads apart
    _is("positions-left-out", _same_for_all_examples),
    _is("norm-epsilon-place", _factor_per_row),
)
"""From specific to general."""

CAUSES = {"loss-reduction", "loss-reduction-sum", "embedding-scale", "embedding-unscaled"}.union(
    *(evidence.causes for evidence in EVIDENCE)
)
"""All causes that values can show."""
