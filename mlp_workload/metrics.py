"""Metrics of an evaluation, from sums and counts: never a mean of means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError


@dataclass(frozen=True)
class Mistakes:
    """Misclassified test examples: their indices in the test set and their predicted classes, both (n,)."""

    examples: Sequence[int]
    predictions: Sequence[int]

    def predicted(self, labels: npt.NDArray[np.integer[Any]], classes: int) -> npt.NDArray[np.integer[Any]]:
        """Returns the predictions (m,) for test examples with `labels` (m,): the labels, except for the mistakes.

        Raises `UserError` if an example or a predicted class does not exist.
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
    """Returns the weighted means of groups of neighbouring `values` (n,). Groups begin at the indices `starts`.

    A mean whose sum overflows is infinite or nan.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.add.reduceat(values * weights, starts) / np.add.reduceat(weights, starts))


def group_means(values: npt.NDArray[np.float64], weights: npt.NDArray[Any], size: int) -> npt.NDArray[np.float64]:
    """Returns the weighted means of groups of `size` neighbouring `values` (n,). The last group may be smaller.

    A mean whose sum overflows is nan.
    """
    if size == 1:
        return values
    means = weighted_means(values, weights, np.arange(0, len(values), size))
    return np.where(np.isfinite(means), means, np.nan)


def confusion_matrix(
    labels: npt.NDArray[np.integer[Any]], predictions: npt.NDArray[np.integer[Any]], classes: int
) -> npt.NDArray[np.int64]:
    """Returns counts (classes, classes): examples with the row's label that were predicted as the column's."""
    flat = labels.astype(np.int64) * classes + predictions
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Recall:
    name: str
    correct: int
    examples: int

    @property
    def fraction(self) -> float | None:
        """The recall as a fraction; None for a class without examples."""
        return self.correct / self.examples if self.examples else None

    @property
    def brief(self) -> str:
        return "0 of 0" if self.fraction is None else f"{self.fraction:.1%}"

    def __str__(self) -> str:
        return self.brief if self.fraction is None else f"{self.correct} of {self.examples} = {self.fraction:.2%}"


def recalls(confusion: npt.NDArray[np.int64], names: Sequence[str]) -> list[Recall]:
    """Returns the recall of each class, from a confusion matrix (classes, classes)."""
    columns = zip(names, confusion.diagonal().tolist(), confusion.sum(axis=1).tolist(), strict=True)
    return [Recall(*column) for column in columns]


def worst(recalls: Iterable[Recall]) -> Recall:
    """Returns the first one with the smallest fraction, among classes with examples."""
    return min((recall for recall in recalls if recall.examples), key=lambda recall: recall.correct / recall.examples)


@dataclass(frozen=True)
class Evaluation:
    """One pass over a test set of n examples, each counted once.

    Attributes:
        losses: (n,) cross-entropies in nats, without label smoothing, in the run's dtype.
        predictions: (n,) index of the largest logit, the first if several are equal.
        labels: (n,) true classes.
        positive: (classes,) whether a logit, after the last activation, was above 0 for at least one example.
        margins: (n,) distance of the largest logit from the next, in the run's dtype.
    """

    losses: npt.NDArray[np.floating[Any]]
    predictions: npt.NDArray[np.integer[Any]]
    labels: npt.NDArray[np.integer[Any]]
    positive: npt.NDArray[np.bool_]
    margins: npt.NDArray[np.floating[Any]]

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
        """Mean over examples in nats, summed in float64."""
        return float(self.losses.sum(dtype=np.float64)) / self.examples

    def article_loss(self, batch_size: int) -> float:
        """Returns the number that the tutorial prints as "average loss".

        It is the sum of the batches' mean losses over the number of examples. With equal batches this is the true mean
        over the batch size: ten equal logits at batch 200 give ln(10) / 200 = 0.011513.
        """
        starts = np.arange(0, self.examples, batch_size)
        sums = np.add.reduceat(self.losses.astype(np.float64), starts)
        return float((sums / np.diff(starts, append=self.examples)).sum()) / self.examples

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (classes, classes): examples with the row's label that were predicted as the column's."""
        return confusion_matrix(self.labels, self.predictions, len(self.positive))

    @property
    def lost_classes(self) -> list[int]:
        """Labels that occur and are never predicted correctly: recall 0."""
        return np.flatnonzero((self.confusion.sum(axis=1) > 0) & (self.confusion.diagonal() == 0)).tolist()

    @property
    def never_positive(self) -> list[int]:
        """Logits that are above 0 for no example; after a ReLU they have no gradient to learn from."""
        return np.flatnonzero(~self.positive).tolist()
