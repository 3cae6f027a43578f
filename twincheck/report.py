"""The result of a check: every place compared, the causes, and what could not be paired."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.text import Text

from mlp_workload.cli.parse import clear_import_errors
from mlp_workload.errors import escaped
from mlp_workload.files import clear_write_errors, expand, write_atomically, write_json
from twincheck.check import Mismatch
from twincheck.conversion import code
from twincheck.first_wrong_operation import Line
from twincheck.pairing import Pairing
from twincheck.unpaired import Unpaired

UNKNOWN = "unknown"

_LISTED = 8
"""Most places with an unknown cause in the text; the JSON file and the page have all."""

_PACKAGES = ("torch", "jax", "flax", "equinox", "dm-haiku", "transformers", "numpy")


@dataclass(frozen=True)
class Finding:
    """A cause and the places that it explains. `name` is the cause's, or "unknown".

    `says` is a sentence on what differs, `fix` one on how to mend the JAX model, `references` are pages of both
    frameworks' documentation. `evidence` tells how the cause was established.
    """

    name: str
    says: str
    fix: str
    places: tuple[Mismatch, ...]
    evidence: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The result of `Pair.check`.

    `findings` come with the first place that they explain, in the order of the calls. `notes` are differences that
    change no place by more than rounding, as settings that differ. `free` are the largest difference of each output
    and the largest value of it, when the JAX model runs by itself. `pair` is what was checked.
    """

    pairing: Pairing
    missing: Sequence[str]
    places: Sequence[Mismatch]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    free: Sequence[tuple[float, float]] = ()
    unpaired: Sequence[Unpaired] = ()
    pair: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def out(self) -> list[Mismatch]:
        return [place for place in self.places if place.out]

    @property
    def same(self) -> bool:
        """Tells whether the two are one model: no place is out, and every parameter in use has a counterpart."""
        return not self.findings and not self.out and not self._needed

    @property
    def causes(self) -> list[Finding]:
        """The findings with a known cause."""
        return [finding for finding in self.findings if finding.name != UNKNOWN]

    @cached_property
    def unexplained(self) -> list[Mismatch]:
        """The places that are out without a known cause, in the order of the calls."""
        explained = {place for finding in self.causes for place in finding.places}
        return [place for place in self.out if place not in explained]

    @property
    def _needed(self) -> list[Unpaired]:
        return [parameter for parameter in self.unpaired if parameter.matters]

    @property
    def verdict(self) -> str:
        """The result in one line."""
        total = len(self.places)
        if self.same:
            backward = self.pair is None or self.pair.backward
            return f"the same in all {total} places, forward{' and backward' if backward else ''}"
        parts = []
        if self.causes:
            explained = len({place for finding in self.causes for place in finding.places})
            parts.append(f"{_count(len(self.causes), 'cause')} in {explained} of {total} places")
        if self.unexplained:
            count = len(self.unexplained)
            parts.append(f"{_count(count, 'place') if self.causes else f'{count} of {total} places'} of unknown cause")
        if self._needed:
            parts.append(f"{_count(len(self._needed), 'parameter')} without a counterpart")
        return f"not the same model: {', '.join(parts)}"

    def __str__(self) -> str:
        return self.__rich__().plain

    def __rich__(self) -> Text:
        """Returns the text with colours, for `rich.print` and for the command."""
        text = Text()
        for line in self._lines():
            text.append_text(Text.assemble(*[(escaped(part), style) for part, style in line], "\n"))
        text.rstrip()
        return text

    def _lines(self) -> Iterator[list[tuple[str, str]]]:
        yield [(self.verdict, "bold green" if self.same else "bold red")]
        for i, (difference, largest) in enumerate(self.free):
            relative = f"{difference / largest:.1e} of its largest value" if largest else f"{difference:.1e}"
            yield [(f"output {i} of the JAX model, run by itself, is off by {relative}", "")]
        for number, finding in enumerate(self.causes, 1):
            yield []
            yield [(f"{number}. {finding.name}: ", "bold"), (finding.says, "")]
            for title, entry in _details(finding):
                yield [(f"   {title:8s}  ", "dim"), (entry, "")]
        if self.unexplained:
            yield []
            yield [("unknown cause", "bold"), (" (sizes relative to the largest value of the tensor)", "dim")]
            for place in self.unexplained[:_LISTED]:
                yield [(f"   {size_of(place)}  ", ""), (_where(place), "")]
                for framework, operation in _code(place).items():
                    yield [(f"      {framework:5s}  ", "dim"), (operation, "")]
            if (more := len(self.unexplained) - _LISTED) > 0:
                yield [(f"   and {more} more: report.json(path) or report.html(path) has them all", "")]
        for title, entries in (("no counterpart", self.unpaired), ("notes", self.notes)):
            if entries:
                yield []
                yield [(title, "bold")]
                yield from ([(f"   {entry}", "")] for entry in entries)

    def as_dict(self) -> dict[str, Any]:
        """Returns everything but the tensors, as `json` writes it and the page shows it."""
        index = {place: i for i, place in enumerate(self.places)}
        return {
            "same": self.same,
            "verdict": self.verdict,
            "outputs": [{"difference": difference, "largest": largest} for difference, largest in self.free],
            "causes": [
                vars(finding)
                | {"places": [index[place] for place in finding.places if place in index], "extent": _extent(finding)}
                for finding in self.causes
            ],
            "unexplained": [index[place] for place in self.unexplained],
            "unpaired": [asdict(parameter) | {"says": str(parameter)} for parameter in self.unpaired],
            "notes": list(self.notes),
            "places": [_as_dict(place) for place in self.places],
            "weights": code(self.pair.weights, self.pair.torch.parameters) if self.pair else "",
            "versions": _versions(),
        }

    def json(self, path: str | Path) -> None:
        """Writes the report as JSON. A difference that is no number, as of tensors that don't fit, is null."""
        write_json(expand(Path(path)), self.as_dict())

    def html(self, path: str | Path) -> None:
        """Writes the report as one HTML page that needs no other file and no network."""
        with clear_import_errors():
            from twincheck.page import render

        path = expand(Path(path))
        with clear_write_errors(path):
            write_atomically(path, render(self.as_dict()).encode(errors="replace"))

    def pin(self, path: str | Path) -> None:
        """Writes what `twincheck.check_pin` needs to test the JAX model without torch."""
        from twincheck.pins import write

        write(self, expand(Path(path)))


