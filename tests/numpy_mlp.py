"""A third opinion: the MLP's forward and backward pass in NumPy, float64, written from the formulas alone."""

import numpy as np

SLOPE = {"relu": 0.0, "leaky_relu": 0.01, "none": 1.0}


def forward_backward(parameters, activations, x, labels, smoothing=0.0, intermediates=False):
    """Logits (batch, classes), mean loss, gradients under neutral names; x (batch, features), labels (batch,).

    With `intermediates` also these, by the names of `mlp_workload.trace`, and the gradient of the logits.

    a_0 = x, z_i = a_i w_i^T + b_i, a_(i+1) = z_i where z_i > 0, else slope z_i; loss = mean -t log softmax(a_n).
    """
    batch, layers = len(x), len(activations)
    inputs, pre_activations = [x], []
    for i, activation in enumerate(activations):
        z = inputs[-1] @ parameters[f"layers.{i}.weight"].T + parameters[f"layers.{i}.bias"]
        pre_activations.append(z)
        inputs.append(np.where(z > 0, z, SLOPE[activation] * z))
    logits = inputs[-1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    classes = logits.shape[1]
    targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    loss = -(targets * log_softmax).sum() / batch

    gradients = {}
    delta = logits_gradient = (np.exp(log_softmax) - targets) / batch
    for i in reversed(range(layers)):
        delta = delta * np.where(pre_activations[i] > 0, 1.0, SLOPE[activations[i]])
        gradients[f"layers.{i}.weight"] = delta.T @ inputs[i]
        gradients[f"layers.{i}.bias"] = delta.sum(axis=0)
        delta = delta @ parameters[f"layers.{i}.weight"]
    if not intermediates:
        return logits, loss, gradients
    named = {f"layers.{i}.pre_activation": z for i, z in enumerate(pre_activations)}
    named |= {f"layers.{i}.activation": a for i, a in enumerate(inputs[1:-1])}
    return logits, loss, gradients, named | {"logits.grad": logits_gradient}
