# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why one trains on a loss and not on accuracy
#
# Accuracy is what one wants, but it can't be trained on: it counts, and a count does not change
# when a weight changes a little. The figure shows a linear model that has 32 of 100 real digits
# right while one of its weights moves. Left, the accuracy stays or jumps. Right, the cross-entropy
# changes smoothly. The dot is the model as it was; the dashed line is the slope of the loss there,
# which tells where to go.

# %% Imports
import dataclasses
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jax_mlp.loss import cross_entropy
from jax_mlp.step import normalize
from lessons.helpers import COLOURS, figure, say
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.initial import initial_parameters

# %%
jax.config.update("jax_enable_x64", True)
config = dataclasses.replace(PRESETS["leaky"], hidden=(), dtype="float64")
test = load("mnist").test
x = normalize(config, jnp.asarray(test.images[:100].reshape(100, -1)))
y = jnp.asarray(test.labels[:100])


def loss(logits):
    return cross_entropy(logits, y).mean


def right(logits):
    return (jnp.argmax(logits, axis=-1) == y).sum()


# %% [markdown]
# The model gets to 32 right by a few small steps of gradient descent from random weights. The code
# tries seeds until one stays there for some steps.


# %% Find the model
def has_32_right():
    """Returns a weight (10, 784), halfway between coming to 32 and leaving it."""
    for seed in count():
        drawn = initial_parameters("torch_linear", (784, 10), seed)["layers.0.weight"]
        weight, found = jnp.asarray(drawn), []
        for _ in range(100):
            if right(x @ weight.T) == 32:
                found.append(weight)
            elif found:
                return found[len(found) // 2]
            weight -= 0.002 * jax.grad(lambda weight: loss(x @ weight.T))(weight)


weight = has_32_right()

# %%
logits = x @ weight.T
say(f"{right(logits)} of {len(y)} right, cross-entropy {loss(logits):.4f} nats.")

# %% [markdown]
# Now one weight is moved and all others stay. It adds to the logit of its class in proportion to
# the brightness of its pixel.

# %%
gradient = jax.grad(lambda weight: loss(x @ weight.T))(weight)
changes = np.linspace(-0.5, 0.5, 2001)


def moved(place, change):
    """Returns the logits (100, 10) after the weight at `place` has changed."""
    label, pixel = place
    return logits.at[:, label].add(change * x[:, pixel])


def rights_of(place):
    return np.asarray(jax.vmap(lambda change: right(moved(place, change)))(changes))


# %% [markdown]
# Of the twenty weights on which the loss depends most, the figure takes the one that the accuracy
# ignores longest.


# %% Choose the weight, and move it
def calm(place):
    """Returns how far the weight can go, either way, before the count jumps."""
    return np.abs(changes[rights_of(place) != right(logits)]).min(initial=0.5)


steepest = np.unravel_index(np.argsort(-np.abs(gradient), axis=None)[:20], gradient.shape)
label, pixel = place = max(zip(*map(np.ndarray.tolist, steepest), strict=True), key=calm)
rights = rights_of(place)
losses = np.asarray(jax.vmap(lambda change: loss(moved(place, change)))(changes))
jumps = np.flatnonzero(np.diff(rights))
step = changes[1] - changes[0]
say(
    f"The weight from pixel {divmod(pixel, 28)} to class {label} moves from "
    f"{changes[0]:+} to {changes[-1]:+} in {len(changes) - 1} steps of {step:.4f}. "
    f"In {len(changes) - 1 - len(jumps)} of them the count of right answers stays what it "
    f"is, in {len(jumps)} it jumps, by whole digits: the accuracy is "
    + ", ".join(f"{value} %" for value in np.unique(rights))
    + ". The cross-entropy changes in "
    + ("every one." if np.diff(losses).all() else "nearly every one.")
)
say(f"The accuracy does not change at all until the weight has moved by {calm(place):.3f}.")

# %% The figure
with figure("Accuracy and cross-entropy while one weight moves", columns=2) as (stairs, curve):
    stairs.step(changes, rights, where="mid", color=COLOURS[0])
    stairs.plot(0, right(logits), "o", color=COLOURS[1])
    stairs.set(xlabel="change of one weight", ylabel="accuracy, % (right of 100)")
    curve.plot(changes, losses, color=COLOURS[0])
    near, slope = np.array([-0.25, 0.25]), gradient[label, pixel]
    curve.plot(near, loss(logits) + slope * near, color=COLOURS[1], linestyle="--")
    curve.plot(0, loss(logits), "o", color=COLOURS[1])
    curve.set(xlabel="change of one weight", ylabel="cross-entropy, nats")

# %% [markdown]
# The slope of the stairs is 0 wherever there is one, and says nothing. JAX computes it for all
# 7,840 weights. torch refuses, because counting has no gradient.

# %%
by_accuracy = jax.grad(lambda weight: right(x @ weight.T) / 100.0)(weight)
say(
    f"Of the {by_accuracy.size} slopes of the accuracy {int((by_accuracy != 0).sum())} are "
    f"not 0; of the {gradient.size} of the loss {int((gradient != 0).sum())}. The others "
    "belong to pixels that are black in all 100 digits."
)
weights = torch.tensor(np.asarray(weight), requires_grad=True)
guesses = (torch.tensor(np.asarray(x)) @ weights.t()).argmax(dim=1)
accuracy = (guesses == torch.tensor(np.asarray(y))).double().mean()
try:
    accuracy.backward()
except RuntimeError as error:
    say(f"torch: {error}")

# %% [markdown]
# One step against the gradient lowers the loss. The accuracy follows when digits change sides.

# %%
for rate in (0.01, 0.1, 1.0):
    after = x @ (weight - rate * gradient).T
    say(f"After a step of {rate}: {loss(after):.4f} nats, {right(after)} right.")
