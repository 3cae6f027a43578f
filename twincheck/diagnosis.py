"""From places that differ to causes in words."""

from collections.abc import Sequence
from typing import Any

from twincheck.check import Mismatch
from twincheck.report import Finding


def diagnose(pair: Any, places: Sequence[Mismatch]) -> list[Finding]:
    """Returns a finding for each cause of the places that are out."""
    out = [place for place in places if place.out]
    return [Finding("unknown", f"{place} differs.", "", (place,)) for place in out]
