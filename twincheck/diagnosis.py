"""Names the causes of places that differ, in words.

A cause is a setting that differs between two paired modules, or a known difference between the frameworks whose patch
makes the mismatch vanish, or a simple operation that turns the JAX tensor into torch's.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from twincheck.calls import join
from twincheck.causes.cause import Cause
from twincheck.causes.evidence import recognise
from twincheck.causes.recurrent import recognise_gru
from twincheck.causes.settings import SettingMismatch, compare_settings
from twincheck.causes.table import BY_NAME, HYPOTHESES
from twincheck.check import Mismatch
from twincheck.layouts import weight_layouts
from twincheck.recording import Array, Patch, reason
from twincheck.report import UNKNOWN, Finding

_VANISHES = 30
"""A hypothesis explains a place if it makes the difference this many times smaller, or smaller than its bound."""

_STANDS = 3
"""The same factor for a place whose value is within its bound, but whose gradients are not."""

_SECOND_CAUSES = 12
"""If no hypothesis explains a place alone, the best one is tried together with up to this many others."""

TIED = "tied-weights"
"""The cause that is found by giving a JAX parameter the values of another parameter of torch."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A change of the JAX side that undoes one difference.

    It is a patch, or settings of modules by path, name and value, or other values of parameters by name.
    """

    cause: Cause
    evidence: str
    patch: Patch | None = None
    settings: tuple[tuple[str, str, Any], ...] = ()
    parameters: Mapping[str, Array] = field(default_factory=dict)


def diagnose(pair: Any, places: Sequence[Mismatch]) -> tuple[list[Finding], list[str]]:
    """Returns a finding for each cause of the places that are out, and notes.

    They name settings that differ without effect and, if a cause is unknown, hypotheses that could not be tried.
    """
    out = [place for place in places if place.out]
    settings = list(_settings_that_differ(pair))
    if not out:
        return [], _notes(settings, set())
    modules = {link.jax.call.path for link in pair.pairing.links}
    stretches = {_stretch(place, modules) for place in out}
    probe = Probe(pair, [p for p in places if p.kind in ("code", "module") and _stretch(p) in stretches])
    found = _explain(probe, [*_of_settings(settings), *_of_tied_weights(pair)])
    mended = {path for tried in found.hypotheses.values() for hypothesis in tried for path, _, _ in hypothesis.settings}
    findings = _findings(pair, out, modules, _causes(pair, probe, found))
    unknown = any(finding.name == UNKNOWN for finding in findings)
    return findings, _notes(settings, mended) + (_not_tried(probe.failed) if unknown else [])


class Probe:
    """Runs the JAX model forward on torch's tensors under hypotheses, and looks at the places that are out.

    `failed` has the errors of hypotheses that the model fails with, each tried alone.
    """

    def __init__(self, pair: Any, places: Sequence[Mismatch]) -> None:
        self.places = places
        self.failed: list[tuple[Cause, Exception]] = []
        self._pair = pair
        self._base = self._values(())
        self._sources = [self._sources_of(place) for place in places]

    def _sources_of(self, place: Mismatch) -> list[int]:
        """Returns the places before this one whose difference a residual may have carried on to it, nearest first."""
        found: list[int] = []
        for index, other in enumerate(self.places):
            if other is place:
                return found[::-1] if place.kind == "code" else []
            if other.kind == "code" and (other.out or other.carried) and _shape(other) == _shape(place):
                found.append(index)
        return []

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[Array | None]:
        patches = [hypothesis.patch for hypothesis in hypotheses if hypothesis.patch is not None]
        settings: dict[str, dict[str, Any]] = defaultdict(dict)
        for hypothesis in hypotheses:
            for path, name, value in hypothesis.settings:
                settings[path][name] = value
        parameters = {name: array for hypothesis in hypotheses for name, array in hypothesis.parameters.items()}
        return list(self._pair.forward_values(self.places, patches, settings, parameters))

    def shown(self, index: int, *, specific: bool = False) -> tuple[str, ...]:
        """Returns the causes that the values of a place show, with what residuals carried there or without."""
        place = self.places[index]
        if place.ours is None or place.theirs is None:
            return ()
        before, embedded = self._pair.before(place), self._pair.embedded(place)
        carried = [_apart(self.places[i].ours, self.places[i].theirs) for i in self._sources[index]]
        for ours in (place.ours, *(place.ours - difference for difference in carried)):
            if name := recognise(ours, place.theirs, before, embedded, specific=specific):
                return (name,)
        return self._shown_by_recurrence(place, place.ours, place.theirs)

    def _shown_by_recurrence(self, place: Mismatch, ours: Array, theirs: Array) -> tuple[str, ...]:
        """Returns what is mistaken in the GRU whose output a place has, if anything is."""
        for call in self._pair.calls_to(place):
            if call.kind == "GRU" and call.outputs and call.outputs[0].size == ours.size:
                first = bool(call.settings.get("batch_first"))
                arrays = self._pair.torch.parameters
                weights = {name: arrays[join(call.path, name)] for name in call.parameters}
                causes = recognise_gru(ours, theirs, call.inputs[0], weights, batch_first=first)
                if causes:
                    return causes
        return ()

    def relevant(self, causes: Sequence[Cause]) -> Iterator[Hypothesis]:
        """Yields the patches of those causes that change a function which the model calls, or that may."""
        patches = [cause.patch for cause in causes if cause.patch is not None]
        called = self._pair.called(frozenset[str]().union(*(patch.names or () for patch in patches)))
        for cause in causes:
            if cause.patch is not None and (cause.patch.names is None or cause.patch.names & called):
                yield Hypothesis(cause, "the mismatch vanishes with it undone", cause.patch)

    def changes(self, hypotheses: Sequence[Hypothesis]) -> Iterator[tuple[int, float]]:
        """Yields the places that these hypotheses change, by index, with the differences that are left."""
        try:
            values = self._values(hypotheses)
        except Exception as error:
            if len(hypotheses) == 1:
                self.failed.append((hypotheses[0].cause, error))
            return
        for index, (place, before, after) in enumerate(zip(self.places, self._base, values, strict=True)):
            if after is None or before is None or place.theirs is None:
                continue
            if after.shape != place.theirs.shape:
                yield index, np.inf
            elif not np.array_equal(before, after, equal_nan=True):
                yield index, self._left(index, values)

    def _left(self, index: int, values: Sequence[Array | None]) -> float:
        """Returns the difference at a place, but for what a residual carried there."""
        with np.errstate(invalid="ignore"):
            apart = _apart(values[index], self.places[index].theirs)
            carried = [_apart(values[i], self.places[i].theirs) for i in self._sources[index] if values[i] is not None]
            left = min(float(np.abs(apart - other).max(initial=0.0)) for other in (np.zeros_like(apart), *carried))
        return np.inf if np.isnan(left) else left


@dataclass
class Explanations:
    """Explanations of places, by their index: hypotheses, one or several together, and causes that values show."""

    hypotheses: dict[int, tuple[Hypothesis, ...]] = field(default_factory=dict)
    values: dict[int, tuple[str, ...]] = field(default_factory=dict)


def _explain(probe: Probe, settings: Sequence[Hypothesis]) -> Explanations:
    """Explains the places that are out; those that are not, and stand for gradients, are explained by the way.

    Settings come first, each alone and all together, then values that show a cause for certain, then patches until each
    place is explained. Of several hypotheses the first is taken, or one that leaves far less.
    """
    found = Explanations()
    changing: dict[int, list[tuple[float, Hypothesis]]] = defaultdict(list)
    least: dict[int, float] = defaultdict(lambda: np.inf)
    wanted = {index for index, place in enumerate(probe.places) if place.out} or set(range(len(probe.places)))

    def left() -> set[int]:
        return wanted - found.hypotheses.keys() - found.values.keys()

    def try_all(hypotheses: Iterable[Hypothesis]) -> None:
        for hypothesis in hypotheses:
            for index, rest in probe.changes((hypothesis,)):
                changing[index].append((rest, hypothesis))
                if rest * _VANISHES < least[index] and _vanishes(probe.places[index], rest):
                    found.hypotheses[index], least[index] = (hypothesis,), rest

    try_all(settings)
    for index in left():
        together = tuple(hypothesis for _, hypothesis in changing[index])
        if len(together) > 1 and _vanishes(probe.places[index], dict(probe.changes(together)).get(index, np.inf)):
            found.hypotheses[index] = together
    for index in left():
        if names := probe.shown(index, specific=True):
            found.values[index] = names
    shown = {name for names in found.values.values() for name in names}
    try_all(probe.relevant([cause for cause in HYPOTHESES if cause.name in shown]))
    if left():
        rest = probe.relevant([cause for cause in HYPOTHESES if cause.name not in shown])
        try_all(itertools.takewhile(lambda _: left(), rest))
    for index in left():
        if padding := _padding_behind(probe, found, probe.places[index]):
            found.hypotheses[index] = padding
    pairs: dict[tuple[Hypothesis, Hypothesis], dict[int, float]] = {}
    for index in left():
        candidates = sorted(changing[index], key=_left)
        for second in [hypothesis for _, hypothesis in candidates[1:_SECOND_CAUSES]]:
            both = candidates[0][1], second
            if both not in pairs:
                pairs[both] = dict(probe.changes(both))
            if _vanishes(probe.places[index], pairs[both].get(index, np.inf)):
                found.hypotheses[index] = both
                break
    for index in left():
        if probe.places[index].out and (names := probe.shown(index)):
            found.values[index] = names
    return found


def _padding_behind(probe: Probe, found: Explanations, place: Mismatch) -> tuple[Hypothesis, ...]:
    """Returns what explains the module behind a place, if it is padding and torch pads before that module."""
    if place.kind == "code" and place.has_own_shape:
        for index, tried in found.hypotheses.items():
            module = probe.places[index]
            if (module.kind, module.after) == ("module", place.after) and all("padding" in h.cause.name for h in tried):
                return tried
    return ()


def _shape(place: Mismatch) -> tuple[int, ...] | None:
    return None if place.ours is None else place.ours.shape


def _apart(ours: Array | None, theirs: Array | None) -> Array:
    return np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)


def _left(candidate: tuple[float, Hypothesis]) -> float:
    return candidate[0]


def _vanishes(place: Mismatch, left: float) -> bool:
    """Tells whether what is left explains a place. One that is not out itself stands for gradients that are."""
    if not place.out:
        return left < place.difference / _STANDS
    return left <= place.allowed or left < place.difference / _VANISHES


def _settings_that_differ(pair: Any) -> Iterator[tuple[str, SettingMismatch]]:
    for link in pair.pairing.links:
        if len(link.torch) == 1 and link.piece is None and link.jax.call.number == 0:
            theirs, ours = link.torch[0].call, link.jax.call
            for mismatch in compare_settings(theirs.kind, theirs.settings, ours.kind, ours.settings):
                yield ours.path, mismatch


def _of_settings(settings: Sequence[tuple[str, SettingMismatch]]) -> list[Hypothesis]:
    """Returns a hypothesis for each setting that differs, for all modules in which it differs in the same way."""
    groups: dict[tuple[str, str], list[tuple[str, str, Any]]] = defaultdict(list)
    for path, mismatch in settings:
        if mismatch.cause in BY_NAME and mismatch.has_option:
            changes = {mismatch.jax_name: mismatch.expected, **mismatch.derived}
            groups[mismatch.cause, str(mismatch)] += [(path, name, value) for name, value in changes.items()]
    return [Hypothesis(BY_NAME[cause], text, None, tuple(changes)) for (cause, text), changes in groups.items()]


def _of_tied_weights(pair: Any) -> Iterator[Hypothesis]:
    """Yields a hypothesis for each JAX parameter without a counterpart that torch may share with another module."""
    torch, ours = pair.torch.parameters, pair.jax.parameters
    made = {weight.jax for weight in pair.weights}
    sources = dict.fromkeys(source.name for weight in pair.weights for source in weight.sources)
    for name, array in ours.items():
        for source in sources if name not in made and array.ndim > 1 else ():
            for layout in weight_layouts("Linear", torch[source].shape, array.shape):
                evidence = f"the mismatch vanishes with torch's {source} as {name}"
                yield Hypothesis(BY_NAME[TIED], evidence, parameters={name: layout(torch[source])})


def _notes(settings: Sequence[tuple[str, SettingMismatch]], explained: set[str]) -> list[str]:
    """Returns the settings that differ and explain no place, each kind once."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, mismatch in settings:
        if path not in explained:
            fix = "" if mismatch.has_option else f". Fix: {BY_NAME[mismatch.cause].fix}"
            groups[str(mismatch), fix].append(path)
    return [
        f"{text}, at {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "") + fix
        for (text, fix), paths in groups.items()
    ]


