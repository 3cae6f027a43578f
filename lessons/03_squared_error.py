# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Cross-entropy against squared error
#
# Softmax turns logits into probabilities. Their distance from the label could be squared, too: why
# does one take the logarithm? Because of the gradient of a model that is wrong and sure of it. The
# figure has two classes; the right one's logit is ahead of the other's by z. Far left the model is
# sure of the wrong class: there the cross-entropy is steep, and the squared error is flat.

# %% Imports
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jax_mlp.loss
import reference_torch.loss
from jax_mlp.model import leaky_relu
from jax_mlp.step import normalize
from lessons.helpers import COLOURS, figure, say
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.initial import initial_parameters


# %%
def squared_error(logits, labels):
    """Sum over the classes of (softmax - one-hot)², mean over the batch."""
    wrong = jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])
    return (wrong**2).sum(axis=-1).mean()


def cross_entropy(logits, labels):
    return jax_mlp.loss.cross_entropy(logits, labels).mean


def of_two(loss, z):
    return loss(jnp.array([[z, 0.0]]), jnp.array([0]))


# %% The figure
LOSSES = {"cross-entropy": cross_entropy, "squared error": squared_error}
z = jnp.linspace(-8, 8, 401)
with figure("Two losses and their slopes", columns=2) as (loss_axes, slope_axes):
    for (name, loss), colour in zip(LOSSES.items(), COLOURS, strict=False):
        values, slopes = jax.vmap(jax.value_and_grad(partial(of_two, loss)))(z)
        loss_axes.plot(z, values, color=colour, label=name)
        slope_axes.plot(z, slopes, color=colour)
        say(f"Slope of the {name} at z = -8: {float(slopes[0]):.6f}")
    loss_axes.set(xlabel="z, right logit less wrong one", ylabel="loss (nats; or squared)")
    loss_axes.legend(frameon=False)
    slope_axes.set(xlabel="z, right logit less wrong one", ylabel="its slope by z")

# %% [markdown]
# The slope of the cross-entropy is the probability of the right class less 1: the more wrong, the
# steeper. The squared error, summed over both classes, has four times that, times the slope of the
# softmax, which is flat at both ends. A mistake that is sure of itself gets hardly any gradient.
#
# Both frameworks compute cross-entropy from logits in one go, so that no probability becomes 0
# before its logarithm is taken.

# %%
logits, label = np.array([[-90.0, 20.0, 5.0]], np.float32), np.array([0])
in_jax = jax_mlp.loss.cross_entropy(jnp.asarray(logits), jnp.asarray(label)).mean
in_torch = reference_torch.loss.cross_entropy(torch.tensor(logits), torch.tensor(label)).mean
naive = -jnp.log(jax.nn.softmax(jnp.asarray(logits))[0, 0])
say(f"JAX {in_jax:.4f}, torch {in_torch:.4f}, logarithm of a softmax: {naive:.4f}")

# %% [markdown]
# Does it matter in training? A small network first learns MNIST with wrong labels, each digit as
# the next one, until it is sure of them. Then it gets the right labels: once with each loss, from
# the same weights, over the same batches, with the best of some learning rates.

# %% Data
config = PRESETS["leaky"]
mnist = load("mnist")
images, test_images = (
    jnp.asarray(part.images.reshape(len(part), -1)) for part in (mnist.train, mnist.test)
)
labels, test_labels = jnp.asarray(mnist.train.labels), jnp.asarray(mnist.test.labels)
train_set, test_set = (images, labels), (test_images, test_labels)
batches = [
    epoch_order(seed=0, epoch=epoch, examples=len(labels)).reshape(30, -1, 200) for epoch in (1, 2)
]
drawn = initial_parameters("torch_linear", (784, 64, 10), seed=0)
start = {name: jnp.asarray(array, jnp.float32) for name, array in drawn.items()}


# %%
def forward(weights, images):
    x = normalize(config, images)
    x = x @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    return leaky_relu(x) @ weights["layers.1.weight"].T + weights["layers.1.bias"]


def right(weights, images, labels):
    """Share of the images that are right."""
    return (forward(weights, images).argmax(axis=-1) == labels).mean()


# %%
@partial(jax.jit, static_argnums=0)
def train(loss, weights, batches, train_set, test_set, rate):
    """Returns the weights after `batches` (parts, steps, batch), and `right` after each part."""
    images, labels = train_set

    def step(weights, batch):
        gradient = jax.grad(lambda w: loss(forward(w, images[batch]), labels[batch]))(weights)
        return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), None

    def part(weights, batches):
        weights, _ = jax.lax.scan(step, weights, batches)
        return weights, right(weights, *test_set)

    return jax.lax.scan(part, weights, batches)


# %%
wrong, _ = train(cross_entropy, start, batches[0], (images, (labels + 1) % 10), test_set, 0.5)
sure = jax.nn.softmax(forward(wrong, test_images)).max(axis=-1)
say(
    f"Taught wrongly, {right(wrong, test_images, (test_labels + 1) % 10):.1%} of the test images "
    f"are taken for the next digit, with a probability of {sure.mean():.3f} on average, and "
    f"{right(wrong, *test_set):.1%} are right."
)

# %% The right labels, with each loss and several learning rates
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)
steps = 10 * np.arange(31)
with figure("Right answers while the right labels are learned") as axes:
    for (name, loss), colour in zip(LOSSES.items(), COLOURS, strict=False):
        runs = {
            rate: train(loss, wrong, batches[1], train_set, test_set, rate)[1] for rate in RATES
        }
        best = max(runs, key=lambda rate: runs[rate].mean())
        curve = 100 * np.array([right(wrong, *test_set), *runs[best]])
        axes.plot(steps, curve, color=colour, label=f"{name}, learning rate {best}")
        if best in (RATES[0], RATES[-1]) or curve.max() <= 50:
            raise RuntimeError(f"{name}: {best} is the last rate, or half is never right")
        half = steps[np.argmax(curve > 50)]
        rates = ", ".join(f"{rate}: {run[-1]:.1%}" for rate, run in runs.items())
        say(
            f"{name}: half of the test images are right after {half} steps; right in the "
            f"end, by learning rate: {rates}"
        )
    axes.set(xlabel="step", ylabel="right of 10,000 test images, %", ylim=(0, 100))
    axes.legend(frameon=False, loc="lower right")
