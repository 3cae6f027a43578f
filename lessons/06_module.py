# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The module
#
# The tutorial's second program leaves weights and biases to the framework: `torch.nn.Module`.
# Flax's counterpart is `nnx.Module`. Both are Python objects with layers as attributes, and one can
# read them side by side. The figure shows digits and the probabilities that both modules give them:
# five digits that are classified correctly, and five that are not.

# %% Imports
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_mlp.model
import jax_mlp.weights
import reference_torch.model
import reference_torch.weights
from lessons.helpers import COLOURS, figure, say, train_both
from mlp_workload.config import PRESETS
from mlp_workload.data import load

# %%
config = dataclasses.replace(PRESETS["leaky"], last_activation="none", momentum=0.9, epochs=1)
widths = config.widths(784, 10)
in_torch = reference_torch.model.build_model(config, widths)
in_flax = jax_mlp.model.build_model(config, widths)
print(in_torch)
for number, layer in enumerate(in_flax.layers):
    print(f"Flax, layer {number}: weight {layer.weight.shape}, bias {layer.bias.shape}")

# %% [markdown]
# They differ in where the gradients are. Both modules are called; a torch module's parameters carry
# their gradients. JAX's functions return them: this project splits a Flax module into a description
# and a tree of arrays, and gives the arrays to `jax.grad` and `jax.jit`.

# %%
graph, state = nnx.split(in_flax)
arrays = jax.tree.leaves(state)
say(
    f"torch: {sum(p.numel() for p in in_torch.parameters()):,} parameters in "
    f"{len(list(in_torch.parameters()))} tensors; Flax: "
    f"{sum(array.size for array in arrays):,} in {len(arrays)} arrays."
)

# %% [markdown]
# Both trainers of the project, those of `python -m jax_mlp.train` and `python -m
# reference_torch.train`, begin from the same weights here and see the same batches.

# %%
trained = train_both(config)
for name, (summary, _) in trained.items():
    say(
        f"{name}: {summary['test_correct']:,} of {summary['test_examples']:,} right, test "
        f"loss {summary['test_loss']:.6f} nats, after {summary['steps']} steps"
    )
(_, by_jax), (_, by_torch) = trained.values()
apart = max(np.abs(by_jax[name] - by_torch[name]).max() for name in by_jax)
say(f"No two of their weights are more than {apart:.1e} apart.")

# %% [markdown]
# A module of either framework takes the weights of either run. Here each takes those of its own,
# and looks at the test digits.

# %%
jax_mlp.weights.load_canonical(in_flax, by_jax)
reference_torch.weights.load_canonical(in_torch, by_torch)
test = load("mnist").test
x = test.images.reshape(len(test), -1).astype(np.float32) / 255
with torch.no_grad():
    p_torch = torch.softmax(in_torch(torch.tensor(x)), dim=1).numpy()
p_flax = np.asarray(jax.nn.softmax(in_flax(jnp.asarray(x))))
say(f"Probabilities of all test digits: at most {np.abs(p_torch - p_flax).max():.1e} apart.")

# %% The figure
right = p_torch.argmax(axis=1) == test.labels
shown = np.concatenate([np.flatnonzero(right)[:5], np.flatnonzero(~right)[:5]])
with figure("Digits, and the probabilities of both modules", columns=10, rows=2) as axes:
    for column, example in enumerate(shown):
        above, below = axes[:, column]
        above.imshow(test.images[example], cmap="gray")
        above.set_axis_off()
        above.set_title(f"a {test.labels[example]}", fontsize=9)
        for shift, colour, p in ((-0.2, COLOURS[0], p_flax), (0.2, COLOURS[1], p_torch)):
            below.barh(np.arange(10) + shift, p[example], 0.4, color=colour)
        below.set(xlim=(0, 1), xticks=[0, 1], yticks=range(10) if column == 0 else [])
        below.invert_yaxis()
    axes[1, 0].set_ylabel("class")
    axes[1, 4].set_xlabel("probability: JAX's bar above, torch's below it")
