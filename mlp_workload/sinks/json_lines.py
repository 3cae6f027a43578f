"""Events as one JSON object a line: every step's loss and every evaluation, readable while the run goes on."""

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlp_workload import strict_json
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Mistakes
from mlp_workload.run_folder import clear_write_errors


class JsonLines:
    """Writes events to a file, each flushed as it comes. Numbers that JSON lacks (nan, infinities) become null."""

    def __init__(self, path: Path, resumed: bool = False) -> None:
        """The file is new or, of a run that is `resumed`, there."""
        self._path = path
        with clear_write_errors(path):
            self._file = path.open("ab" if resumed else "xb", buffering=0)

    def emit(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        line = strict_json.dumps({"event": name, "time": time.time()} | _fields(event))
        with clear_write_errors(self._path):
            rest = memoryview(f"{line}\n".encode())
            while rest:  # at a disk that fills up a part is written, and only then it fails
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file that a run wrote, or is writing, or was killed at: a last line without an end is left out.

    A null among numbers is nan. Raises `UserError`, naming the line, where it is none of these.
    """
    return (event for event, _ in _read(path))


def cut_events(path: Path, step: int, epochs_end: int) -> list[Event]:
    """Takes out of the file what came after step `step` of the run, whose epochs were whole up to `epochs_end`.

    Returns what is left. Raises `UserError` where the file does not reach so far, and leaves it as it is.
    """
    kept: list[Event] = []
    passed: list[Event] = []
    end = reached = 0
    for event, ends_at in _read(path):
        match event:
            case Evaluated(step=at) if at > epochs_end:
                break
            case RunResumed(step=at) if at > step:
                break
            case RunFinished():
                break
        passed.append(event)
        if isinstance(event, Evaluated | RunStarted | RunResumed):  # else it may belong to what is taken out
            kept, end = list(passed), ends_at
            reached = event.step if isinstance(event, Evaluated) else reached
    if not kept or reached < epochs_end:
        raise UserError(f"{path} ends after step {reached}, and the checkpoint is of step {step}")
    with clear_write_errors(path), path.open("r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())
    return kept


def _read(path: Path) -> Iterator[tuple[Event, int]]:
    """Each event, and where its line ends."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    end = 0
    for number, line in enumerate(lines, start=1):
        end += len(line) + 1
        try:
            yield _event(json.loads(line)), end
        except (ValueError, KeyError, TypeError, UserError) as error:
            raise UserError(f"{path}, line {number} is not an event of a run: {error!r}") from error


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case RunStarted():
            return {"config": json.loads(event.config.to_json()), **event.facts}
        case RunResumed():
            return {"step": event.step, "config": json.loads(event.config.to_json()), **event.facts}
        case TrainLosses():
            return dataclasses.asdict(event) | {"losses": event.losses.tolist()}
        case Evaluated():
            return dataclasses.asdict(event) | {"test_accuracy": event.test_accuracy}
        case _:
            return dataclasses.asdict(event)


def _event(fields: Mapping[str, Any]) -> Event:
    match fields["event"]:
        case "run_started" | "run_resumed" as name:
            facts = {key: value for key, value in fields.items() if key not in ("event", "time", "config", "step")}
            config = Config.from_json(json.dumps(fields["config"]))
            return RunStarted(config, facts) if name == "run_started" else RunResumed(config, facts, fields["step"])
        case "train_losses":
            return TrainLosses(**_own(TrainLosses, fields) | {"losses": np.array(fields["losses"], float)})
        case "evaluated":
            own = _own(Evaluated, fields) | {"mistakes": Mistakes(**fields["mistakes"])}
            return Evaluated(**own | {name: _number(own[name]) for name in ("test_loss", "article_test_loss")})
        case "warned":
            return Warned(**_own(Warned, fields))
        case "run_finished":
            return RunFinished(**_own(RunFinished, fields))
        case other:
            raise ValueError(f"there is no event {other!r}")


def _own(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: fields[field.name] for field in dataclasses.fields(kind)}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
