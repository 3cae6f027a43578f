"""The network by its formulas alone, backward pass by hand; the tests hold both frameworks against it.

For layer i of n, with weight W_i (fan_out, fan_in), bias b_i (fan_out,) and a_0 = x (batch, features):

    forward    z_i = a_i W_i^T + b_i                      a_(i+1) = z_i where z_i > 0, else slope z_i
    loss       L = -1/batch sum t log softmax(a_n)        t = (1 - smoothing) onehot(label) + smoothing / classes
    backward   dL/da_n = (softmax(a_n) - t) / batch       dL/dz_i = dL/da_(i+1) times 1 where z_i > 0, else slope
               dL/dW_i = (dL/dz_i)^T a_i                  dL/db_i = sum of dL/dz_i over the batch
               dL/da_i = dL/dz_i W_i
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.entropy import check_labels
from mlp_workload.interface import activation, pre_activation
from mlp_workload.weights import Array, Parameters

SLOPE = {"relu": 0.0, "leaky_relu": 0.01, "none": 1.0}
"""Slope of each activation for inputs up to 0. At 0 itself this is torch's rule; JAX's leaky_relu has slope 1 there."""


def forward(parameters: Parameters, activations: Sequence[str], x: Array) -> dict[str, Array]:
    """Returns the tensors of a forward pass of x (batch, features) through layers with these `activations`.

    They are z_i and a_(i+1), under their names in a trace; the last a is `logits` (batch, classes).
    """
    tensors: dict[str, Array] = {}
    a = x
    for i, name in enumerate(activations):
        z = a @ parameters[f"layers.{i}.weight"].T + parameters[f"layers.{i}.bias"]
        a = np.where(z > 0, z, SLOPE[name] * z)
        tensors |= {pre_activation(i): z, activation(i, len(activations)): a}
    return tensors


def cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Returns -sum t log softmax(logits) (batch,), in nats, and softmax(logits) (batch, classes).

    `logits` and the targets t are (batch, classes).
    """
    if targets.shape != logits.shape:
        raise ValueError(f"targets {targets.shape} of logits {logits.shape}")
    shifted = logits - logits.max(axis=1, keepdims=True)  # exp does not overflow, softmax stays
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(targets * log_softmax).sum(axis=1), np.exp(log_softmax)


def one_hot(labels: npt.NDArray[np.integer[Any]], classes: int, smoothing: float = 0.0) -> Array:
    """The targets t (batch, classes) of labels (batch,). Raises `ValueError` on a label outside 0 .. classes-1."""
    check_labels(labels, classes)  # NumPy takes -1 for the last class
    targets: Array = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return targets


def forward_backward(
    parameters: Parameters,
    activations: Sequence[str],
    x: Array,
    labels: npt.NDArray[np.integer[Any]],
    smoothing: float = 0.0,
) -> dict[str, Array]:
    """Returns the tensors of `forward`, `loss`, `logits.grad`, and the gradient of each parameter as `NAME.grad`."""
    tensors, layers = forward(parameters, activations, x), len(activations)
    targets = one_hot(labels, tensors["logits"].shape[1], smoothing)
    losses, softmax = cross_entropy(tensors["logits"], targets)
    tensors["loss"] = np.asarray(losses.sum() / len(x))
    gradient = tensors["logits.grad"] = (softmax - targets) / len(x)
    for i in reversed(range(layers)):
        a = tensors[activation(i - 1, layers)] if i else x
        gradient = gradient * np.where(tensors[pre_activation(i)] > 0, 1.0, SLOPE[activations[i]])
        tensors[f"layers.{i}.weight.grad"] = gradient.T @ a
        tensors[f"layers.{i}.bias.grad"] = gradient.sum(axis=0)
        gradient = gradient @ parameters[f"layers.{i}.weight"]
    return tensors
