"""One teacher-forced pass: each paired JAX module computes from torch's own tensors, forward and backward.

So every place tests one piece of code alone: an input the code between two modules, an output one module, and the same
for gradients on the way back. No mistake hides another and none grows with depth.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from twincheck.bounds import ALLOWED_EPS, ALLOWED_LOSS, EPS
from twincheck.first_wrong_operation import WrongOperation
from twincheck.layouts import Layout, distances, nearest, output_layout, usual_axes
from twincheck.pairing import Link, Pairing
from twincheck.recording import Array, Call, Enough, Place, Recording
from twincheck.weights import Weight


def tensors_of(link: Link, calls: Mapping[tuple[str, int], Call]) -> Call:
    """Returns torch's call for a link, joined or cut apart where it is not one call on each side."""
    parts = [calls[unit.call.key] for unit in link.torch]
    first, axis = parts[0], _channel_axis(parts[0].kind)
    if len(parts) > 1:
        gradients = {i: np.sum([call.input_gradients[i] for call in parts], axis=0) for i in first.input_gradients}
        ends = {0: np.concatenate([c.output_gradients[0] for c in parts], axis)} if first.output_gradients else {}
        outputs = [np.concatenate([call.outputs[0] for call in parts], axis)]
        return replace(first, outputs=outputs, input_gradients=gradients, output_gradients=ends)
    if link.piece is not None:
        i, n = link.piece
        ends = {k: np.split(gradient, n, axis)[i] for k, gradient in first.output_gradients.items()}
        outputs = [np.split(first.outputs[0], n, axis)[i]]
        return replace(first, outputs=outputs, input_gradients={}, output_gradients=ends)
    return _merged(first) if len(link.jax.call.inputs) < len(first.inputs) else first


def _channel_axis(kind: str) -> int:
    """Returns the axis of the features that a torch module of this kind gives out."""
    convolution = re.fullmatch(r"(?:Lazy)?Conv(?:Transpose)?([123])d", kind)
    return -1 - int(convolution[1]) if convolution else -1


def _merged(call: Call) -> Call:
    """Returns a call with equal inputs taken together, as when query, key and value are one tensor."""
    inputs: list[Array] = []
    gradients: dict[int, Array] = {}
    for i, array in enumerate(call.inputs):
        same = [k for k, other in enumerate(inputs) if other.shape == array.shape and np.array_equal(other, array)]
        k = same[0] if same else len(inputs)
        if not same:
            inputs.append(array)
        if i in call.input_gradients:
            gradients[k] = gradients[k] + call.input_gradients[i] if k in gradients else call.input_gradients[i]
    return replace(call, inputs=inputs, input_gradients=gradients)


Kind = Literal["code", "module", "whole model", "gradient of code", "gradient of module", "gradient of parameter"]


@dataclass(frozen=True)
class Mismatch:
    """A place that was compared: the largest difference there, what is allowed, and the largest value of the tensor.

    `ours` and `theirs` are the JAX and the torch tensor in one layout. `kind` says what was computed since torch's own
    tensors: the code between two modules, one module, one of these backwards, or the whole model. Without a `place` it
    is the returned array `output`, or a parameter's gradient. With `boundary` only the line between module and code is
    drawn elsewhere, and the next place agrees. With `carried` the difference comes from another place by a residual.
    `wrong_operation` is the first one of the JAX model there whose result differs from torch's, if that is known.
    """

    kind: Kind
    before: str
    after: str
    torch: str
    place: Place | None
    difference: float
    allowed: float
    scale: float
    output: int = 0
    boundary: bool = False
    carried: bool = False
    wrong_operation: WrongOperation | None = field(default=None, repr=False, compare=False)
    ours: Array | None = field(default=None, repr=False, compare=False)
    theirs: Array | None = field(default=None, repr=False, compare=False)

    @property
    def out(self) -> bool:
        return not self.boundary and not self.carried and not self.difference <= self.allowed

    @property
    def has_own_shape(self) -> bool:
        """Tells whether torch's tensor fits the JAX one in no layout."""
        return self.ours is not None and self.theirs is not None and self.ours.shape != self.theirs.shape

    @property
    def key(self) -> tuple[str, str, str, Place | None]:
        return self.kind, self.before, self.after, self.place

    @property
    def relative(self) -> float:
        return self.difference / self.scale if self.scale else (0.0 if not self.difference else float("inf"))

    def __str__(self) -> str:
        if self.kind == "module":
            return f"{self.after}"
        if self.kind == "code":
            return f"between {self.before} and {self.after}"
        if self.kind == "whole model":
            return f"{self.after} of the JAX model run by itself"
        if self.kind == "gradient of code":
            return f"gradient, from {self.after} back to {self.before}"
        return f"gradient of {self.after}" if self.kind == "gradient of parameter" else f"gradient through {self.after}"


