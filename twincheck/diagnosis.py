"""From places that differ to causes in words.

A cause is a setting that differs between two paired modules, or a known difference between the frameworks whose patch
makes the mismatch vanish, or a simple operation that turns the JAX tensor into torch's.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twincheck.calls import join
from twincheck.causes.evidence import recognise
from twincheck.causes.settings import SettingMismatch, compare_settings
from twincheck.causes.table import BY_NAME, HYPOTHESES, Cause
from twincheck.check import Mismatch
from twincheck.recording import Array
from twincheck.report import Finding

_VANISHES = 30
"""A hypothesis explains a place if it makes the mismatch this many times smaller, or brings it within its bound."""

_STANDS = 3
"""The same for a place that is within its bound while gradients there are out."""

_SECOND_CAUSES = 40
"""Second hypotheses that are tried at a place that none explains alone."""


@dataclass(frozen=True)
class Hypothesis:
    """A change of the JAX side that undoes one difference: a patch, or settings of modules: path, name and value."""

    cause: Cause
    evidence: str
    patch: Any = None
    settings: tuple[tuple[str, str, Any], ...] = ()


def diagnose(pair: Any, places: Sequence[Mismatch]) -> tuple[list[Finding], list[str]]:
    """Returns a finding for each cause of the places that are out, and notes on settings that differ without effect."""
    out = [place for place in places if place.out]
    settings = list(_settings_that_differ(pair))
    if not out:
        return [], _notes(settings, set())
    modules = {link.jax.call.path for link in pair.pairing.links}
    stretches = {_stretch(place, modules) for place in out}
    probe = Probe(pair, [p for p in places if p.kind in ("code", "module") and _stretch(p) in stretches])
    explained = _by_hypotheses(probe, _of_settings(settings))
    mended = {path for found in explained.values() for hypothesis in found for path, _, _ in hypothesis.settings}
    return _findings(pair, out, modules, probe.places, explained), _notes(settings, mended)


class Probe:
    """Runs the JAX model forward on torch's tensors under hypotheses, and looks at the places that are out."""

    def __init__(self, pair: Any, places: Sequence[Mismatch]) -> None:
        self.places = places
        self._pair = pair
        self._base = self._values(())

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[Array | None]:
        patches = [hypothesis.patch for hypothesis in hypotheses if hypothesis.patch is not None]
        settings: dict[str, dict[str, Any]] = defaultdict(dict)
        for hypothesis in hypotheses:
            for path, name, value in hypothesis.settings:
                settings[path][name] = value
        return list(self._pair.forward_values(self.places, patches, settings))

    def relevant(self, causes: Sequence[Cause]) -> Iterator[Hypothesis]:
        """Yields the patches of those causes that change a function which the model calls, or that may."""
        names = frozenset[str]().union(*(getattr(cause.patch, "names", ()) for cause in causes))
        called = self._pair.called(names)
        for cause in causes:
            changes = getattr(cause.patch, "names", None)
            if changes is None or changes & called:
                yield Hypothesis(cause, "the mismatch vanishes with it undone", cause.patch)

    def changes(self, hypotheses: Sequence[Hypothesis]) -> Iterator[tuple[int, float]]:
        """Yields the places that these hypotheses change, by index, with the differences that are left."""
        try:
            values = self._values(hypotheses)
        except Exception:  # a patch that doesn't fit this model
            return
        for index, (place, before, after) in enumerate(zip(self.places, self._base, values, strict=True)):
            if after is None or before is None or place.theirs is None or after.shape != place.theirs.shape:
                continue
            if not np.array_equal(before, after, equal_nan=True):
                with np.errstate(invalid="ignore"):
                    left = float(np.abs(np.asarray(after, np.float64) - place.theirs).max(initial=0.0))
                yield index, np.inf if np.isnan(left) else left


