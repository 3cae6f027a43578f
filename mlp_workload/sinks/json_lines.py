"""Writes and reads events.jsonl: one JSON object per event, readable while the run goes on."""

import dataclasses
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from mlp_workload.config import Config
from mlp_workload.errors import UserError, refusal
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.files import clear_write_errors, open_regular, to_json
from mlp_workload.metrics import Mistakes

_LARGEST_LINE = 2**28
"""Most bytes of a line, the losses of an epoch of ten million steps."""

_START = re.compile(rb'\{"event": ?"run_(started|resumed)"')


class JsonLines:
    """Writes events to a file, each at once. Numbers that JSON lacks (nan, infinities) become null."""

    def __init__(self, path: Path, resumed: bool = False) -> None:
        """Creates the file, or opens that of a `resumed` run."""
        self._path = path
        with clear_write_errors(path):
            self._file = open_regular(path, "ab", 0) if resumed else path.open("xb", buffering=0)

    def emit(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        line = to_json({"event": name, "time": time.time()} | _fields(event))
        with clear_write_errors(self._path):
            rest = memoryview(f"{line}\n".encode())
            while rest:  # a disk that fills up first takes a part
                rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        self._file.close()


def read_events(path: Path) -> Iterator[Event]:
    """Yields the events of a finished, running or killed run; an incomplete last line is left out.

    A null among numbers is nan. Raises `UserError`, naming the line, if it is not such a file.
    """
    return (event for event, _ in _read(path))


def read_starts(path: Path) -> list[RunStarted | RunResumed]:
    """Returns the run's start and its resumptions. Other lines are not parsed, and may be damaged.

    Raises `UserError`, naming the line, if one of them is damaged, or if the start is missing.
    """
    starts = [event for event, _ in _read(path, _START) if isinstance(event, RunStarted | RunResumed)]
    if not starts:
        raise UserError(f"{path}: the run's start is missing")
    return starts


def last_fact(facts: Iterable[Mapping[str, Any]], name: str) -> Any:
    """Returns the last value of a fact, with `facts` in order of time; None if it was never recorded."""
    return next((recorded[name] for recorded in reversed([*facts]) if name in recorded), None)


def events_until(path: Path, step: int, epochs_end: int) -> tuple[list[Event], int]:
    """Returns the events up to `step`, and the byte where they end. `epochs_end` is the last step of a whole epoch.

    Unreadable content ends them too: after a power cut anything may follow what was synced. Raises `UserError` if the
    file ends before `step`, lacks a step, or has one twice.
    """
    kept: list[Event] = []
    passed: list[Event] = []
    end = trained = reached = 0
    try:
        for event, ends_at in _read(path):
            match event:
                case Evaluated(step=at) if at > epochs_end:
                    break
                case RunResumed(step=at) if at > step:
                    break
                case RunFinished():
                    break
                case TrainLosses(first_step=first) if first != trained + 1 or trained != reached:
                    raise UserError(f"{path}: step {first} comes behind step {trained}, after a test at step {reached}")
                case TrainLosses():
                    trained += len(event.losses)
                case Evaluated(step=at) if at != trained or (at == reached > 0):
                    raise UserError(f"{path}: a test at step {at} comes behind step {trained}")
                case RunStarted() if passed:
                    raise UserError(f"{path}: the run starts twice")
            if not passed and not isinstance(event, RunStarted):
                raise UserError(f"{path}: the run's start is missing")
            passed.append(event)
            if isinstance(event, Evaluated | RunStarted | RunResumed):  # other events may belong to a later epoch
                kept, end = list(passed), ends_at
                reached = event.step if isinstance(event, Evaluated) else reached
    except UserError as error:
        if not kept or reached < epochs_end:
            raise UserError(f"{error}, and the checkpoint is of step {step}") from error
    if not kept or reached < epochs_end:
        raise UserError(f"{path} ends after step {reached}, and the checkpoint is of step {step}")
    return kept, end


def check_can_change(path: Path) -> None:
    """Raises `UserError` if the file can't be changed."""
    with clear_write_errors(path):
        open_regular(path, "r+b").close()


def cut_events(path: Path, end: int) -> None:
    """Truncates the file at the byte `end`. Raises `UserError` if it can't."""
    with clear_write_errors(path), open_regular(path, "r+b") as file:
        file.truncate(end)
        os.fsync(file.fileno())


def _read(path: Path, only: re.Pattern[bytes] | None = None) -> Iterator[tuple[Event, int]]:
    """Yields each event and the byte where its line ends. Lines that do not match `only` are skipped."""
    end = 0
    for number, line in enumerate(_lines(path), start=1):
        end += len(line)
        if only and not only.match(line):
            continue
        try:
            yield _event(json.loads(line)), end
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError, UserError) as error:
            raise UserError(f"{path}, line {number} is not an event of a run: {refusal(error)}") from error


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular(path) as file:
            while (line := file.readline(_LARGEST_LINE)).endswith(b"\n"):
                yield line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if len(line) == _LARGEST_LINE:
        raise UserError(f"{path}: a line of more than {_LARGEST_LINE // 2**20} MiB")


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case RunStarted() | RunResumed():
            step = {"step": event.step} if isinstance(event, RunResumed) else {}
            return {**step, "config": json.loads(event.config.to_json()), **event.facts}
        case TrainLosses():
            return dataclasses.asdict(event) | {"losses": event.losses.tolist()}
        case Evaluated():
            return dataclasses.asdict(event) | {"test_accuracy": event.test_accuracy}
    return dataclasses.asdict(event)


