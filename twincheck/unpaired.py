"""Parameters without a counterpart, and those of the other model that come nearest."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twincheck.bounds import ALLOWED_LOSS
from twincheck.check import loss_of
from twincheck.pairing import NOT_LEARNED, alike
from twincheck.recording import Array
from twincheck.weights import Weight

_CANDIDATES = 2

_NO_GRADIENT = 1e-10
"""Part of the largest gradient below which a gradient is the rounding of zero, in float64."""

Shapes = Mapping[str, tuple[int, ...]]
Gradients = tuple[Mapping[str, Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Unpaired:
    """A parameter or buffer that was not paired.

    `candidates` are the nearest names of the other model, with their shapes. `matters` tells if the model's outputs
    depend on the parameter; it is None if there is no gradient to tell.
    """

    framework: Literal["torch", "JAX"]
    name: str
    shape: tuple[int, ...]
    candidates: tuple[tuple[str, tuple[int, ...]], ...]
    matters: bool | None

    def __str__(self) -> str:
        other = "JAX" if self.framework == "torch" else "torch"
        nearest = " or ".join(f"{name} {shape}" for name, shape in self.candidates)
        parts = [f"nearest in {other}: {nearest}"] if nearest else []
        parts += ["the outputs do not depend on it"] if self.matters is False else []
        return f"{self.framework} {self.name} {self.shape}{': ' if parts else ''}{'; '.join(parts)}"


def unpaired(
    weights: Sequence[Weight],
    missing: Sequence[str],
    parameters: tuple[Shapes, Shapes],
    gradients: tuple[Gradients, Gradients],
) -> list[Unpaired]:
    """Returns the parameters that no weight is made of, and those that no weight makes.

    `missing` are the JAX ones that belong to a pair of modules. `parameters` and `gradients` are torch's and the JAX
    model's, gradients of a pass in float64 and of one in float32.
    """
    shapes_t, shapes_j = parameters
    sources = {source.name for weight in weights for source in weight.sources}
    made = {weight.jax for weight in weights}
    left_t = [name for name in shapes_t if name not in sources and name.rpartition(".")[2] not in NOT_LEARNED]
    left_j = [name for name in shapes_j if name not in made]
    used_t, used_j = (set(_with_gradient(named)) for named in gradients)
    has_gradient = [set(exact) for exact, _ in gradients]
    result = []
    for name, shape in ((name, shapes_t[name]) for name in left_t):
        matters = name in used_t if name in has_gradient[0] else None
        result.append(Unpaired("torch", name, shape, _nearest(name, shape, shapes_j, left_j), matters))
    for name, shape in ((name, shapes_j[name]) for name in left_j):
        needed = True if name in missing and has_gradient[1] else None  # as a running mean
        matters = name in used_j if name in has_gradient[1] else needed
        result.append(Unpaired("JAX", name, shape, _nearest(name, shape, shapes_t, left_t), matters))
    return result


def _with_gradient(gradients: Gradients) -> Iterator[str]:
    """Yields the parameters whose gradient is more than the rounding of zero, which differs from pass to pass."""
    exact, rounded = gradients
    largest = max((float(np.abs(gradient).max(initial=0.0)) for gradient in exact.values()), default=0.0)
    for name, gradient in exact.items():
        noise = max(_NO_GRADIENT * largest, ALLOWED_LOSS * loss_of(gradient, rounded.get(name)))
        if not np.abs(gradient).max(initial=0.0) <= noise:
            yield name


def _nearest(
    name: str, shape: tuple[int, ...], others: Shapes, left: Sequence[str]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns the other model's most alike parameters; those of the same size and without a counterpart come first."""

    def distance(other: str) -> tuple[bool, bool, float]:
        return np.prod(others[other]) != np.prod(shape), other not in left, -alike(name, other)

    return tuple((other, others[other]) for other in sorted(others, key=distance)[:_CANDIDATES])
