"""Parameters that torch has once and the JAX model several times: they compute the same until they are trained."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from twincheck.check import Mismatch
from twincheck.report import Finding
from twincheck.weights import Source, Weight


def untied(weights: Sequence[Weight], places: Sequence[Mismatch]) -> Iterator[Finding]:
    """Yields a finding for each torch parameter whose gradient is the sum of those of several JAX parameters."""
    gradients = {place.after: place for place in places if place.kind == "gradient of parameter"}
    shared: dict[tuple[Source, ...], list[Mismatch]] = defaultdict(list)
    for weight in weights:
        if weight.jax in gradients and not weight.added:
            shared[weight.sources].append(gradients[weight.jax])
    for sources, group in shared.items():
        first, *others = group
        arrays = [place.ours for place in group if place.ours is not None]
        if not others or not any(place.out for place in group) or len({array.shape for array in arrays}) != 1:
            continue
        if np.abs(np.sum(arrays, axis=0) - first.theirs).max(initial=0.0) <= len(group) * first.allowed:
            names = " and ".join(place.after for place in group)
            yield Finding(
                "tied-weights",
                f"Tied weights: torch has one {sources[0].name}, JAX has {names}.",
                "Use one module, or one parameter, for all of them.",
                tuple(place for place in group if place.out),
                "their gradients add up to torch's",
            )