def _not_tried(failed: Sequence[tuple[Cause, Exception]]) -> list[str]:
    """Returns a line for each error, with the causes that it kept from being tried."""
    causes: dict[str, list[str]] = defaultdict(list)
    for cause, error in failed:
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
        causes[f"{type(error).__name__}: {reason(error)}"].append(cause.name)
    return [
        f"not tried where the cause is unknown: {', '.join(dict.fromkeys(names))} (the JAX model fails then: {error})"
        for error, names in causes.items()
    ]


Stretch = tuple[str, str]
Named = tuple[Cause | None, str]
"""A cause, or None, and the evidence for it."""


def _causes(pair: Any, probe: Probe, found: Explanations) -> dict[Stretch, list[Named]]:
    """Returns the causes of each stretch of code that is out forward."""
    result: dict[Stretch, list[Named]] = defaultdict(list)
    for index, place in enumerate(probe.places):
        if index in found.hypotheses:
            result[_stretch(place)] += [(h.cause, h.evidence) for h in found.hypotheses[index]]
        elif place.out:
            names = found.values.get(index, ("",))
            result[_stretch(place)] += [(BY_NAME.get(name), "the values show it") for name in names]
    for hypothesis in dict.fromkeys(h for tried in found.hypotheses.values() for h in tried):
        for path in _sharing(pair, hypothesis.parameters):
            result[path, path].append((hypothesis.cause, hypothesis.evidence))
    return result


