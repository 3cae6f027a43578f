# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Float32 and ReLU sign flips
#
# JAX and torch compute the same step from the same weights, and add up in different orders. In
# float32 the last bits differ. That alone stays harmless, until a pre-activation lies so near 0
# that it is above 0 in one framework and below it in the other: a ReLU sign flip. ReLU's slope is 1
# on one side and 0 on the other, so from there on the two frameworks really have different
# gradients. The figure shows how far the weights are apart, step by step, in float32 and float64.

# %% Imports
import dataclasses

import numpy as np

from lessons.helpers import COLOURS, INK, figure, say
from mlp_compare.parity import bound_table
from mlp_compare.parity.bound_table import gradient_noise
from mlp_compare.parity.sign_flips import find_sign_flips, sign_flip_effect
from mlp_compare.parity.worker import Worker
from mlp_workload.config import PRESETS
from twincheck.comparison import compare
from twincheck.pipe import WorkerProcess, ask_all

# %% [markdown]
# Each framework gets a process of its own, as in the parity check. From the same weights and over
# the same batches both train, each on its own, until a pre-activation has different signs, and some
# steps more. Large batches bring that about soon: each has many pre-activations.

# %%
config = dataclasses.replace(PRESETS["relu"], batch_size=500)
MOST_STEPS, STEPS_AFTER = 600, 40


def apart(jax, torch):
    """Returns the largest difference of any weight."""
    return max(np.abs(jax.state[name] - torch.state[name]).max() for name in jax.state)


# %% Train both, in float32 and again in float64
distances, flipped, before = {"float32": [], "float64": []}, None, None
with WorkerProcess("jax", Worker) as in_jax, WorkerProcess("torch", Worker) as in_torch:
    sides = (in_jax, in_torch)
    ask_all(sides, "start", config, None)
    for step in range(1, MOST_STEPS + 1):
        jax, torch = ask_all(sides, "step", step)
        distances["float32"].append(apart(jax, torch))
        if flipped is None and (jax.signs != torch.signs).any():
            flipped, traces, began = step, ask_all(sides, "trace", step), before
        before = jax.state, torch.state
        if flipped is not None and step == flipped + STEPS_AFTER:
            break
    if not flipped or flipped == 1:
        raise RuntimeError("no sign flip, or one in the first step: the lesson needs another seed")
    ask_all(sides, "start", dataclasses.replace(config, dtype="float64"), None)
    for again in range(1, step + 1):
        distances["float64"].append(apart(*ask_all(sides, "step", again)))

# %%
for dtype, values in distances.items():
    say(f"{dtype}: after {step} steps no weight is more than {values[-1]:.1e} apart.")
before, after = distances["float32"][flipped - 2 : flipped]
say(f"float32: {after / before:.0f} times as far apart after the step of the flip as before it.")

# %% The figure
with figure("How far the weights of JAX and torch are apart, by step") as axes:
    for (dtype, values), colour in zip(distances.items(), COLOURS[2:], strict=False):
        axes.semilogy(np.arange(1, step + 1), np.maximum(values, 1e-18), color=colour, label=dtype)
    axes.axvline(flipped, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(" first sign flip", (flipped, 3e-13), color=INK, fontsize=8)
    axes.set(xlabel="step", ylabel="largest difference of a weight")
    axes.legend(frameon=False)

# %% [markdown]
# In float64 rounding is so small that hardly any number comes so near 0. In float32 the distance
# jumps at the first sign flip. That is no fault of either framework, and a check must tell it from
# one. So it looks for the cause:

# %%
(flip, *more) = find_sign_flips(config, *traces, *began, flipped)
say(f"{flip}. Explained: {flip.explained}; {len(more)} more in this step.")

# %% [markdown]
# The check allows rounding of 4 eps times the sum of the magnitudes that were added up. That is far
# less than the worst case and more than what is seen. If 0 is within that of both values, rounding
# alone explains the two signs. The check then computes how the flip changes every gradient and
# subtracts that. The rest must be within the ordinary bounds.

# %%
table = bound_table.table("float32", 784, flipped)
noise = gradient_noise(traces[0], began[0])


def bound(name):
    row = table[bound_table.kind(name)]
    return dataclasses.replace(row, absolute=max(row.absolute, noise.get(name, 0.0)))


plain = compare(*traces, bound)
explained = compare(*traces, bound, sign_flip_effect(config, *traces, began[0]))
rows = ["| gradient | apart | less the flip's effect | allowed |", "|---|---|---|---|"]
for first, second in zip(plain.differences, explained.differences, strict=True):
    if first.name.endswith("weight.grad"):
        numbers = (first.absolute, second.absolute, second.bound)
        rows.append(f"| {first.name} | " + " | ".join(f"{n:.1e}" for n in numbers) + " |")
say("\n".join(rows))

# %% ReLU around 0, with both values
with figure("ReLU and its slope around 0, with both values", columns=2) as axes:
    reach = 1.5 * max(abs(flip.a), abs(flip.b), flip.rounding)
    z = np.linspace(-reach, reach, 1001)
    axes[0].plot(z, np.maximum(z, 0), color=INK)
    axes[1].plot(z, z > 0, color=INK)
    for name, value, colour in zip(("JAX", "torch"), (flip.a, flip.b), COLOURS, strict=False):
        axes[0].plot(value, max(value, 0), "o", color=colour, label=name)
        axes[1].plot(value, float(value > 0), "o", color=colour)
    for side in axes:
        side.axvspan(-flip.rounding, flip.rounding, color=INK, alpha=0.15, linewidth=0)
        side.set_xlabel("pre-activation")
        side.locator_params(axis="x", nbins=3)
    axes[0].set_ylabel("ReLU")
    axes[1].set_ylabel("its slope")
    axes[0].legend(frameon=False, title="band: reach of rounding")

# %% [markdown]
# The parity check does this over as many steps as one likes. After a sign flip it begins each step
# with common weights, so that a real fault still shows:
#
# ```
# python -m mlp_compare.parity --preset relu --steps 300
# ```
