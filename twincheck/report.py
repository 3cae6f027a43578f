"""What a check found: every place compared, the causes, and what could not be paired."""

from collections.abc import Sequence
from dataclasses import dataclass

from twincheck.check import Mismatch
from twincheck.pairing import Pairing


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

    `findings` come with the first place that they explain, in the order of the calls. `notes` are differences that change
    no place by more than rounding, as settings that differ. `free` are the largest difference of each output and the
    largest value of it, when the JAX model runs by itself.
    """

    pairing: Pairing
    missing: Sequence[str]
    places: Sequence[Mismatch]
    findings: Sequence[Finding]
    notes: Sequence[str] = ()
    free: Sequence[tuple[float, float]] = ()

    @property
    def out(self) -> list[Mismatch]:
        return [place for place in self.places if place.out]

    @property
    def same(self) -> bool:
        """Tells whether the two are one model: no place is out, and every parameter has a counterpart."""
        return not self.findings and not self.missing and not self.pairing.torch_outside

    def __str__(self) -> str:
        lines = [f"{len(self.places)} places, {len(self.out)} out"]
        for finding in self.findings:
            lines.append(f"{finding.name}: {finding.says} Fix: {finding.fix} ({len(finding.places)} places)")
            lines += [f"    {place}: {place.relative:.1e}, allowed {place.allowed:.1e}" for place in finding.places]
        return "\n".join([*lines, *self.notes])
