"""Reads a run from its folder, whether it is finished, running, or was killed."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload import data
from mlp_workload.batches import batch_sizes
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.files import expand
from mlp_workload.sinks.json_lines import last_fact, read_events

T = TypeVar("T")


@lru_cache(maxsize=4)
def load_if_present(source: str, transpose: bool | None) -> Dataset | None:
    """Returns the data set `source`, without a download; None if it is not here."""
    try:
        return data.load(source, transpose, prepare=False)
    except UserError:
        return None


@dataclass(frozen=True)
class RecordedRun:
    """`facts` are those of its `RunStarted`, which `events` begin with; `config` is what it went on by last."""

    folder: Path
    config: Config
    facts: Mapping[str, Any]
    events: tuple[Event, ...]

    @classmethod
    def load(cls, folder: Path) -> "RecordedRun":
        """Loads the run in `folder`. Raises `UserError` if there is none that has begun."""
        folder = expand(folder)
        try:
            if not folder.is_dir():
                raise UserError(f"{folder}: no such run folder")
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror or error}") from error
        events = tuple(read_events(folder / "events.jsonl"))
        if not events or not isinstance(first := events[0], RunStarted):
            raise UserError(f"{folder}: the run has no events yet")
        config = next(event.config for event in reversed(events) if isinstance(event, RunStarted | RunResumed))
        return cls(folder, config, first.facts, events)

    @classmethod
    def load_all(cls, folders: Iterable[Path]) -> list["RecordedRun"]:
        """Loads the runs in `folders`, and in the folders of `--seeds` all that they hold."""
        runs: list[RecordedRun] = []
        for folder in map(expand, folders):
            many = os.path.lexists(folder / "seeds.json") and not os.path.lexists(folder / "events.jsonl")
            seeds = sorted(folder.glob("seed-*"), key=lambda path: (len(path.name), path.name)) if many else []
            if many and not seeds:
                raise UserError(f"{folder}: a seeds.json without the run of any seed")
            runs += [cls.load(one) for one in seeds or [folder]]
        return runs

    def fact(self, name: str, kind: type[T] = str) -> T:  # type: ignore[assignment]
        """Returns one of the facts. Raises `UserError` if the events lack it, or it is no `kind`."""
        value = self.facts.get(name)
        if not isinstance(value, kind):
            raise UserError(f"{self.folder}: its events do not say its {name.replace('_', ' ')}")
        return value

    @property
    def all_facts(self) -> list[Mapping[str, Any]]:
        """The facts of its start, and of each time that it was resumed."""
        return [event.facts for event in self.events if isinstance(event, RunStarted | RunResumed)]

    @property
    def framework(self) -> str:
        return self.fact("framework")

    @cached_property
    def trained(self) -> list[TrainLosses]:
        return [event for event in self.events if isinstance(event, TrainLosses)]

    @cached_property
    def train_losses(self) -> npt.NDArray[np.float64]:
        """(steps,): the mean of each step's batch, from step 1 on."""
        return np.concatenate([np.empty(0), *(event.losses for event in self.trained)])

    @cached_property
    def batch_sizes(self) -> npt.NDArray[np.int64]:
        """(steps,): the examples in each step's batch, or ones if the events don't tell how many there were."""
        return batch_sizes(1, len(self.train_losses), self.facts.get("train_examples", 1), self.config.batch_size)

    @cached_property
    def evaluations(self) -> list[Evaluated]:
        return [event for event in self.events if isinstance(event, Evaluated)]

    @property
    def warnings(self) -> list[str]:
        """Each warning once: a run that is resumed repeats those about its data."""
        return list(dict.fromkeys(event.message for event in self.events if isinstance(event, Warned)))

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """The summary; None if the run is not finished."""
        last = self.events[-1]
        return last.summary if isinstance(last, RunFinished) else None

    @cached_property
    def dataset(self) -> Dataset | None:
        """The data set; None if it is gone, or is not what the run was trained on."""
        dataset = load_if_present(self.config.dataset, self.config.transpose_images)
        images = last_fact(self.all_facts, "images")
        return None if dataset is None else dataset.as_trained(self.fact("dataset_digest"), images)
