"""Recognises values that lie in another order, or at other places."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from twincheck.causes.agreement import Array, Recognise, mends
from twincheck.causes.terms import AGREES


def _factorizations(size: int) -> Iterator[tuple[int, int]]:
    return ((n, size // n) for n in range(2, size // 2 + 1) if size % n == 0)


def flattened(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The last axis, seen as a matrix, is transposed, as by flattening channels last against channels first."""
    last = ours.shape[-1]
    return any(
        mends(ours.reshape(*ours.shape[:-1], n, m).swapaxes(-1, -2).reshape(ours.shape), ours, theirs)
        for n, m in _factorizations(last)
    )


def reversed_axes(axes: Callable[[int], Sequence[int]]) -> Recognise:
    def recognise(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
        return any(mends(np.flip(ours, axis), ours, theirs) for axis in axes(ours.ndim) if ours.shape[axis] > 1)

    return recognise


def transposed(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Two axes of one length are exchanged."""
    return any(
        mends(ours.swapaxes(i, j), ours, theirs)
        for i, j in itertools.combinations(range(ours.ndim), 2)
        if ours.shape[i] == ours.shape[j]
    )


def shifted(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The values lie one or two places further along an axis other than the last."""
    for axis, by in itertools.product(range(max(ours.ndim - 1, 0)), (1, 2)):
        if ours.shape[axis] < by + 3:
            continue
        a, b = np.moveaxis(ours, axis, 0), np.moveaxis(theirs, axis, 0)
        if any(_agrees_shifted(x, y, by) for x, y in ((a, b), (b, a))):
            return True
    return False


def _agrees_shifted(a: Array, b: Array, by: int) -> bool:
    return mends(a[by:], a[:-by], b[:-by])


def differs_at_border(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """Images of shape (batch, height, width, channels) that differ only at their borders."""
    if ours.ndim != 4 or min(ours.shape[1:3]) < 4:
        return False
    changed = ours.copy()
    changed[:, [0, -1]] = theirs[:, [0, -1]]
    changed[:, :, [0, -1]] = theirs[:, :, [0, -1]]
    return mends(changed, ours, theirs)


def permuted(ours: Array, theirs: Array, earlier: Sequence[Array]) -> bool:
    """The last axis is in another order: up to four equal parts of it, or its elements, in at least four rows."""
    return any(_parts_permuted(ours, theirs, parts) for parts in (2, 3, 4)) or _elements_permuted(ours, theirs)


def _parts_permuted(ours: Array, theirs: Array, count: int) -> bool:
    if ours.shape[-1] % count or ours.shape[-1] < 2 * count:
        return False
    parts = np.split(ours, count, axis=-1)
    orders = list(itertools.permutations(range(count)))[1:]
    return any(mends(np.concatenate([parts[i] for i in order], axis=-1), ours, theirs) for order in orders)


def _elements_permuted(ours: Array, theirs: Array) -> bool:
    a, b = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
    if len(a) < 4 or a.shape[-1] < 3:
        return False
    if not np.allclose(np.sort(a[0]), np.sort(b[0]), rtol=0, atol=AGREES * np.abs(b[0]).max()):
        return False
    order = np.empty(a.shape[-1], int)
    order[np.argsort(b[0], kind="stable")] = np.argsort(a[0], kind="stable")
    return mends(a[:, order], a, b)