def _event(fields: Mapping[str, Any]) -> Event:
    match fields["event"]:
        case "run_started" | "run_resumed" as name:
            facts = {key: value for key, value in fields.items() if key not in ("event", "time", "config", "step")}
            if not _count(facts.get("train_examples", 1)):
                raise ValueError("a training set has examples")
            config = Config.from_json(json.dumps(fields["config"]))
            if name == "run_started":
                return RunStarted(config, facts)
            return RunResumed(config, facts, _count(fields["step"]))
        case "train_losses":
            losses = fields["losses"]
            if not isinstance(losses, list) or not losses:
                raise ValueError("an epoch has losses")
            return TrainLosses(**_scalars(TrainLosses, fields), losses=np.array([_number(loss) for loss in losses]))
        case "evaluated":
            scalars = _scalars(Evaluated, fields)
            if not scalars["test_correct"] <= scalars["test_examples"] > 0:
                raise ValueError(f"{scalars['test_correct']} of {scalars['test_examples']} are right")
            mistakes = [[_count(value) for value in fields["mistakes"][name]] for name in ("examples", "predictions")]
            if len(mistakes[0]) != len(mistakes[1]):
                raise ValueError(f"{len(mistakes[0])} mistakes with {len(mistakes[1])} predictions")
            return Evaluated(**scalars, mistakes=Mistakes(*mistakes))
        case "warned":
            return Warned(**_scalars(Warned, fields))
        case "run_finished":
            if not isinstance(fields["summary"], dict):
                raise ValueError("a summary is an object")
            return RunFinished(fields["summary"])
        case name:
            raise ValueError(f"there is no event {name!r}")


def _scalars(kind: type, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of an event of type `kind` that are numbers or text. Raises `ValueError` if one is not."""
    parsers = {int: _count, float: _number, str: _words}
    types = get_type_hints(kind).items()
    return {name: parsers[field_type](fields[name]) for name, field_type in types if field_type in parsers}


def _words(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _count(value: object) -> int:
    # float64, in which curves are drawn, has all whole numbers up to 2**53.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 2**53:
        raise ValueError(f"{value!r} counts nothing")
    return value


def _number(value: object) -> float:
    if value is None:
        return float("nan")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no number")
    return float(value)
