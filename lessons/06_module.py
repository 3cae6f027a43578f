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
# Flax's counterpart is `nnx.Module`. Both are Python objects with layers for attributes, and
# one can read them side by side.

# %%
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_mlp.model
import jax_mlp.train
import jax_mlp.weights
import reference_torch.model
import reference_torch.train
import reference_torch.weights
from lessons.figure import figure, say
from mlp_compare.figures import COLOURS
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.initial import initial_parameters
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.weights import load_weights, parameter_shapes, save_weights

config = dataclasses.replace(PRESETS["leaky"], last_activation="none", momentum=0.9, epochs=1)
widths = config.widths(784, 10)
in_torch = reference_torch.model.build_model(config, widths)
in_flax = jax_mlp.model.build_model(config, widths)
print(in_torch)
for number, layer in enumerate(in_flax.layers):
    print(f"Flax, layer {number}: weight {layer.weight.shape}, bias {layer.bias.shape}")

# %% [markdown]
# What they differ in is where the gradients are. Both modules are called; a torch module's
# parameters carry their gradients. JAX's functions return them: this project splits a Flax
# module into a description and a tree of arrays, and hands the arrays to `jax.grad` and `jax.jit`.

# %%
graph, state = nnx.split(in_flax)
arrays = jax.tree.leaves(state)
say(
    f"torch: {sum(p.numel() for p in in_torch.parameters()):,} parameters in "
    f"{len(list(in_torch.parameters()))} tensors; Flax: "
    f"{sum(array.size for array in arrays):,} in {len(arrays)} arrays."
)

# %% [markdown]
# Both trainers of the project, as `python -m reference_torch.train` and `python -m
# jax_mlp.train` call them, begin from the same weights here and see the same batches.

# %%
mnist = load("mnist")
with tempfile.TemporaryDirectory() as folder:
    start = Path(folder, "start.safetensors")
    save_weights(start, initial_parameters(config.initialization, widths, seed=0))
    silent, trained = OutputOptions(visdom="off", quiet=True), {}
    for name, train in (
        ("jax", jax_mlp.train.train),
        ("torch", reference_torch.train.train),
    ):
        run = dataclasses.replace(config, initial_weights=start, run_dir=Path(folder, name))
        summary = train(run, silent)
        trained[name] = load_weights(run.run_dir / "weights.safetensors", parameter_shapes(widths))
        say(
            f"{name}: {summary['test_correct']:,} of {summary['test_examples']:,} right, test "
            f"loss {summary['test_loss']:.6f} nats, after {summary['steps']} steps"
        )
apart = max(np.abs(trained["jax"][name] - trained["torch"][name]).max() for name in trained["jax"])
say(f"No two of their weights are more than {apart:.1e} apart.")

# %% [markdown]
# A module of either framework takes the weights of either run. Here each has those of its own,
# and looks at test digits: the first five that are right, and the first five that are not.

# %%
jax_mlp.weights.load_canonical(in_flax, trained["jax"])
reference_torch.weights.load_canonical(in_torch, trained["torch"])
x = mnist.test.images.reshape(len(mnist.test), -1).astype(np.float32) / 255
with torch.no_grad():
    by_torch = torch.softmax(in_torch(torch.tensor(x)), dim=1).numpy()
by_flax = np.asarray(jax.nn.softmax(in_flax(jnp.asarray(x))))
right = by_torch.argmax(axis=1) == mnist.test.labels
shown = np.concatenate([np.flatnonzero(right)[:5], np.flatnonzero(~right)[:5]])

with figure("Digits, and the probabilities of both modules", columns=10, rows=2) as axes:
    for column, example in enumerate(shown):
        above, below = axes[:, column]
        above.imshow(mnist.test.images[example], cmap="gray")
        above.set_axis_off()
        above.set_title(f"a {mnist.test.labels[example]}", fontsize=9)
        for shift, colour, by in (
            (-0.2, COLOURS[0], by_flax),
            (0.2, COLOURS[1], by_torch),
        ):
            below.barh(np.arange(10) + shift, by[example], 0.4, color=colour)
        below.set(xlim=(0, 1), xticks=[0, 1], yticks=range(10) if column == 0 else [])
        below.invert_yaxis()
    axes[1, 0].set_ylabel("class")
    axes[1, 4].set_xlabel("probability: JAX's bar above, torch's below it")
say(f"Probabilities of all test digits: at most {np.abs(by_torch - by_flax).max():.1e} apart.")
