# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The network by hand
#
# The tutorial's first program writes the network down from plain tensors: three weights, three
# biases, products, ReLU. Nothing else is needed. Here it is trained on MNIST for one epoch, in
# torch and in JAX, from the same weights over the same batches. The figure shows the loss of each
# step, left, and how far apart the two losses are, right. The line there is float32's epsilon;
# equal losses lie on the bottom.

# %% Imports
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional as F

import jax_mlp.step
import reference_torch.step
from jax_mlp.loss import cross_entropy
from lessons.helpers import COLOURS, INK, figure, say
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.initial import initial_parameters
from reference_torch.trainer import Trainer

# %%
config = dataclasses.replace(PRESETS["relu"], last_activation="none")
mnist = load("mnist")
widths = config.widths(mnist.pixels, mnist.classes)
start = initial_parameters(config.initialization, widths, seed=0)
order = epoch_order(seed=0, epoch=1, examples=len(mnist.train))
batches = order.reshape(-1, config.batch_size)
images = mnist.train.images.reshape(len(mnist.train), -1)
say(
    f"{sum(array.size for array in start.values()):,} numbers to learn, from "
    f"{len(mnist.train):,} digits, in {len(batches)} steps of {config.batch_size}."
)

# %% [markdown]
# In torch, tensors remember how they were computed, `backward` leaves a gradient at each
# parameter, and the update is written out.

# %%
w1, b1, w2, b2, w3, b3 = parameters = [
    torch.tensor(array, dtype=torch.float32, requires_grad=True) for array in start.values()
]


def forward(x):
    x = F.relu(x @ w1.t() + b1)
    x = F.relu(x @ w2.t() + b2)
    return x @ w3.t() + b3


torch_losses = []
for batch in batches:
    x = reference_torch.step.normalize(config, torch.tensor(images[batch]))
    loss = F.cross_entropy(forward(x), torch.tensor(mnist.train.labels[batch]).long())
    loss.backward()
    with torch.no_grad():
        for parameter in parameters:
            parameter -= config.learning_rate * parameter.grad
            parameter.grad = None
    torch_losses.append(loss.item())

# %% [markdown]
# In JAX the loss is a function of the weights, `grad` makes another function of it, and new
# weights take the place of old ones. The whole epoch becomes one compiled program.

# %%
train_x, train_y = jnp.asarray(images), jnp.asarray(mnist.train.labels)


def forward_in_jax(weights, x):
    w1, b1, w2, b2, w3, b3 = weights
    x = jax.nn.relu(x @ w1.T + b1)
    x = jax.nn.relu(x @ w2.T + b2)
    return x @ w3.T + b3


def loss_of(weights, batch):
    x = jax_mlp.step.normalize(config, train_x[batch])
    return cross_entropy(forward_in_jax(weights, x), train_y[batch]).mean


def step(weights, batch):
    loss, gradients = jax.value_and_grad(loss_of)(weights, batch)
    return [w - config.learning_rate * g for w, g in zip(weights, gradients, strict=True)], loss


weights = [jnp.asarray(array, jnp.float32) for array in start.values()]
weights, jax_losses = jax.jit(lambda weights: jax.lax.scan(step, weights, batches))(weights)

# %% [markdown]
# The project's trainer does the same with its own hand-written network
# (`reference_torch/model.py`). It rounds its updates at another point, which one sees in the last
# digits.

# %%
own_losses = Trainer(config, mnist, start).train_steps(order, 0, 50)
apart = np.abs(np.array(torch_losses[:50]) - own_losses).max()
say(f"Ours and the project's trainer: losses of 50 steps at most {apart:.1e} nats apart.")
test_x = mnist.test.images.reshape(len(mnist.test), -1)
with torch.no_grad():
    in_torch = forward(reference_torch.step.normalize(config, torch.tensor(test_x)))
in_jax = forward_in_jax(weights, jax_mlp.step.normalize(config, jnp.asarray(test_x)))
for name, logits in {"torch": in_torch, "JAX": in_jax}.items():
    right = (np.asarray(logits).argmax(axis=1) == mnist.test.labels).sum()
    say(f"{name}: {right:,} of {len(mnist.test):,} test digits right after one epoch.")

# %% The figure
steps = np.arange(1, len(batches) + 1)
apart = np.abs(np.array(torch_losses) - np.asarray(jax_losses))
with figure("Loss of each step, and how far torch and JAX are apart", columns=2) as axes:
    axes[0].plot(steps, jax_losses, color=COLOURS[0], linewidth=2.5, label="JAX")
    axes[0].plot(steps, torch_losses, color=COLOURS[1], linewidth=0.8, label="torch")
    axes[0].set(xlabel="step", ylabel="loss of the batch, nats", ylim=(0, None))
    axes[0].legend(frameon=False)
    axes[1].semilogy(steps, np.maximum(apart, 1e-9), ".", color=COLOURS[2], markersize=4)
    axes[1].axhline(np.finfo(np.float32).eps, color=INK, linewidth=0.6)
    axes[1].set(xlabel="step", ylabel="losses apart, nats")

# %% [markdown]
# [The last lesson](10_relu_sign_flips.md) looks at the step from which on the losses stay apart.