class Forcing:
    """torch's tensors, laid out for the places of the JAX model; `seen` are the values that arrived there.

    If `enough` names places, the pass is broken off when all of them have been seen.
    """

    def __init__(
        self,
        pairing: Pairing,
        truth: Recording,
        layouts: dict[Place, Layout | None],
        free: frozenset[Place] = frozenset(),
    ) -> None:
        calls = {call.key: call for call in truth.calls}
        self._tensors = {link.jax.call.key: tensors_of(link, calls) for link in pairing.links}
        self._layouts = layouts
        self._free = free
        self.seen: dict[Place, Array] = {}
        self.enough: set[Place] = set()

    def __call__(self, place: Place, value: Array) -> Array | None:
        tensors = self._tensors.get((place.path, place.number))
        if tensors is None:
            return None
        self.seen[place] = value
        if place in self.enough:
            self.enough.discard(place)
            if not self.enough:
                raise Enough
        theirs = self.theirs(place, value)
        return None if theirs is None or place in self._free else theirs

    def theirs(self, place: Place, value: Array | None = None) -> Array | None:
        """Returns torch's tensor at a place in the layout of the JAX model, if there is one that fits."""
        theirs = self._tensors[place.path, place.number].at(place)
        if theirs is None:
            return None
        plain = place._replace(gradient=False)
        if plain not in self._layouts:
            if value is None:
                return None
            self._layouts[plain] = nearest(theirs, value, usual_axes(self._layouts.values(), theirs.ndim))
        layout = self._layouts[plain]
        if layout is None or (place.gradient and layout.sums):
            return None
        return layout(theirs)

    def output_layout(self, theirs: Array, ours: Array) -> Layout | None:
        """Returns how a returned array of torch lies in one of the JAX model."""
        return output_layout(theirs, ours, self._layouts.values())


def scale_of(tensor: Array) -> float:
    """Returns the largest finite value of a tensor, without its sign."""
    return float(np.abs(tensor[np.isfinite(tensor)]).max(initial=0.0))


def loss_of(truth: Array | None, rounded: Array | None) -> float:
    """Returns the largest difference between a tensor computed in float64 and in float32."""
    if truth is None or rounded is None or truth.shape != rounded.shape:
        return 0.0
    return float(distances(truth, rounded).max(initial=0.0))


@dataclass
class Passes:
    """The passes of a comparison: torch in float64 and in float32, and the JAX pass to judge.

    `jax32` is its float32 pass, if that is another. `exact` tells that the JAX pass and torch's compute everything in
    float64, so that the bounds are as much smaller than those of float32 as its eps.
    """

    truth: Recording
    torch32: Recording
    jax: tuple[Forcing, Recording]
    jax32: tuple[Forcing, Recording] | None
    exact: bool = False