def _extent(finding: Finding) -> dict[str, str]:
    """Returns where the places of a cause are and how large their differences."""
    if not finding.places:
        return {}
    worst = max(finding.places, key=lambda place: place.relative)
    return {
        "where": f"{_count(len(finding.places), 'place')}, the first: {_where(finding.places[0])}",
        **_code(finding.places[0]),
        "size": f"{'up to ' if len(finding.places) > 1 else ''}{size_of(worst)}",
    }


def _code(place: Mismatch) -> dict[str, str]:
    """Returns the first wrong operation of JAX at a place, and torch's there, with their lines of code."""
    wrong = place.wrong_operation
    ours = {"JAX": f"{wrong.operation}{_at(wrong.line)}"} if wrong else {}
    return ours | ({"torch": f"{wrong.torch}{_at(wrong.torch_line)}"} if wrong and wrong.torch else {})


def _at(line: Line | None) -> str:
    return f" at {line}" if line else ""


def _details(finding: Finding) -> Iterator[tuple[str, str]]:
    see = ", ".join(finding.references)
    for title, entry in (*_extent(finding).items(), ("fix", finding.fix), ("evidence", finding.evidence), ("see", see)):
        if entry:
            yield title, entry


def size_of(place: Mismatch) -> str:
    """Returns the difference at a place and what is allowed, relative to the tensor's largest value."""
    if place.ours is not None and place.theirs is not None and place.ours.shape != place.theirs.shape:
        return f"shape {place.ours.shape} in JAX, {place.theirs.shape} in torch"
    if not place.scale:
        return f"{place.difference:.1e} (torch has 0)"
    return f"{place.relative:.1e} (allowed {place.allowed / place.scale:.1e})"


def _where(place: Mismatch) -> str:
    return f"{place} (torch: {place.torch})" if place.torch and place.torch not in str(place) else str(place)


def _as_dict(place: Mismatch) -> dict[str, Any]:
    port = place.place
    return {
        "says": str(place),
        "kind": place.kind,
        "module": port.path if port else place.after.rpartition(".")[0] if "parameter" in place.kind else None,
        "call": port.number if port else 0,
        "tensor": f"{port.port} {port.index}" if port else place.after,
        "before": place.before,
        "after": place.after,
        "torch": place.torch,
        "out": place.out,
        "difference": place.difference,
        "allowed": place.allowed,
        "scale": place.scale,
        "relative": place.relative,
        "size": size_of(place),
        "code": _code(place),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _count(number: int, thing: str) -> str:
    return f"{number} {thing if number == 1 else f'{thing}s'}"
