"""What an evaluation says, from sums and counts: never a mean of means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError


@dataclass(frozen=True)
class Mistakes:
    """Test examples that were taken for another class: their numbers in the test set, and the class, both (n,)."""

    examples: Sequence[int]
    predictions: Sequence[int]

    def predicted(self, labels: npt.NDArray[np.integer[Any]], classes: int) -> npt.NDArray[np.integer[Any]]:
        """The predictions (m,) for test examples of these `labels` (m,): the labels, but for the mistakes.

        Raises `UserError` where there is no such example, or a prediction that is none of the `classes`.
        """
        if max(self.examples, default=0) >= len(labels) or max(self.predictions, default=0) >= classes:
            raise UserError(f"mistakes of a test set other than one of {len(labels)} examples in {classes} classes")
        predictions = labels.copy()
        predictions[list(self.examples)] = self.predictions
        return predictions


def weighted_means(
    values: npt.NDArray[np.floating[Any]],
    weights: npt.NDArray[Any],
    starts: Sequence[int] | npt.NDArray[np.integer[Any]] = (0,),
) -> npt.NDArray[np.float64]:
    """Weighted means of neighbouring `values` (n,), one for each group; `starts` are the indices where groups begin.

    A mean whose sum overflows is an infinity, or nan.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        means: npt.NDArray[np.float64] = np.add.reduceat(values * weights, starts) / np.add.reduceat(weights, starts)
    return means


def group_means(values: npt.NDArray[np.float64], weights: npt.NDArray[Any], size: int) -> npt.NDArray[np.float64]:
    """Weighted means of neighbouring `values` (n,), `size` to a group; the last group may be smaller.

    A mean whose sum overflows is nan.
    """
    if size == 1:
        return values
    means = weighted_means(values, weights, np.arange(0, len(values), size))
    return np.where(np.isfinite(means), means, np.nan)


def confusion_matrix(
    labels: npt.NDArray[np.integer[Any]], predictions: npt.NDArray[np.integer[Any]], classes: int
) -> npt.NDArray[np.int64]:
    """(classes, classes): how many of the examples (n,) of the row's label were taken for the column's."""
    flat = labels.astype(np.int64) * classes + predictions
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Recall:
    """How many of a class's examples were recognised."""

    name: str
    correct: int
    examples: int

    @property
    def share(self) -> float | None:
        """None for a class without examples."""
        return self.correct / self.examples if self.examples else None

    @property
    def brief(self) -> str:
        return "0 of 0" if self.share is None else f"{self.share:.1%}"

    def __str__(self) -> str:
        return self.brief if self.share is None else f"{self.correct} of {self.examples} = {self.share:.2%}"


def recalls(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> list[Recall]:
    """The recall of each class, from a confusion matrix (classes, classes)."""
    return [
        Recall(name, int(row[label]), int(row.sum()))
        for label, (name, row) in enumerate(zip(names, confusion, strict=True))
    ]


def worst(recalls: Iterable[Recall]) -> Recall:
    """The first one with the smallest share, among those of classes with examples."""
    return min((one for one in recalls if one.examples), key=lambda one: one.correct / one.examples)


@dataclass(frozen=True)
class Evaluation:
    """One pass over a test set of n examples, each counted once.

    `losses` (n,) are cross-entropies in nats without label smoothing, in the run's dtype; `predictions` (n,) the first
    largest logit; `labels` (n,) the truth; `positive` (classes,) whether a logit, after the last activation, was above
    0 for at least one example; `margins` (n,) by how much the largest logit exceeds the next, in the run's dtype.
    """

    losses: npt.NDArray[np.floating[Any]]
    predictions: npt.NDArray[np.integer[Any]]
    labels: npt.NDArray[np.integer[Any]]
    positive: npt.NDArray[np.bool_]
    margins: npt.NDArray[np.floating[Any]]

    @classmethod
    def of_parts(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """Of a test set whose examples are in one of the `parts` each, in order."""
        losses, predictions, labels, margins = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("losses", "predictions", "labels", "margins")
        )
        return cls(losses, predictions, labels, np.any([part.positive for part in parts], axis=0), margins)

    @property
    def examples(self) -> int:
        return len(self.labels)

    @cached_property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def mistakes(self) -> Mistakes:
        wrong = np.flatnonzero(self.predictions != self.labels)
        return Mistakes(wrong.tolist(), self.predictions[wrong].tolist())

    @property
    def accuracy(self) -> float:
        return self.correct / self.examples

    @cached_property
    def loss(self) -> float:
        """True mean over examples, in nats, summed in float64."""
        return float(self.losses.sum(dtype=np.float64)) / self.examples

    def article_loss(self, batch_size: int) -> float:
        """The number that the tutorial prints as "average loss".

        It adds up the batches' mean losses and divides by the number of examples, so that it is the true mean over
        the batch size where batches are of one size: ten equal logits at batch 200 give ln(10) / 200 = 0.011513.
        """
        starts = np.arange(0, self.examples, batch_size)
        sums = np.add.reduceat(self.losses.astype(np.float64), starts)
        return float((sums / np.diff(starts, append=self.examples)).sum()) / self.examples

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(classes, classes): how many examples of the row's label were taken for the column's."""
        return confusion_matrix(self.labels, self.predictions, len(self.positive))

    @property
    def lost_classes(self) -> list[int]:
        """Labels that occur and are never predicted rightly: recall 0."""
        return np.flatnonzero((self.confusion.sum(axis=1) > 0) & (self.confusion.diagonal() == 0)).tolist()

    @property
    def never_positive(self) -> list[int]:
        """Logits that are not above 0 for any example; behind a ReLU they have no gradient left to learn from."""
        return np.flatnonzero(~self.positive).tolist()