def compare_places(
    pairing: Pairing, weights: Sequence[Weight], passes: Passes, outputs: Sequence[tuple[int, int]]
) -> list[Mismatch]:
    """Compares all places of the JAX passes with torch's tensors there, in the order of the JAX calls."""
    forcing, recording = passes.jax
    other = passes.jax32
    rounded = {call.key: call for call in passes.torch32.calls}
    result: list[Mismatch] = []
    previous = "the inputs"
    torch32 = {link.jax.call.key: tensors_of(link, rounded) for link in pairing.links}
    links = {link.jax.call.key: link for link in pairing.links}
    truth_calls = {call.key: call for call in passes.truth.calls}
    truth = {link.jax.call.key: tensors_of(link, truth_calls) for link in pairing.links}
    following = _following([call for call in recording.calls if call.key in links])
    eps = EPS["float64" if passes.exact else "float32"]

    def add(kind: Kind, place: Place, before: str, after: str, link: Link) -> None:
        if place not in forcing.seen:
            return
        ours, theirs = forcing.seen[place], forcing.theirs(place)
        if theirs is None:
            raw = truth[link.jax.call.key].at(place)
            if raw is not None and not place.gradient and raw.dtype.kind == "f" and place.index == 0:
                result.append(
                    Mismatch(
                        kind, before, after, str(link.torch[0].call), place, np.inf, 0.0, 1.0, ours=ours, theirs=raw
                    )
                )
            return
        if theirs.dtype.kind not in "f":
            return
        loss_torch = loss_of(truth[link.jax.call.key].at(place), torch32[link.jax.call.key].at(place))
        loss_jax = loss_of(ours, other[0].seen.get(place)) if other else 0.0
        result.append(
            compare(kind, before, after, str(link.torch[0].call), place, ours, theirs, eps, loss_torch, loss_jax)
        )

    for call in recording.calls:
        if (link := links.get(call.key)) is None:
            continue
        name = str(call)
        for i in range(len(call.inputs)):
            add("code", Place(*call.key, "input", i), previous, name, link)
        for i in range(len(call.outputs)):
            add("module", Place(*call.key, "output", i), name, name, link)
            add("gradient of code", Place(*call.key, "output", i, True), name, following[call.key], link)
        for i in range(len(call.inputs)):
            add("gradient of module", Place(*call.key, "input", i, True), name, name, link)
        previous = name
    for a, b in outputs:
        ours, theirs, name = recording.outputs[b], passes.truth.outputs[a], f"output {b}"
        layout = forcing.output_layout(theirs, ours)
        if layout is None:
            place = Mismatch("code", previous, name, f"output {a}", None, np.inf, 0.0, 1.0, ours=ours, theirs=theirs)
        else:
            losses = loss_of(theirs, passes.torch32.outputs[a]), loss_of(ours, other[1].outputs[b]) if other else 0.0
            place = compare("code", previous, name, f"output {a}", None, ours, layout(theirs), eps, *losses)
        result.append(replace(place, output=b))
    for weight in weights:
        theirs_g, theirs_32 = weight.gradient(passes.truth.gradients), weight.gradient(passes.torch32.gradients)
        ours_g = recording.gradients.get(weight.jax)
        if theirs_g is None or ours_g is None:
            continue
        loss_jax = loss_of(ours_g, other[1].gradients.get(weight.jax)) if other else 0.0
        result.append(
            compare(
                "gradient of parameter", "", weight.jax, weight.sources[0].name, None, ours_g, theirs_g, eps,
                loss_of(theirs_g, theirs_32), loss_jax,
            )
        )  # fmt: skip
    return result


def compare(
    kind: Kind,
    before: str,
    after: str,
    torch: str,
    place: Place | None,
    ours: Array,
    theirs: Array,
    eps: float,
    *losses: float,
) -> Mismatch:
    """Compares two tensors. `losses` are what each side's computation loses in float32, `eps` that of the bound."""
    difference = float(distances(ours, theirs).max(initial=0.0))
    scale = scale_of(theirs)
    loss = max((loss for loss in losses if np.isfinite(loss)), default=0.0)
    rounding = 0.0 if theirs.dtype.kind in "biu" else ALLOWED_EPS * eps * scale
    allowed = max(ALLOWED_LOSS * loss * eps / EPS["float32"], rounding)
    if "c" not in (ours.dtype.kind, theirs.dtype.kind):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return Mismatch(kind, before, after, torch, place, difference, allowed, scale, ours=ours, theirs=theirs)


def _following(calls: Sequence[Call]) -> dict[tuple[str, int], str]:
    names = [*(str(call) for call in calls[1:]), "the output"]
    return {call.key: name for call, name in zip(calls, names, strict=False)}
