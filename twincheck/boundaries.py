"""Places that differ only because one model computes in a module what the other computes beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from twincheck.bounds import NEARLY_VANISHES
from twincheck.calls import join
from twincheck.causes.evidence import zero_row
from twincheck.check import Mismatch


def settles(places: Sequence[Mismatch], settled: Mapping[tuple[Any, ...], Mismatch]) -> bool:
    """Tells whether the mismatch at all places vanishes, or is another one: a much smaller one, or at padding."""
    found = [(place, settled.get(place.key)) for place in places]
    return all(
        after and (not after.out or after.difference < place.difference / NEARLY_VANISHES or _is_at_padding(after))
        for place, after in found
    )


def _is_at_padding(place: Mismatch) -> bool:
    """Tells whether only the row of an embedding's gradient differs to which torch's padding_idx gives none."""
    if place.kind != "gradient of parameter" or place.ours is None or place.theirs is None or place.has_own_shape:
        return False
    return zero_row(place.ours, place.theirs)


def settled_place(place: Mismatch, settled: Mapping[tuple[Any, ...], Mismatch], released: bool) -> Mismatch:
    """Returns a place as it is without the places that are released: cleared, or what is left of it.

    A place that agreed before is out now if the code before it needs the tensor that torch's module returns.
    """
    after = settled.get(place.key)
    if not place.out:
        return after if after is not None and after.out and not place.boundary else place
    if released or (after is not None and not after.out):
        return replace(place, boundary=True)
    return place if after is None or (after.difference > place.difference and not _is_at_padding(after)) else after


def without_own_shapes(places: Sequence[Mismatch]) -> Iterator[Mismatch]:
    """Yields the places, those cleared where torch's tensor has another shape and all that comes of the JAX one agrees.

    So it is if one model pads a tensor in a convolution and the other before it.
    """
    fitting = {(place.kind, place.after): place.out for place in places if not place.has_own_shape}
    wrong_code = any(out for (kind, _), out in fitting.items() if kind == "code")
    for place in places:
        wrong = fitting.get(("module", place.after), wrong_code) if place.kind == "code" else wrong_code
        inside = place.place is not None  # an output's shape counts
        yield replace(place, boundary=place.boundary or (inside and place.has_own_shape and not wrong))


def following_places(first: Mismatch, out: Sequence[Mismatch]) -> list[Mismatch]:
    """Returns the places that are out and computed from the tensor at `first`.

    If modules that do not take that tensor are called before the code that does, it is the next code that is out.
    """
    if first.kind == "module":
        code = [place for place in out[out.index(first) :] if place.kind == "code"]
        return [place for place in code if place.before == first.after] or code[:1]
    if first.kind == "code":
        return [place for place in out if place.kind == "module" and place.after == first.after]
    if first.kind == "gradient of code" and first.place is not None:
        owned = join(first.place.path, "")
        return [
            place
            for place in out
            if (place.kind == "gradient of module" and place.after == first.before)
            or (place.kind == "gradient of parameter" and place.after.startswith(owned))
        ]
    return []