def _findings(
    pair: Any, out: Sequence[Mismatch], modules: set[str], causes: dict[Stretch, list[Named]]
) -> list[Finding]:
    """Returns a finding for each cause, in the order of their first places.

    Gradients go with their stretch's cause. Where that stretch agrees forward, they come from code behind it that uses
    the same tensor or parameter.
    """
    groups: dict[tuple[str, str], tuple[Cause | None, str, list[Mismatch]]] = {}
    for number, place in enumerate(out):
        stretch = _stretch(place, modules)
        if stretch not in causes and place.kind == "gradient of code":
            stretch = next((_stretch(other) for other in out[number:] if other.kind == "code"), stretch)
        in_module = place.kind != "gradient of parameter" or stretch[0] in modules
        if stretch not in causes and (name := recognise(place.ours, place.theirs, specific=not in_module)):
            causes[stretch] = [(BY_NAME.get(name), "the values of the gradient show it")]
        if stretch not in causes and place.kind == "gradient of parameter":
            stretch = _code_with(pair, place, out, in_module) or stretch
        for cause, evidence in causes.get(stretch, [(None, "")]):
            key = (cause.name, evidence) if cause else (UNKNOWN, str(stretch))
            places = groups.setdefault(key, (cause, evidence, []))[2]
            if place not in places:
                places.append(place)
    return [_finding(cause, evidence, places) for cause, evidence, places in groups.values()]