def _by_hypotheses(probe: Probe, settings: Sequence[Hypothesis]) -> dict[int, tuple[Hypothesis, ...]]:
    """Returns the hypotheses that explain places, by the index of the place: one, or two together.

    Settings come first, then patches until each place is explained. Of several the one that leaves least is taken.
    """
    explained: dict[int, tuple[Hypothesis, ...]] = {}
    changing: dict[int, list[tuple[float, Hypothesis]]] = defaultdict(list)

    def explain(hypotheses: Iterable[Hypothesis]) -> None:
        for hypothesis in hypotheses:
            if len(explained) == len(probe.places):
                return
            for index, left in probe.changes((hypothesis,)):
                better = left < min((_left(candidate) for candidate in changing[index]), default=np.inf)
                changing[index].append((left, hypothesis))
                if better and _vanishes(probe.places[index], left):
                    explained[index] = (hypothesis,)

    explain(settings)
    if len(explained) < len(probe.places):
        explain(probe.relevant(HYPOTHESES))
    pairs: dict[tuple[Hypothesis, Hypothesis], dict[int, float]] = {}
    for index, candidates in changing.items():
        if index in explained or len(candidates) < 2:
            continue
        candidates.sort(key=_left)
        first = candidates[0][1]
        for _, second in candidates[1:_SECOND_CAUSES]:
            if (first, second) not in pairs:
                pairs[first, second] = dict(probe.changes((first, second)))
            if _vanishes(probe.places[index], pairs[first, second].get(index, np.inf)):
                explained[index] = (first, second)
                break
    return explained


def _left(candidate: tuple[float, Hypothesis]) -> float:
    return candidate[0]


def _vanishes(place: Mismatch, left: float) -> bool:
    """Tells whether what is left explains a place. One that is not out itself stands for gradients that are."""
    if not place.out:
        return left < place.difference / _STANDS
    return left <= max(place.allowed, place.difference / _VANISHES)


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
        if mismatch.cause in BY_NAME:
            groups[mismatch.cause, str(mismatch)].append((path, mismatch.jax_name, mismatch.expected))
    return [Hypothesis(BY_NAME[cause], text, None, tuple(changes)) for (cause, text), changes in groups.items()]


def _notes(settings: Sequence[tuple[str, SettingMismatch]], explained: set[str]) -> list[str]:
    """Returns the settings that differ and explain no place, each kind once."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, mismatch in settings:
        if path not in explained:
            groups[str(mismatch)].append(path)
    return [
        f"{text}, at {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for text, paths in groups.items()
    ]


def _findings(
    pair: Any,
    out: Sequence[Mismatch],
    modules: set[str],
    forward: Sequence[Mismatch],
    explained: dict[int, tuple[Hypothesis, ...]],
) -> list[Finding]:
    """Returns a finding for each cause, in the order of their first places; gradients go with their stretch's cause."""
    by_stretch: dict[tuple[str, str], list[tuple[Cause | None, str]]] = {}
    for index, place in enumerate(forward):
        if index in explained:
            causes: list[tuple[Cause | None, str]] = [(h.cause, h.evidence) for h in explained[index]]
        elif place.out:
            name = recognise(place.ours, place.theirs, pair.before(place)) if place.ours is not None else None
            causes = [(BY_NAME.get(name or ""), "the values show it")]
        else:
            continue
        by_stretch.setdefault(_stretch(place), []).extend(causes)
    groups: dict[tuple[str, str], tuple[Cause | None, str, list[Mismatch]]] = {}
    for place in out:
        stretch = _stretch(place, modules)
        known = stretch in by_stretch or place.ours is None or place.theirs is None
        if not known and (name := recognise(place.ours, place.theirs)):
            by_stretch[stretch] = [(BY_NAME.get(name), "the values of the gradient show it")]
        for cause, evidence in by_stretch.get(stretch, [(None, "")]):
            key = (cause.name, evidence) if cause else ("unknown", str(stretch))
            places = groups.setdefault(key, (cause, evidence, []))[2]
            if place not in places:
                places.append(place)
    return [_finding(cause, evidence, places) for cause, evidence, places in groups.values()]


def _stretch(place: Mismatch, modules: Iterable[str] = ()) -> tuple[str, str]:
    """Returns the code that a place tests: between two modules, or one module."""
    if place.kind == "gradient of parameter":
        owner = place.after.rpartition(".")[0]
        inside = [path for path in modules if owner == path or owner.startswith(join(path, ""))]
        return (max(inside, key=len), max(inside, key=len)) if inside else (place.after, place.after)
    return place.before, place.after


def _finding(cause: Cause | None, evidence: str, places: Sequence[Mismatch]) -> Finding:
    places = sorted(places, key=lambda place: place.kind.startswith("gradient"))
    if cause is None:
        return Finding("unknown", f"{places[0]} differs, and no known cause explains it.", "", tuple(places))
    references = tuple(page for page in (cause.torch_reference, cause.jax_reference) if page)
    return Finding(cause.name, cause.says, cause.fix, tuple(places), evidence, references)
