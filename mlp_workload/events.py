"""What happens in a run, told to whoever listens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.metrics import Mistakes


@dataclass(frozen=True)
class RunStarted:
    """Everything is loaded and compiled; the first step comes next. `facts` are the summary's, as far as known."""

    config: Config
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RunResumed:
    """The run goes on after `step` steps, maybe by the other framework. `facts` are as at its start, now."""

    config: Config
    facts: Mapping[str, Any]
    step: int


@dataclass(frozen=True)
class TrainLosses:
    """One epoch: `losses` (steps,) are each step's mean over its batch, in nats. Steps and epochs count from 1.

    `labels_digest`, SHA-256 of the labels in the epoch's order, tells whether two runs saw the same batches.
    """

    epoch: int
    first_step: int
    losses: npt.NDArray[np.floating[Any]]
    labels_digest: str
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """The test set after `step` steps.

    `test_loss` is the true mean over examples in nats, `article_test_loss` the number that the tutorial prints.
    """

    epoch: int
    step: int
    test_loss: float
    article_test_loss: float
    test_correct: int
    test_examples: int
    mistakes: Mistakes
    seconds: float

    @property
    def test_accuracy(self) -> float:
        return self.test_correct / self.test_examples


@dataclass(frozen=True)
class Warned:
    message: str


@dataclass(frozen=True)
class RunFinished:
    """`summary` is what summary.json holds."""

    summary: Mapping[str, Any]


Event = RunStarted | RunResumed | TrainLosses | Evaluated | Warned | RunFinished


class Sink(Protocol):
    """Somewhere events go."""

    def emit(self, event: Event) -> None: ...

    def close(self) -> None: ...
