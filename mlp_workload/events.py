"""Events of a run, and the sinks that receive them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.metrics import Mistakes


@dataclass(frozen=True)
class RunStarted:
    """The first step comes next: everything is loaded and compiled. `facts` go into the summary too."""

    config: Config
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class RunResumed:
    """The run goes on after `step` steps, maybe in the other framework. `facts` are those of now."""

    config: Config
    facts: Mapping[str, Any]
    step: int


@dataclass(frozen=True)
class TrainLosses:
    """One epoch of training. `losses` (steps,) are the batches' means in nats. Steps and epochs count from 1.

    `labels_digest` is the SHA-256 of the labels in the epoch's order. It is equal if two runs saw the same batches.
    """

    epoch: int
    first_step: int
    losses: npt.NDArray[np.floating[Any]]
    labels_digest: str
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of the test set, after `step` steps.

    `test_loss` is the mean over examples in nats; `article_test_loss` is the number that the tutorial prints.
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
    """A warning for the user."""

    message: str


@dataclass(frozen=True)
class RunFinished:
    """The end of the run. `summary` is the content of summary.json."""

    summary: Mapping[str, Any]


Event = RunStarted | RunResumed | TrainLosses | Evaluated | Warned | RunFinished


class Sink(Protocol):
    """Receives the events of a run."""

    def emit(self, event: Event) -> None: ...

    def close(self) -> None: ...
