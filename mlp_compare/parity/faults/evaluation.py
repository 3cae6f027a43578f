"""Faults of the evaluation on the test set."""

import dataclasses
from typing import Any

import numpy as np

from mlp_compare.parity.faults.fault import Fault, replaced, wrapped
from mlp_workload.data.shipped import CLASSES
from mlp_workload.weights import Parameters


def _dead_logits(parameters: Parameters) -> Parameters:
    """Makes all logits exactly 0 after a ReLU, so that every prediction is a tie."""
    parameters["layers.2.bias"][:] = -100
    return parameters


def _drop_last(original: Any, trainer: Any) -> Any:
    """Drops the last 16 examples, as happens with a batch size that does not divide the set."""
    evaluation = original(trainer)
    parts = {name: getattr(evaluation, name)[:-16] for name in ("losses", "predictions", "labels", "margins")}
    return dataclasses.replace(evaluation, **parts)


def _mean_of_means(evaluation: Any) -> float:
    return float(np.mean([part.mean() for part in np.array_split(evaluation.losses, [7000])]))


def _one_wrong(original: Any, trainer: Any) -> Any:
    """Makes the prediction with the largest margin wrong."""
    evaluation = original(trainer)
    predictions = evaluation.predictions.copy()
    surest = int(evaluation.margins.argmax())
    predictions[surest] = (predictions[surest] + 1) % CLASSES
    return dataclasses.replace(evaluation, predictions=predictions)


FAULTS = [
    Fault("one sure prediction wrong", "torch", 0, "evaluation.predictions", evaluates=True, dtype="float32",
          plant=wrapped("reference_torch.trainer:Trainer.evaluate", _one_wrong)),
    Fault("last test examples dropped", "jax", 0, "evaluation.labels", evaluates=True,
          plant=wrapped("jax_mlp.trainer:Trainer.evaluate", _drop_last)),
    Fault("ties to the last class", "torch", 0, "evaluation.predictions", evaluates=True, preset="relu",
          start=_dead_logits,
          plant=wrapped("torch:Tensor.argmax", lambda right, x, dim: x.shape[dim] - 1 - right(x.flip(dim), dim=dim))),
    Fault("test loss a mean of means", "jax", 0, "evaluation.loss", evaluates=True,
          plant=replaced("mlp_workload.metrics:Evaluation.loss", lambda original: property(_mean_of_means))),
    Fault("test loss with label smoothing", "torch", 0, "evaluation.losses", evaluates=True,
          plant=wrapped("reference_torch.trainer:cross_entropy", lambda right, *parts: right(*parts, 0.01))),
]  # fmt: skip
