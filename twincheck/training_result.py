"""What training side by side computes and finds: the pass of a step, its differences, and the result of all steps."""

from dataclasses import dataclass, field
from typing import Literal

from twincheck.recording import Array
from twincheck.report import Finding

Kind = Literal["loss", "output", "gradient", "state", "update", "average"]


@dataclass(frozen=True)
class Difference:
    """What a step computed, in both models: the largest difference, what is allowed, and the largest value.

    `kind` "loss" is the loss at torch's outputs, or its gradient there; "state" a running statistic; "update" what the
    optimizer adds to a parameter; "average" an average of the parameters.
    """

    step: int
    kind: Kind
    name: str
    torch: str
    difference: float
    allowed: float
    scale: float

    @property
    def out(self) -> bool:
        return not self.difference <= self.allowed

    @property
    def relative(self) -> float:
        return self.difference / self.scale if self.scale else (0.0 if not self.difference else float("inf"))

    def __str__(self) -> str:
        return f"step {self.step}: {self.kind} of {self.name}, {self.relative:.1e} of its size"


@dataclass
class Training:
    """The result of `train`.

    `first` is the first difference that is out, `largest` the largest of each kind in parts of its size. `losses` are
    torch's. `drift` is the largest difference of any parameter or running statistic, at any step, when the JAX model
    trains by itself; only in float64, and without parameters whose gradient is 0 but for rounding. `notes` name these,
    and differences that are smaller than float32's rounding.
    """

    steps: int = 0
    first: Difference | None = None
    largest: dict[Kind, Difference] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    drift: float | None = None

    @property
    def same(self) -> bool:
        """Tells whether both train alike: nothing is out in any step."""
        return self.first is None and not self.findings

    def __str__(self) -> str:
        found = f"first mismatch: {self.first}" if self.first else "no mismatch"
        drift = "" if self.drift is None else f"; by itself the JAX model drifts by up to {self.drift:.1e}"
        lines = [f"{self.steps} steps, {found}{drift}"]
        lines += [f"    {kind}: up to {worst.relative:.1e} (step {worst.step})" for kind, worst in self.largest.items()]
        lines += [f"{f.name}: {f.says}" + (f" Fix: {f.fix}" if f.fix else "") for f in self.findings]
        return "\n".join([*lines, *self.notes])


@dataclass
class Pass:
    """What torch computes in a step before its update: outputs, the loss and its gradients, and the new buffers."""

    outputs: list[Array]
    loss: float
    cotangents: list[Array]
    gradients: dict[str, Array]
    buffers: dict[str, Array]
