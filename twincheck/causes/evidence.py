"""Causes that are recognised from the values of a place that does not agree.

Each function is given the JAX side's array, torch's in the same layout, and arrays that torch computed before, of any
layout. It says whether one simple operation turns the first into the second. Values in float32 suffice.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, logsumexp

Array = NDArray[np.float64]
Recognise = Callable[[Array, Array, Sequence[Array]], bool]

AGREES = 2e-5
"""Of the largest value: float32 through a few hundred sums, and far below any difference that has a name."""
MENDED = 30
"""An explanation must make the distance this many times smaller."""
SMALLEST = 8
"""Arrays with fewer values agree with anything."""
SAMPLE = 64
"""Values that are looked at before whole arrays are."""


@dataclass(frozen=True)
class Evidence:
    """How a cause is recognised from `(ours, theirs, earlier)`."""

    cause: str
    recognise: Recognise


def recognise(ours: object, theirs: object, earlier: Sequence[object] = ()) -> str | None:
    """Returns the name of the first cause that turns `ours`, JAX's array, into `theirs`, torch's, or None.

    Args:
        ours: what the JAX side computed.
        theirs: what torch computed, in the same layout.
        earlier: torch's arrays from before the place, such as its residual stream.
    """
    a, b = np.asarray(ours), np.asarray(theirs)
    if a.shape != b.shape or a.dtype.kind not in "fiu" or b.dtype.kind not in "fiu" or a.size < SMALLEST:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    before = [np.asarray(e, np.float64) for e in earlier]
    if np.isfinite(a).all() and np.isfinite(b).all() and (np.ptp(b) == 0 or _distance(a, b) == 0):
        return None
    with np.errstate(all="ignore"):  # activations of large values, infinities on both sides
        return next((evidence.cause for evidence in EVIDENCE if evidence.recognise(a, b, before)), None)


def _distance(a: Array, b: Array) -> float:
    return float(np.max(np.abs(a - b), initial=0.0))


def _mends(changed: Array, ours: Array, theirs: Array) -> bool:
    """Says whether `changed` agrees with `theirs`, and is much nearer to it than `ours`."""
    if not (np.isfinite(changed).all() and np.isfinite(theirs).all() and np.isfinite(ours).all()):
        return False
    distance = _distance(changed, theirs)
    return distance <= AGREES * float(np.abs(theirs).max()) and distance * MENDED <= _distance(ours, theirs)


def _factor(ours: Array, theirs: Array) -> float | None:
    """Returns the factor between the arrays, None if it is not the same everywhere."""
    square = float((ours * ours).sum())
    factor = float((ours * theirs).sum()) / square if square > 0 and math.isfinite(square) else math.nan
    return factor if math.isfinite(factor) and _mends(ours * factor, ours, theirs) else None


def _is_near(a: float, b: float, relative: float = 1e-5) -> bool:
    return abs(a - b) <= relative * abs(b)


def _nan_rows(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """One side is NaN in whole rows, the other is finite; the rest agrees."""
    rows = np.isnan(ours) ^ np.isnan(theirs)
    kept = ~(np.isnan(ours) | np.isnan(theirs))
    whole = bool((rows.all(-1) == rows.any(-1)).all())
    return (
        bool(rows.any() and kept.any())
        and whole
        and _distance(ours[kept], theirs[kept]) <= AGREES * np.abs(theirs[kept]).max()
    )


def _sign(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    return _mends(-ours, ours, theirs)


def _scaled(accepts: Callable[[float, tuple[int, ...]], bool]) -> Recognise:
    """Recognises a constant factor theirs / ours that is accepted, given the shape."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        factor = _factor(ours, theirs)
        return factor is not None and accepts(factor, ours.shape)

    return recognise


def _either(factor: float, expected: float) -> bool:
    return expected != 1 and (_is_near(factor, expected) or _is_near(1 / factor, expected))


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


def _erf(x: Array) -> Array:
    return np.asarray(erf(x))


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_quick": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "softmax": _softmax,
    "log_softmax": lambda x: x - logsumexp(x, axis=-1, keepdims=True),
}
"""In the order in which they are tried."""


TABLE_NAMES = {"gelu_tanh": "gelu-erf", "gelu_quick": "gelu-quick"}
"""How the table calls an activation of torch's, where that is not `activation-` and its name here."""


def _activation(name: str) -> Recognise:
    """Recognises that torch applies this activation, and JAX another one, to a tensor computed shortly before."""
    function = ACTIVATIONS[name]

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        for before in [] if _near(ours, theirs) else _same_shape(ours, earlier)[-_RECENT:]:
            if _near(function(before), theirs) and any(
                _near(other(before), ours) for key, other in ACTIVATIONS.items() if key != name
            ):
                return True
        return False

    return recognise


