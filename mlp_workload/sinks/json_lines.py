"""Events as one JSON object a line: every step's loss and every evaluation, readable while the run goes on."""

import dataclasses
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlp_workload import strict_json
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, Event, RunFinished, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Mistakes
from mlp_workload.run_folder import clear_write_errors


class JsonLines:
    """Writes events to a new file, each flushed as it comes. Numbers that JSON lacks (nan, infinities) become null."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with clear_write_errors(path):
            self._file = path.open("xb", buffering=0)

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
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            yield _event(json.loads(line))
        except (ValueError, KeyError, TypeError, UserError) as error:
            raise UserError(f"{path}, line {number} is not an event of a run: {error!r}") from error


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case RunStarted():
            return {"config": json.loads(event.config.to_json()), **event.facts}
        case TrainLosses():
            return dataclasses.asdict(event) | {"losses": event.losses.tolist()}
        case Evaluated():
            return dataclasses.asdict(event) | {"test_accuracy": event.test_accuracy}
        case _:
            return dataclasses.asdict(event)


def _event(fields: Mapping[str, Any]) -> Event:
    match fields["event"]:
        case "run_started":
            facts = {name: value for name, value in fields.items() if name not in ("event", "time", "config")}
            return RunStarted(Config.from_json(json.dumps(fields["config"])), facts)
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
