"""Events as one JSON object a line: every step's loss and every evaluation, readable while the run goes on."""

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

from mlp_workload import strict_json
from mlp_workload.events import Evaluated, Event, RunStarted, TrainLosses
from mlp_workload.run_folder import clear_write_errors


class JsonLines:
    """Writes events to a new file, each flushed as it comes. Numbers that JSON lacks (nan, infinities) become null."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with clear_write_errors(path):
            self._file = path.open("x", encoding="utf-8")

    def emit(self, event: Event) -> None:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        line = strict_json.dumps({"event": name, "time": time.time()} | _fields(event))
        with clear_write_errors(self._path):
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        with clear_write_errors(self._path):
            self._file.close()


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case RunStarted():
            return {"config": json.loads(event.config.to_json()), **event.facts}
        case TrainLosses():
            return dataclasses.asdict(event) | {"losses": event.losses.tolist()}
        case Evaluated(epoch, step, evaluation, article_test_loss, seconds):
            return {
                "epoch": epoch,
                "step": step,
                "test_loss": evaluation.loss,
                "article_test_loss": article_test_loss,
                "test_correct": evaluation.correct,
                "test_examples": evaluation.examples,
                "test_accuracy": evaluation.accuracy,
                "seconds": seconds,
            }
        case _:
            return dataclasses.asdict(event)