def _code_with(pair: Any, parameter: Mismatch, out: Sequence[Mismatch], in_module: bool) -> Stretch | None:
    """Returns the code that is out and uses a parameter, if any is.

    That of a module is used once more behind it, as tied weights are; another one where its module would be.
    """
    code = [place for place in out if place.kind == "code"]
    if in_module:
        return _stretch(code[-1]) if code else None
    start = -1
    for group in pair.pairing.groups:
        if parameter.after in group.jax.parameters:
            start = next(i for i, call in enumerate(pair.truth.calls) if call.key == group.torch[0].call.key)
    return next((_stretch(place) for place in code if len(pair.calls_to(place)) > start), None)


def _sharing(pair: Any, parameters: Mapping[str, Array]) -> Iterator[str]:
    """Yields the JAX modules that hold the same torch weights as these parameters."""
    for array in parameters.values():
        for weight in pair.weights:
            if any(pair.torch.parameters[source.name].size == array.size for source in weight.sources):
                yield weight.jax.rpartition(".")[0]


def _stretch(place: Mismatch, modules: Iterable[str] = ()) -> Stretch:
    """Returns the code that a place tests: between two modules, or one module."""
    if place.kind == "gradient of parameter":
        owner = place.after.rpartition(".")[0]
        inside = [path for path in modules if owner == path or owner.startswith(join(path, ""))]
        return (max(inside, key=len), max(inside, key=len)) if inside else (place.after, place.after)
    return place.before, "the output" if place.after.startswith("output ") else place.after


def _finding(cause: Cause | None, evidence: str, places: Sequence[Mismatch]) -> Finding:
    places = sorted(places, key=lambda place: place.kind.startswith("gradient"))
    if cause is None:
        return Finding(UNKNOWN, f"{places[0]} differs, and no known cause explains it.", "", tuple(places))
    references = tuple(page for page in (cause.torch_reference, cause.jax_reference) if page)
    return Finding(cause.name, cause.says, cause.fix, tuple(places), evidence, references)
