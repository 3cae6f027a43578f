"""The events of a run, and what the dashboard and the report make of them."""

from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fuzz.target import Target
from mlp_workload.config import Config
from mlp_workload.data import load
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Mistakes, confusion_matrix
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import JsonLines, events_until
from mlp_workload.visdom.picture import Picture

_FACTS = {
    "framework": "jax",
    "framework_version": "1",
    "device": "cpu",
    "dataset_digest": load("mnist").digest,
    "environment": {"python": "3", "versions": {"jax": "1"}},
}


def read(content: bytes, folder: Path) -> None:
    path = folder / "events.jsonl"
    path.write_bytes(content)
    recorded = RecordedRun.load(folder)
    assert isinstance(recorded.framework, str)
    # Other sets would be looked for in places that the content names.
    picture = Picture(recorded.dataset if recorded.config.dataset == "mnist" else None)
    for event in recorded.events:
        picture.take(event)
    for curve in (picture.train_loss, picture.test_loss, picture.test_accuracy):
        steps, values = curve.points()
        assert steps.shape == values.shape
    _ = recorded.train_losses, recorded.summary, picture.labels
    if recorded.config.dataset == "mnist" and recorded.dataset is not None and recorded.evaluations:
        labels = recorded.dataset.test.labels
        classes = recorded.dataset.classes
        predictions = recorded.evaluations[-1].mistakes.predicted(labels, classes)
        assert confusion_matrix(labels, predictions, classes).sum() == len(labels)
    events_until(path, 3, 3)


def _seeds() -> tuple[bytes, ...]:
    config = Config(epochs=2)
    epochs: list[list[Event]] = [
        [
            TrainLosses(epoch, 3 * epoch - 2, np.array([2.5, 0.3, np.nan]), "d", 0.5),
            Evaluated(epoch, 3 * epoch, 0.7, 0.07, 9_998, 10_000, Mistakes([1, 4], [3, 0]), 0.1),
        ]
        for epoch in (1, 2)
    ]
    seconds = {f"{part}_seconds": 1.0 for part in ("compile", "train", "evaluate", "total")}
    finished: list[Event] = [Warned("the loss is nan"), RunFinished(seconds)]
    return (
        _lines([RunStarted(config, _FACTS), *epochs[0], *epochs[1], *finished]),
        _lines([RunStarted(config, _FACTS), *epochs[0], RunResumed(config, _FACTS, 3), *epochs[1]]),
    )


def _lines(events: list[Event]) -> bytes:
    with TemporaryDirectory() as folder:
        sink = JsonLines(Path(folder, "events.jsonl"))
        for event in events:
            sink.emit(event)
        sink.close()
        return Path(folder, "events.jsonl").read_bytes()


_NAMES = {field.name for kind in (Config, Evaluated, Mistakes, TrainLosses, RunResumed) for field in fields(kind)}
TARGET = Target(
    read,
    _seeds(),
    (*sorted(_NAMES), *_FACTS, "run_started", "run_resumed", "train_losses", "evaluated", "warned", "run_finished",
     "null", "true", "-1", "1e999", "NaN", "[]", "{}", "[[1]]", '"0"', "9007199254740993", "\\ud800"),
)  # fmt: skip
