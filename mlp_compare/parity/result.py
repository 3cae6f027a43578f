"""Result of a parity check."""

from dataclasses import dataclass, field

from mlp_compare.parity import bound_table
from mlp_compare.parity.sign_flips import SignFlip
from mlp_compare.parity.worker import FreeRun
from mlp_workload.optimizer import SLOTS
from twincheck.comparison import Difference
from twincheck.trace import Trace

_PHASES = {
    **dict.fromkeys(("batch", "inputs"), "batch"),
    "loss": "loss",
    **dict.fromkeys(("logits.grad", "gradients"), "backward"),
    **dict.fromkeys((*map(bound_table.kind, SLOTS), "optimizer", "parameters"), "update"),
}
"""Phase of a step by kind of quantity; all other kinds belong to the forward pass."""


@dataclass(frozen=True)
class Mismatch:
    """The first difference that exceeds its bound. Step 0 is before the first step."""

    step: int
    difference: Difference
    note: str = ""

    @property
    def phase(self) -> str:
        """The part of a step, or "start", "evaluation" or "whole epochs"."""
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


class MismatchFound(Exception):
    """Ends a check at its first mismatch."""

    def __init__(self, mismatch: Mismatch, traces: tuple[Trace, Trace] | None = None) -> None:
        super().__init__(str(mismatch))
        self.mismatch, self.traces = mismatch, traces


@dataclass(frozen=True)
class Worst:
    """The difference with the least headroom among all of one kind."""

    step: int
    difference: Difference


@dataclass
class Report:
    """Everything that a check measured.

    `worst` is by kind of quantity, `correct` by step, `losses` (steps,) has both sides. `drifts` are differences that
    rounding built up, `free_runs` the runs by the trainers' own epochs.
    """

    worst: dict[str, Worst] = field(default_factory=dict)
    sign_flips: list[SignFlip] = field(default_factory=list)
    near_ties: list[str] = field(default_factory=list)
    drifts: list[str] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    mismatch: Mismatch | None = None
    mismatch_traces: tuple[Trace, Trace] | None = None
    steps_compared: int = 0
    correct: dict[int, tuple[int, int]] = field(default_factory=dict)
    free_runs: tuple[FreeRun, FreeRun] | None = None

    def take(self, kind: str, step: int, difference: Difference) -> None:
        if kind not in self.worst or difference.headroom < self.worst[kind].difference.headroom:
            self.worst[kind] = Worst(step, difference)
