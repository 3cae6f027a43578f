"""Collects from a run's events what its windows show."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.batches import batch_sizes
from mlp_workload.data import Dataset
from mlp_workload.data.dataset import Images
from mlp_workload.errors import escaped
from mlp_workload.events import Evaluated, Event, RunStarted, TrainLosses
from mlp_workload.metrics import group_means

Floats = npt.NDArray[np.float64]

SHOWN = 100
"""Number of test images shown, from the first on, ten to a row."""
POINTS = 20_000
"""Most points of a curve; more stop a browser. Longer runs show means of neighbouring steps."""
_ROW, _GAP = 10, 2


@dataclass
class Curve:
    """Values by step, and their weights in a mean."""

    steps: list[Floats] = field(default_factory=list)
    values: list[Floats] = field(default_factory=list)
    weights: list[npt.NDArray[Any]] = field(default_factory=list)

    def add(self, first_step: int, values: npt.ArrayLike, weights: npt.ArrayLike = 1) -> None:
        """Adds values of consecutive steps. Infinities, which JSON lacks, become nan, a gap in the curve."""
        array = np.atleast_1d(np.asarray(values, np.float64))
        self.steps.append(np.arange(first_step, first_step + len(array), dtype=np.float64))
        self.values.append(np.where(np.isfinite(array), array, np.nan))
        self.weights.append(np.broadcast_to(weights, array.shape))

    def points(self, limit: int = POINTS) -> tuple[Floats, Floats]:
        """Returns steps (n,) and values (n,); above `limit` points, means over groups of neighbours.

        A mean whose sum overflows is nan.
        """
        if not self.steps:
            return np.empty(0), np.empty(0)
        steps, values, weights = map(np.concatenate, (self.steps, self.values, self.weights))
        size = -(-len(steps) // limit)
        return group_means(steps, np.ones(len(steps)), size), group_means(values, weights, size)


class Picture:
    """Curves of one run, test images, and their predictions.

    `version` counts the changes by training and by tests. Without a `dataset` there are no images and no labels.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self.train_loss, self.test_loss, self.test_accuracy = Curve(), Curve(), Curve()
        self.version = {"train": 0, "test": 0}
        self._predictions: Sequence[int] = ()
        self._step = 0
        self._examples = self._batch_size = 1

    def take(self, event: Event) -> None:
        """Adds an event."""
        match event:
            case RunStarted(config, facts):
                self._batch_size, self._examples = config.batch_size, facts.get("train_examples", 1)
                self.version["train"] += 1
                self.version["test"] += 1
            case TrainLosses():
                sizes = batch_sizes(event.first_step, len(event.losses), self._examples, self._batch_size)
                self.train_loss.add(event.first_step, event.losses, sizes)
                self.version["train"] += 1
            case Evaluated():
                self.test_loss.add(event.step, event.test_loss)
                self.test_accuracy.add(event.step, event.test_accuracy)
                self._step = event.step
                if self._dataset is not None:
                    labels, classes = self._dataset.test.labels, self._dataset.classes
                    self._predictions = event.mistakes.predicted(labels, classes)[:SHOWN].tolist()
                self.version["test"] += 1

    @property
    def images(self) -> Images | None:
        """The shown test images as one, (rows * (height + 2), 10 * (width + 2)) uint8."""
        if self._dataset is None:
            return None
        images = self._dataset.upright(self._dataset.test.images[:SHOWN])
        _, height, width = images.shape
        rows = -(-len(images) // _ROW)
        grid = np.zeros((rows * _ROW, height + _GAP, width + _GAP), np.uint8)
        grid[: len(images), :height, :width] = images
        grid = grid.reshape(rows, _ROW, height + _GAP, width + _GAP).swapaxes(1, 2)
        return grid.reshape(rows * (height + _GAP), _ROW * (width + _GAP))

    @property
    def labels(self) -> str | None:
        """The predictions of the shown images in the same layout, as HTML; wrong ones are highlighted."""
        if self._dataset is None or not len(self._predictions):
            return None
        truth = self._dataset.test.labels[:SHOWN].tolist()
        names = [html.escape(escaped(name)) for name in self._dataset.class_names]
        right, cells = 0, []
        for predicted, label in zip(self._predictions, truth, strict=True):
            right += predicted == label
            style = "color:#000" if predicted == label else "color:#fff;background:#b00020"
            cells.append(f'<td style="padding:4px 9px;{style}" title="{names[label]}">{names[predicted]}</td>')
        rows = ["".join(cells[i : i + _ROW]) for i in range(0, len(cells), _ROW)]
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        return (
            f'<p style="color:#000">step {self._step}: {right} of the first {len(truth)} right</p>'
            f'<table style="font-family:monospace;text-align:center">{table}</table>'
        )
