"""Two models held side by side: their calls and weights paired, the weights loaded, and one checked on the other."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mlp_workload.errors import UserError
from twincheck.check import Forcing, Passes, compare_places
from twincheck.diagnosis import diagnose
from twincheck.layouts import Layout, activation_layouts, nearest
from twincheck.pairing import Pairing, pair_calls
from twincheck.recording import Array, Force, Place, Recording
from twincheck.report import Report
from twincheck.weights import Weight, pair_weights

_SEED = 0


class Side(Protocol):
    """A model and its inputs, in either framework."""

    framework: str

    @property
    def parameters(self) -> dict[str, Array]:
        """Parameters and buffers by name."""

    def run(self, dtype: str, force: Force | None = None, cotangents: Sequence[Array] | None = None) -> Recording:
        """Runs the model in `dtype`, forward, and backward if the gradients of its outputs are given."""


class Pair:
    """A torch model and a JAX model with their calls and weights paired. The JAX side holds torch's weights.

    `pairing` has the calls, `weights` how each JAX parameter is made of torch's, `missing` the JAX parameters that torch
    lacks, which keep their own values. `outputs` are the pairs of returned arrays, by index.
    """

    def __init__(self, torch: Any, jax: Any) -> None:
        self.torch, self.jax = torch, jax
        free, seen = torch.run("float64"), jax.run("float32")
        self.pairing: Pairing = pair_calls(free, torch.parameters, seen, jax.parameters)
        if not self.pairing.links and not self.pairing.outside:
            raise UserError("nothing of the two models fits together: no two modules have parameters of one size")
        self.weights, self.missing = pair_weights(
            self.pairing, torch.parameters, jax.parameters, out_in=jax.framework == "equinox"
        )
        jax.load({weight.jax: weight(torch.parameters) for weight in self.weights})
        self.outputs = _pair_outputs(free.outputs, seen.outputs)
        if not self.outputs:
            shapes = [[array.shape for array in outputs] for outputs in (free.outputs, seen.outputs)]
            raise UserError(f"no output of the torch model, {shapes[0]}, fits one of the JAX model, {shapes[1]}")
        generator = np.random.default_rng(_SEED)
        drawn = {a: generator.standard_normal(free.outputs[a].shape) for a, _ in self.outputs}
        self.truth: Recording = torch.run(
            "float64", None, [drawn.get(i, np.zeros(array.shape)) for i, array in enumerate(free.outputs)]
        )
        self._drawn = drawn
        self._layouts: dict[Place, Layout | None] = {}

    def at(self, torch: Any, jax: Any, cotangents: Sequence[Array]) -> "Pair":
        """Returns the pair in another state: these sides, and these gradients of torch's outputs."""
        pair = copy.copy(self)
        pair.torch, pair.jax, pair._layouts = torch, jax, {}
        pair._drawn = {a: cotangents[a] for a, _ in self.outputs}
        pair.truth = torch.run("float64", None, cotangents)
        return pair

    def train(self, batches: Iterable[Any], steps: int, **options: Any) -> Any:
        """Trains both models side by side; see `twincheck.train`."""
        from twincheck.training import train

        return train(self, batches, steps, **options)

    def passes(self, free: frozenset[Place] = frozenset(), *, rounded: bool = True) -> Passes:
        """Runs the JAX model on torch's float64 tensors, and both in float32 to see what rounding does.

        At the places in `free` the JAX model goes on with what it computed itself.
        """
        jax32 = self._forced("float32", free) if rounded else None
        return Passes(self.truth, self._torch32, self._forced("float64", free), jax32)

    def check(self) -> Report:
        """Compares every place of the two models, forward and backward, and says what differs and why."""
        places = compare_places(self.pairing, self.weights, self.passes(), self.outputs)
        free = self.jax.run("float64")
        differences = []
        for a, b in self.outputs:
            theirs, ours = self.truth.outputs[a], free.outputs[b]
            layout = nearest(theirs, ours)
            distance = np.abs(layout(theirs) - ours) if layout is not None else np.array(np.inf)
            differences.append((float(distance.max(initial=0.0)), float(np.abs(theirs).max(initial=0.0))))
        return Report(self.pairing, self.missing, places, diagnose(self, places), (), differences)

    def _forced(self, dtype: str, free: frozenset[Place]) -> tuple[Forcing, Recording]:
        forcing = Forcing(self.pairing, self.truth, self._layouts, free)
        return forcing, self.jax.run(dtype, forcing, self._jax_cotangents)

    @property
    def _torch32(self) -> Recording:
        linked = {unit.call.key for link in self.pairing.links for unit in link.torch}
        calls = {call.key: call for call in self.truth.calls if call.key in linked}

        def force(place: Place, value: Array) -> Array | None:
            call = calls.get((place.path, place.number))
            return call.at(place) if call is not None else None

        cotangents = [self._drawn.get(i, np.zeros(array.shape)) for i, array in enumerate(self.truth.outputs)]
        return self.torch.run("float32", force, cotangents)

    def _jax_cotangents(self, outputs: Sequence[Array]) -> list[Array]:
        """Returns the gradients of the JAX model's outputs: torch's, in their layout."""
        result = [np.zeros(array.shape) for array in outputs]
        for a, b in self.outputs:
            layout = nearest(self.truth.outputs[a], outputs[b])
            if layout is not None:
                result[b] = layout(self._drawn[a])
        return result


def _pair_outputs(torch: Sequence[Array], jax: Sequence[Array]) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for b, array in enumerate(jax):
        fitting = [
            a
            for a, other in enumerate(torch)
            if a not in {a for a, _ in pairs} and next(activation_layouts(other.shape, array.shape), None) is not None
        ]
        if fitting:
            pairs.append((fitting[0], b))
    return pairs