_RECENT = 4
"""Arrays of one shape before the place to which an activation may have been applied."""


def _near(a: Array, b: Array) -> bool:
    return a.shape == b.shape and _distance(a, b) <= AGREES * float(np.abs(b).max())


def _left_out(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Torch applies an activation to what the JAX side gives out as it is."""
    return any(_mends(f(ours), ours, theirs) for f in ACTIVATIONS.values())


def _doubled(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The JAX side applies an activation to what torch gives out as it is."""
    return any(_applied(f, ours, theirs) for f in ACTIVATIONS.values())


def _applied(function: Callable[[Array], Array], ours: Array, theirs: Array) -> bool:
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return False
    expected = function(theirs)
    apart = _distance(expected, ours)
    return apart <= AGREES * float(np.abs(ours).max()) and apart * MENDED <= _distance(theirs, ours)


def _negative_slope(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Equal where positive, another factor where negative."""
    negative = theirs < 0
    if not (negative.any() and (~negative).any() and np.array_equal(negative, ours < 0)) or negative.sum() < SMALLEST:
        return False
    factor = _factor(ours[negative], theirs[negative])
    return factor is not None and _mends(np.where(negative, ours * factor, ours), ours, theirs)


def _gate_blocks(count: int) -> Recognise:
    """Recognises blocks of the last axis in another order."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        if ours.shape[-1] % count or ours.shape[-1] < 2 * count:
            return False
        blocks = np.split(ours, count, axis=-1)
        orders = list(itertools.permutations(range(count)))[1:]
        return any(_mends(np.concatenate([blocks[i] for i in order], axis=-1), ours, theirs) for order in orders)

    return recognise


def _one_block_offset(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """One of four blocks of the last axis is 1 apart."""
    if ours.shape[-1] % 4:
        return False
    size = ours.shape[-1] // 4
    for block, sign in itertools.product(range(4), (1.0, -1.0)):
        changed = ours.copy()
        changed[..., block * size : (block + 1) * size] += sign
        if _mends(changed, ours, theirs):
            return True
    return False


def _factorizations(size: int) -> Iterator[tuple[int, int]]:
    return ((n, size // n) for n in range(2, size // 2 + 1) if size % n == 0)


def _flattened(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The last axis, seen as a matrix, is transposed, as by flattening channels last against channels first."""
    last = ours.shape[-1]
    return any(
        _mends(ours.reshape(*ours.shape[:-1], n, m).swapaxes(-1, -2).reshape(ours.shape), ours, theirs)
        for n, m in _factorizations(last)
    )


def _reversed(axes: Callable[[int], Sequence[int]]) -> Recognise:
    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        return any(_mends(np.flip(ours, axis), ours, theirs) for axis in axes(ours.ndim) if ours.shape[axis] > 1)

    return recognise


def _transposed(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Two axes of one length are exchanged."""
    return any(
        _mends(ours.swapaxes(i, j), ours, theirs)
        for i, j in itertools.combinations(range(ours.ndim), 2)
        if ours.shape[i] == ours.shape[j]
    )


def _shifted(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The values lie one or two places further along an axis other than the last."""
    for axis, by in itertools.product(range(max(ours.ndim - 1, 0)), (1, 2)):
        if ours.shape[axis] < by + 3:
            continue
        a, b = np.moveaxis(ours, axis, 0), np.moveaxis(theirs, axis, 0)
        if any(_agrees_shifted(x, y, by) for x, y in ((a, b), (b, a))):
            return True
    return False


def _agrees_shifted(a: Array, b: Array, by: int) -> bool:
    return _mends(a[by:], a[:-by], b[:-by])


def _border(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Images of shape (batch, height, width, channels) that differ only at their borders."""
    if ours.ndim != 4 or min(ours.shape[1:3]) < 4:
        return False
    changed = ours.copy()
    changed[:, [0, -1]] = theirs[:, [0, -1]]
    changed[:, :, [0, -1]] = theirs[:, :, [0, -1]]
    return _mends(changed, ours, theirs)


def _permuted(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The last axis is in another order; at least four rows make sure of it."""
    a, b = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
    if len(a) < 4 or a.shape[-1] < 3:
        return False
    if not np.allclose(np.sort(a[0]), np.sort(b[0]), rtol=0, atol=AGREES * np.abs(b[0]).max()):
        return False
    order = np.empty(a.shape[-1], int)
    order[np.argsort(b[0], kind="stable")] = np.argsort(a[0], kind="stable")
    return _mends(a[:, order], a, b)


def _factor_per_row(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Each row has a factor of its own, near 1: another epsilon, or another place for it."""
    if ours.shape[-1] < 4:
        return False
    square = (ours * ours).sum(-1, keepdims=True)
    factor = (ours * theirs).sum(-1, keepdims=True) / np.where(square > 0, square, 1)
    return bool((np.abs(factor - 1) < 0.5).all()) and _mends(ours * factor, ours, theirs)


def _offset(axes: Callable[[int], tuple[int, ...]]) -> Recognise:
    """Recognises a difference that is the same along some axes."""

    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        along = axes(ours.ndim)
        if math.prod(ours.shape[axis] for axis in along) < 4:
            return False
        return _mends(ours + (theirs - ours).mean(along, keepdims=True), ours, theirs)

    return recognise


def _same_shape(ours: Array, earlier: Sequence[Array]) -> list[Array]:
    return [e for e in earlier if e.shape == ours.shape and np.isfinite(e).all()]


def _token_types(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """An earlier array that is the same at all positions is missing from a sum."""
    rows = [
        e
        for e in _same_shape(ours, earlier)
        if e.ndim > 1 and np.array_equal(e, np.broadcast_to(e[..., :1, :], e.shape))
    ]
    return any(_mends(ours + e, ours, theirs) for e in rows)


def _residual(sign: float) -> Recognise:
    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        return any(_mends(ours + sign * e, ours, theirs) for e in _same_shape(ours, earlier))

    return recognise


def _other_residual(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
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
            if _mends(ours + e - terms[i], ours, theirs):
                return True
    return False


def _pooled(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Both sides are drawn from one earlier sequence (batch, length, features): first, last, mean or largest."""
    for e in earlier:
        if e.ndim != ours.ndim + 1 or e.shape[1] < 2 or (e.shape[0], *e.shape[2:]) != ours.shape:
            continue
        choices = [e[:, 0], e[:, -1], e.mean(1), e.max(1), e[:, 1:].mean(1), e.sum(1)]
        ours_is, theirs_is = (
            [i for i, c in enumerate(choices) if _distance(c, a) <= AGREES * np.abs(a).max()] for a in (ours, theirs)
        )
        if ours_is and theirs_is and not set(ours_is) & set(theirs_is):
            return True
    return False


def _zero_row(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """One row of a matrix is zero in torch's array alone, the others agree."""
    if ours.ndim != 2:
        return False
    differs = np.abs(ours - theirs).max(1) > AGREES * np.abs(theirs).max()
    return int(differs.sum()) == 1 and bool((theirs[differs] == 0).all())


EVIDENCE: Sequence[Evidence] = (
    Evidence("masked-rows", _nan_rows),
    Evidence("low-precision", _rounded(8)),
    Evidence("padding-index", _zero_row),
    Evidence("pooling", _pooled),
    Evidence("token-types", _token_types),
    Evidence("residual-left-out", _residual(1.0)),
    Evidence("residual-doubled", _residual(-1.0)),
    Evidence("sign", _sign),
    Evidence("embedding-scale", _scaled(lambda factor, shape: _either(factor, shape[-1] ** 0.5))),
    Evidence(
        "std-ddof",
        _scaled(
            lambda f, shape: any(_either(f, (n / (n - 1)) ** 0.5) or _either(f, n / (n - 1)) for n in _counts(shape))
        ),
    ),
    Evidence("loss-reduction", _scaled(lambda f, shape: any(_either(f, n) for n in _counts(shape)))),
    Evidence("constant-factor", _scaled(lambda factor, shape: True)),
    Evidence("activation-left-out", _left_out),
    Evidence("activation-doubled", _doubled),
    *(
        Evidence(TABLE_NAMES.get(name, f"activation-{name.replace('_', '-')}"), _activation(name))
        for name in ACTIVATIONS
        if "softmax" not in name
    ),
    Evidence("residual-norm", _other_residual),
    Evidence("leaky-slope", _negative_slope),
    Evidence("forget-gate-bias", _one_block_offset),
    Evidence("lstm-gate-order", _gate_blocks(4)),
    Evidence("gru-gate-order", _gate_blocks(3)),
    Evidence("transposed", _transposed),
    Evidence("channels-reversed", _reversed(lambda ndim: (-1,))),
    Evidence("axis-reversed", _reversed(lambda ndim: range(ndim - 1))),
    Evidence("nhwc-flatten", _flattened),
    Evidence("channels-permuted", _permuted),
    Evidence("shifted", _shifted),
    Evidence("padding-border", _border),
    Evidence("constant-offset", _offset(lambda ndim: tuple(range(ndim)))),
    Evidence("bias-left-out", _offset(lambda ndim: tuple(range(ndim - 1)))),
    Evidence("norm-epsilon-place", _factor_per_row),
)
"""From specific to general."""
