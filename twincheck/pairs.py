"""Two models held side by side: their calls and weights paired, the weights loaded, and one checked on the other."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from mlp_workload.errors import UserError
from twincheck.boundaries import following_places, settled_place, settles, without_own_shapes
from twincheck.bounds import DECISIVE, DOUBTFUL, EPS, ROUNDED_DEEP
from twincheck.carried import mark_carried
from twincheck.causes.replace import calls_of
from twincheck.check import Forcing, Mismatch, Passes, compare, compare_places, loss_of, scale_of
from twincheck.diagnosis import diagnose
from twincheck.first_wrong_operation import WrongOperation, first_wrong_operation
from twincheck.layouts import Layout, activation_layouts, distances, output_layout
from twincheck.pairing import Pairing, pair_calls
from twincheck.recording import Array, Call, Cotangents, Enough, Force, Patch, Place, Recording, is_float, require_dtype
from twincheck.report import Report
from twincheck.unpaired import Unpaired, unpaired
from twincheck.untied import untied
from twincheck.weights import neutral, pair_weights

_SEED = 0

_NONE: Mapping[str, Any] = {}


class Side(Protocol):
    """A model and its inputs, in either framework."""

    framework: str

    @property
    def parameters(self) -> dict[str, Array]:
        """Parameters and buffers by name."""

    def run(self, dtype: str, force: Force | None = None, cotangents: Cotangents | None = None) -> Recording:
        """Runs the model in `dtype`, forward, and backward if `cotangents` gives the gradients of its outputs."""


class Pair:
    """A torch model and a JAX model with their calls and weights paired. The JAX side holds torch's weights.

    `pairing` has the calls, `weights` how each JAX parameter is made of torch's, `missing` the JAX parameters that
    torch lacks: biases are zero, others keep their own values. `outputs` are the pairs of returned arrays, by index.
    Without `backward` gradients are left out of the checks.
    """

    def __init__(self, torch: Any, jax: Any, *, backward: bool = True) -> None:
        if getattr(torch, "framework", "") != "torch" or getattr(jax, "framework", "torch") == "torch":
            raise UserError(
                "pair takes two sides, the torch one first: pair(torch(model, inputs), nnx(port, inputs)), "
                "or linen, equinox, haiku or function in place of nnx"
            )
        self.torch, self.jax, self.backward = torch, jax, backward
        seen = jax.run("float32")
        generator = np.random.default_rng(_SEED)
        self._drawn: list[Array] = []

        def draw(outputs: Sequence[Array]) -> Sequence[Array]:
            fitting = {a for a, _ in _pair_outputs(outputs, seen.outputs)}
            self._drawn = [
                generator.standard_normal(array.shape) if i in fitting and is_float(array) else np.zeros(array.shape)
                for i, array in enumerate(outputs)
            ]
            return self._drawn

        self.truth: Recording = torch.run("float64", None, draw if backward else None)
        theirs, ours = torch.parameters, jax.parameters
        self.pairing: Pairing = pair_calls(self.truth, theirs, seen, ours)
        if not self.pairing.links and not self.pairing.outside:
            raise UserError("nothing of the two models fits together: no two modules have parameters of one size")
        self.weights, self.missing = pair_weights(self.pairing, theirs, ours, out_in=jax.framework == "equinox")
        jax.load({weight.jax: weight(theirs) for weight in self.weights} | neutral(self.missing, ours))
        self.outputs, self._outputs = _pair_outputs(self.truth.outputs, seen.outputs), len(seen.outputs)
        if not self.outputs:
            shapes = [[array.shape for array in outputs] for outputs in (self.truth.outputs, seen.outputs)]
            raise UserError(f"no output of the torch model, {shapes[0]}, fits one of the JAX model, {shapes[1]}")
        _require_numbers([self.truth.outputs[a] for a, _ in self.outputs])
        for call in seen.calls:  # which the pairing holds
            call.forget()
        self._layouts: dict[Place, Layout | None] = {}
        self._judged_in = "float32"
        self._released: frozenset[Place] = frozenset()

    def at(self, torch: Any, jax: Any, cotangents: Sequence[Array]) -> "Pair":
        """Returns the pair in another state: these sides, and these gradients of torch's outputs."""
        pair = copy.copy(self)
        pair.torch, pair.jax, pair._layouts = torch, jax, {}
        pair._drawn = list(cotangents)
        pair.truth = torch.run("float64", None, lambda _: cotangents)
        return pair

    def train(self, batches: Iterable[Any], steps: int, **options: Any) -> Any:
        """Trains both models side by side; see `twincheck.train`."""
        from twincheck.training import train

        return train(self, batches, steps, **options)

    def check(self, dtype: str = "float32") -> Report:
        """Compares every place of the two models, forward and backward, and says what differs and why.

        The JAX model runs in `dtype` on torch's own tensors, which are float64. Where a difference in float32 might be
        rounding, a pass in float64 decides. With `dtype` "float64" the bounds are those of float64 too, if neither
        model computes a part in a smaller type.

        Raises `UserError` if `dtype` is another, a model fails, or the torch model's outputs are random.
        """
        require_dtype(dtype)
        narrow = list(self._narrow()) if dtype == "float64" else []
        exact = dtype == "float64" and not narrow
        self._judged_in = "float64" if exact else "float32"
        jax32 = self.forced("float32")
        passes = Passes(self.truth, self._torch32(), jax32, None)
        places = self._compare(passes)
        wide = dtype == "float64" or self._lacking or any(place.out for place in places)
        finest, outputs = self._free_outputs(dtype) if wide else ("float32", self.jax.run("float32").outputs)
        may_be_rounding = any(place.out and _is_rounding(place) for place in places)
        if finest == "float64" and (dtype == "float64" or may_be_rounding):
            passes = replace(passes, jax=self.forced("float64"), jax32=jax32, exact=exact)
            decided = {} if exact else {place.key: place for place in places if place.out and not _is_rounding(place)}
            places = [place if place.out else decided.get(place.key, place) for place in self._compare(passes)]
        if any(place.kind in ("code", "module") and place.allowed > DOUBTFUL * place.scale for place in places):
            self.torch.require_repeatable()
        places = self._settle_boundaries(places, passes)
        if finest == "float64":
            places = self._with_wrong_operations(places)
        places = mark_carried(places, self.before, {link.jax.call.path for link in self.pairing.links})
        ties = list(untied(self.weights, places))
        tied = {place.key for finding in ties for place in finding.places}
        findings, notes = diagnose(self, [place for place in places if place.key not in tied])
        findings += ties
        if not any(place.out for place in places):
            places += self._apart(finest, outputs)
        notes += self._not_compared()
        if narrow:
            names = " and ".join(narrow)
            notes.append(f"the bounds are those of float32: not all that {names} computes is known to be in float64")
        if finest == "float32" and any(place.out for place in places):
            notes.append(f"the {self.jax.framework} model does not run in float64: a place that is out may be rounding")
        free, alone = self._free_differences(outputs), self._unpaired(passes, finest)
        return Report(self.pairing, self.missing, places, findings, notes, free, alone, self)

    @property
    def _lacking(self) -> set[str]:
        """The JAX parameters that no weight of torch makes."""
        return set(self.jax.parameters) - {weight.jax for weight in self.weights}

    def _narrow(self) -> Iterator[str]:
        """Yields the frameworks in which values of float32 are part of what is computed in float64."""
        made = {source.name for weight in self.weights for source in weight.sources}
        constants = set(self.torch.parameters) - made - self.torch.trainable
        if self.torch.narrows() or any(_is_rounded(self.torch.parameters[name]) for name in constants):
            yield self.torch.framework
        if self.jax.narrows():
            yield self.jax.framework

    def _compare(self, passes: Passes) -> list[Mismatch]:
        places = compare_places(self.pairing, self.weights, passes, self.outputs)
        return [place for place in places if not self._neither_trains(place)]

    def _neither_trains(self, place: Mismatch) -> bool:
        """Tells whether a place is the gradient of a parameter that torch freezes and JAX stops the gradient of."""
        if place.kind != "gradient of parameter" or place.ours is None or place.ours.any():
            return False
        (weight,) = (weight for weight in self.weights if weight.jax == place.after)
        return not any(source.name in self.torch.trainable for source in weight.sources)

    def _settle_boundaries(self, places: list[Mismatch], passes: Passes) -> list[Mismatch]:
        """Clears places that differ only because one model computes in a module what the other computes beside it.

        Such a module's tensor is out, and the next places that it goes into are too. If the mismatch there nearly
        vanishes as soon as the JAX model goes on with its own tensor, the two are judged together, there.
        """
        places = list(without_own_shapes(places))
        out = [place for place in places if place.out]
        groups = {first.place: following_places(first, out) for first in out if first.place}
        groups = {first: following for first, following in groups.items() if following}
        settled, dtype = {}, "float64" if passes.jax32 else "float32"
        for _ in range(2):  # all, then those alone that are settled
            if groups:
                released = self._compare(replace(passes, jax=self.forced(dtype, frozenset(groups)), jax32=None))
                settled = {place.key: place for place in released}
                apart = {first for first, following in groups.items() if not settles(following, settled)}
                groups = {first: following for first, following in groups.items() if first not in apart}
                if not apart:
                    break
        self._released = frozenset(groups)
        if not groups:
            return places
        return [settled_place(place, settled, place.place in groups) for place in places]

    def _with_wrong_operations(self, places: list[Mismatch]) -> list[Mismatch]:
        """Adds the first wrong operation of the JAX model to the places that are out in the forward pass."""
        from twincheck import jax_operations, torch_operations

        def is_asked(place: Mismatch) -> bool:
            return place.out and place.kind in ("code", "module")

        if not any(map(is_asked, places)):
            return places
        theirs = torch_operations.operations(self.torch)
        ends, outputs = jax_operations.operations(self.jax, Forcing(self.pairing, self.truth, self._layouts))

        def found(place: Mismatch) -> WrongOperation | None:
            end = outputs[place.output] if place.place is None else ends.get(place.place)
            return first_wrong_operation(end, theirs) if end is not None else None

        return [replace(place, wrong_operation=found(place)) if is_asked(place) else place for place in places]

    def _free_outputs(self, dtype: str) -> tuple[str, list[Array]]:
        """Runs the JAX model by itself, in float64 if it can be; a check in `dtype` float64 requires that."""
        try:
            return "float64", self.jax.run("float64").outputs
        except UserError:
            if dtype == "float64":
                raise
            return "float32", self.jax.run("float32").outputs

    def _free_differences(self, outputs: Sequence[Array]) -> list[tuple[float, float]]:
        """Returns how far each output is off when the JAX model runs by itself, and torch's largest value."""
        found = []
        for _, _, theirs, ours in self._laid_out(outputs):
            found.append((float(distances(theirs, ours).max(initial=0.0)), scale_of(theirs)))
        return found

    def _laid_out(self, outputs: Sequence[Array]) -> Iterator[tuple[int, int, Array, Array]]:
        """Yields the numbers of each pair of outputs, torch's in the layout of the JAX model's, and that."""
        for a, b in self.outputs:
            layout = output_layout(self.truth.outputs[a], outputs[b], self._layouts.values())
            theirs = np.full_like(outputs[b], np.nan) if layout is None else layout(self.truth.outputs[a])
            yield a, b, theirs, outputs[b]

    def _apart(self, finest: str, outputs: Sequence[Array]) -> Iterator[Mismatch]:
        """Yields the outputs that are out when the JAX model runs by itself, though each of its places agrees."""
        if all(difference <= ROUNDED_DEEP * largest for difference, largest in self._free_differences(outputs)):
            return
        if finest == "float32":
            _, outputs = self._free_outputs("float32")
        rounded = self.jax.run("float32").outputs
        for a, b, theirs, ours in self._laid_out(outputs):
            loss = loss_of(ours, rounded[b])
            place = compare(
                "whole model", "the inputs", f"output {b}", f"output {a}", None, ours, theirs, EPS["float32"], loss
            )
            if place.out:
                yield replace(place, output=b)

    def _not_compared(self) -> Iterator[str]:
        """Yields a line for outputs without a counterpart, without a number, or without gradients to compare."""
        for i, side in enumerate((self.torch, self.jax)):
            count = len(self.truth.outputs) if i == 0 else self._outputs
            alone = sorted(set(range(count)) - {pair[i] for pair in self.outputs})
            if alone:
                yield f"not compared: output {', '.join(map(str, alone))} of the {side.framework} model"
        for a, _ in self.outputs:
            if number := int(np.isnan(array := self.truth.outputs[a]).sum()):
                yield f"not compared: {number} of {array.size} values of output {a}, which are nan in the torch model"
        if self.backward and any(array.dtype.kind == "c" for array in self.truth.outputs):
            yield "not compared: gradients of complex outputs"

    def _unpaired(self, passes: Passes, dtype: str) -> list[Unpaired]:
        shapes = [{name: array.shape for name, array in side.parameters.items()} for side in (self.torch, self.jax)]
        exact, rounded = passes.jax, passes.jax32
        if rounded is None:  # float32 was enough
            exact, rounded = self.forced(dtype) if self._lacking and self.backward else passes.jax, passes.jax
        theirs = self.truth.gradients, passes.torch32.gradients
        ours = exact[1].gradients, rounded[1].gradients
        return unpaired(self.weights, self.missing, (shapes[0], shapes[1]), (theirs, ours))

    def forward_values(
        self,
        places: Sequence[Mismatch],
        patches: Sequence[Patch] = (),
        settings: Mapping[str, Mapping[str, Any]] = _NONE,
        parameters: Mapping[str, Array] = _NONE,
    ) -> Iterator[Array | None]:
        """Runs the JAX model forward on torch's tensors, and yields what it computes at these places.

        It runs in float32, or in float64 after a check with float64's bounds.

        Meanwhile the patches apply, the modules at the paths in `settings` have those attributes, and the model has
        these `parameters`.
        """
        forcing = Forcing(self.pairing, self.truth, self._layouts, self._released)
        forcing.enough = {place.place for place in places if place.place is not None}
        outputs: list[Array] = []
        if any(place.place is None for place in places):
            forcing.enough = set()
        with self.jax.changed(patches, settings, parameters), contextlib.suppress(Enough):
            outputs = self.jax.run(self._judged_in, forcing).outputs
        for place in places:
            yield outputs[place.output] if place.place is None else forcing.seen.get(place.place)

    def before(self, place: Mismatch) -> list[Array]:
        """Returns torch's arrays from before a place, in their order."""
        *earlier, last = *self.calls_to(place), None
        if place.place is not None and earlier:
            last = earlier.pop()
        around = set(last.parents) if last else set()
        found: list[Array] = []
        for call in earlier:
            found += call.inputs if call.path in around else (*call.inputs, *call.outputs)
        found += last.inputs if last and place.kind == "module" else []
        return [array for array in found if array.dtype.kind == "f"]

    def embedded(self, place: Mismatch) -> list[Array]:
        """Returns what torch's embeddings gave out up to a place."""
        return [output for call in self.calls_to(place) if "Embedding" in call.kind for output in call.outputs]

    def calls_to(self, place: Mismatch) -> list[Call]:
        """Returns torch's calls up to the one that a place belongs to, all for a place at the output."""
        linked = {link.jax.call.key: link.torch[0].call.key for link in self.pairing.links}
        last = None if place.place is None else linked.get((place.place.path, place.place.number))
        end = next((i for i, call in enumerate(self.truth.calls) if call.key == last), len(self.truth.calls))
        return self.truth.calls[: end + 1]

    def called(self, names: Iterable[str]) -> set[str]:
        """Returns those of the functions, given by qualified names, that the JAX model calls."""
        called: set[str] = set()
        with self.jax.changed([calls_of(names, called)], {}):
            self.jax.run("float32")
        return called

    def forced(self, dtype: str, free: frozenset[Place] = frozenset()) -> tuple[Forcing, Recording]:
        """Runs the JAX model on torch's tensors; at the places in `free` it goes on with its own."""
        forcing = Forcing(self.pairing, self.truth, self._layouts, free)
        return forcing, self.jax.run(dtype, forcing, self._jax_cotangents if self.backward else None)

    def _torch32(self) -> Recording:
        """Runs the torch model in float32 on its own float64 tensors."""
        linked = {unit.call.key for link in self.pairing.links for unit in link.torch}
        calls = {call.key: call for call in self.truth.calls if call.key in linked}

        def force(place: Place, value: Array) -> Array | None:
            call = calls.get((place.path, place.number))
            return call.at(place) if call is not None else None

        recording: Recording = self.torch.run("float32", force, (lambda _: self._drawn) if self.backward else None)
        return recording

    def _jax_cotangents(self, outputs: Sequence[Array]) -> list[Array]:
        """Returns the gradients of the JAX model's outputs: torch's, in their layout."""
        result = [np.zeros(array.shape) for array in outputs]
        for a, b in self.outputs:
            layout = output_layout(self.truth.outputs[a], outputs[b], self._layouts.values())
            if layout is not None:
                result[b] = layout(self._drawn[a])
        return result


def _is_rounding(place: Mismatch) -> bool:
    """Tells whether a difference in float32 may be rounding."""
    return place.difference < DECISIVE * place.allowed


def _is_rounded(array: Array) -> bool:
    """Tells whether an array holds float32's values, as a table that was computed in it, and others than a few bits."""
    with np.errstate(over="ignore"):
        return bool((array == array.astype(np.float32)).all() and (array != array.astype(np.float16)).any())


def _require_numbers(outputs: Sequence[Array]) -> None:
    """Raises `UserError` if there is nothing to compare in torch's outputs, as nan is equal to nan."""
    if not any(array.size for array in outputs):
        raise UserError("the outputs of the torch model are empty: give inputs of at least one example")
    if all(np.isnan(array).all() for array in outputs):
        raise UserError("all outputs of the torch model are nan: give inputs and weights that make numbers of them")


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
