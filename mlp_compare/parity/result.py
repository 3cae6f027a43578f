"""What a check of two sides finds."""

from dataclasses import dataclass, field

from mlp_compare.parity import bound_table
from mlp_compare.parity.sign_flips import Crossing
from mlp_compare.parity.worker import FreeRun
from twincheck.comparison import Difference
from twincheck.trace import Trace

_PHASES = {
    "batch": "batch",
    "inputs": "batch",
    "loss": "loss",
    "logits.grad": "backward",
    "gradients": "backward",
    "momentums": "update",
    "parameters": "update",
}
"""By kind of quantity; the others are of the forward pass."""


@dataclass(frozen=True)
class Departure:
    """The first thing out of its bound. Step 0 is before the first step."""

    step: int
    difference: Difference
    note: str = ""

    @property
    def phase(self) -> str:
        """The part of a step, or what is beside the steps: start, evaluation, whole epochs."""
        kind = bound_table.kind(self.difference.name)
        if kind.startswith("epochs."):
            return "whole epochs"
        if kind.startswith("evaluation."):
            return "evaluation"
        if kind == "parameters" and self.step == 0:
            return "start"
        return _PHASES.get(kind, "forward")

    def __str__(self) -> str:
        return f"step {self.step}, {self.phase}, {self.difference}" + (f"; {self.note}" if self.note else "")


class Departed(Exception):
    """Ends a check at its first departure."""

    def __init__(self, departure: Departure, traces: tuple[Trace, Trace] | None = None) -> None:
        super().__init__(str(departure))
        self.departure, self.traces = departure, traces


@dataclass(frozen=True)
class Worst:
    """Of all differences of a kind the one that used up most of its bound."""

    step: int
    difference: Difference


@dataclass
class Report:
    """`worst` is by kind of quantity, `correct` by step, `free_runs` are the trainers' own epochs.

    `drifts` are differences that rounding built up, `losses` (steps,) both sides'.
    """

    worst: dict[str, Worst] = field(default_factory=dict)
    crossings: list[Crossing] = field(default_factory=list)
    near_ties: list[str] = field(default_factory=list)
    drifts: list[str] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    departure: Departure | None = None
    departure_traces: tuple[Trace, Trace] | None = None
    steps_compared: int = 0
    correct: dict[int, tuple[int, int]] = field(default_factory=dict)
    free_runs: tuple[FreeRun, FreeRun] | None = None

    def take(self, kind: str, step: int, found: Difference) -> None:
        if kind not in self.worst or found.share > self.worst[kind].difference.share:
            self.worst[kind] = Worst(step, found)
