"""Places that are out only because a residual carries a difference on from another place.

Modules are given torch's tensors in a forced pass, but what a residual adds past them is the JAX model's own. A
difference in it comes back wherever it is added, forward and backward. Those places are no mistakes of their own.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from twincheck.bounds import RECENT
from twincheck.check import Mismatch
from twincheck.recording import Array

_ACTIVATIONS: Sequence[Callable[[Array], Array]] = (lambda x: x, lambda x: np.maximum(x, 0))

_POOLINGS: Sequence[Callable[[Array], Array]] = (
    lambda x: x,
    lambda x: x.mean(tuple(range(1, x.ndim - 1))),
    lambda x: x.mean(tuple(range(2, x.ndim))),  # channels first
    lambda x: x[:, 0],
    lambda x: x[:, -1],
)


def mark_carried(
    places: Sequence[Mismatch], before: Callable[[Mismatch], Sequence[Array]], modules: Collection[str]
) -> list[Mismatch]:
    """Returns the places, given in the order of the calls, with those marked that only carry a difference on.

    `before` returns torch's arrays from before a place. `modules` are the paths of the modules that were compared.
    """
    result = list(places)
    sources: list[Mismatch] = []
    for i, place in enumerate(places):
        if place.kind == "code" and _is_out(place):
            if any(_comes_from(place, source, before(place)) for source in reversed(sources)):
                result[i] = replace(place, carried=True)
            sources.append(place)
    forward = {(place.before, place.after): place for place in result if place.kind == "code"}
    sources = []
    for i, place in reversed(list(enumerate(places))):
        if place.kind == "gradient of code" and _is_out(place):
            code = forward.get((place.before, place.after))
            if code is not None and not code.out and (code.carried or _flows_back(place, sources)):
                result[i] = replace(place, carried=True)
            sources.append(place)
    for i, place in enumerate(places):
        outside = place.kind == "gradient of parameter" and _is_out(place) and not _is_inside(place, modules)
        if outside and any(_is_sum(place, source) for source in sources):
            result[i] = replace(place, carried=True)
    return result


def _is_out(place: Mismatch) -> bool:
    return place.out and place.ours is not None and place.theirs is not None and place.ours.shape == place.theirs.shape


def _is_inside(parameter: Mismatch, modules: Collection[str]) -> bool:
    owner = parameter.after.rpartition(".")[0]
    return any(owner == path or owner.startswith(f"{path}.") for path in modules)


def _difference(place: Mismatch) -> Array:
    assert place.ours is not None
    assert place.theirs is not None
    return np.asarray(place.ours - place.theirs)


def _comes_from(place: Mismatch, source: Mismatch, before: Sequence[Array]) -> bool:
    """Tells whether a place differs by what `source` does, added to equal arrays, activated and pooled alike."""
    ours, theirs = source.ours, source.theirs
    assert ours is not None
    assert theirs is not None
    if ours.shape == _shape(place) and _agree(_difference(place), _difference(source), place, source):
        return True
    added = [np.zeros(1), *(array for array in _in_layout(before[-RECENT:], ours.shape))]
    for pool in _POOLINGS if ours.ndim > 1 else _POOLINGS[:1]:
        if pool(theirs).shape != _shape(place):
            continue
        for activate in _ACTIVATIONS:
            for array in added:
                if _agree(pool(activate(array + theirs)), place.theirs, place, source) and _agree(
                    pool(activate(array + ours)), place.ours, place, source
                ):
                    return True
    return False


def _in_layout(arrays: Sequence[Array], shape: tuple[int, ...]) -> Iterator[Array]:
    """Yields those of torch's arrays that have this shape, as they are or with their channels last."""
    for array in arrays:
        for laid in (array, np.moveaxis(array, 1, -1)) if array.ndim > 2 else (array,):
            if laid.shape == shape:
                yield laid


def _shape(place: Mismatch) -> tuple[int, ...]:
    return place.ours.shape if place.ours is not None else ()


def _agree(a: Array, b: Array | None, place: Mismatch, source: Mismatch) -> bool:
    allowed = max(place.allowed, source.allowed)
    return b is not None and a.shape == b.shape and bool((np.abs(a - b) <= allowed).all())


def _flows_back(place: Mismatch, sources: Sequence[Mismatch]) -> bool:
    """Tells whether a gradient differs by what gradients nearer to the output do, where they get through.

    Where none has its size, as before a pooling, that cannot be told, and is taken to be so.
    """
    sized = False
    for source in sources:
        for carried in _in_size(_difference(source), _shape(place)):
            sized = True
            difference, allowed = _difference(place), max(place.allowed, source.allowed)
            for factor in (1.0, carried.shape[-1] ** 0.5):  # the latter by a scaled embedding
                apart = np.minimum(np.abs(difference - factor * carried), np.abs(difference))
                if (apart <= allowed).all():
                    return True
    return bool(sources) and not sized


def _in_size(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yields an array, and it without the first position, if they fit a shape."""
    for part in (array, array[:, 1:] if array.ndim > 1 else array):
        if part.size == np.prod(shape):
            yield part.reshape(shape)


def _is_sum(parameter: Mismatch, source: Mismatch) -> bool:
    """Tells whether a parameter's gradient differs by that of the array that it is added to, for all examples."""
    total, shape = _difference(source).sum(0), _shape(parameter)
    return any(
        part.size == np.prod(shape) and _agree(part.reshape(shape), _difference(parameter), parameter, source)
        for part in (total, total[:1], total[1:])
        if np.ndim(part)
    )
