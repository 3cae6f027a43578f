# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Float32, and two sides of a kink
#
# JAX and torch compute the same step from the same weights, and add up in different orders. In
# float32 the last bits differ. That alone stays harmless, until a pre-activation lies so near 0
# that it is above it in one framework and not in the other: ReLU's slope is 1 on one side and 0
# on the other, and from there on the two really have different gradients.

# %%
import dataclasses

import numpy as np

from lessons.figure import figure, say
from mlp_compare.figures import COLOURS, INK
from mlp_compare.parity import bound_table
from mlp_compare.parity.gradient_noise import gradient_floors
from mlp_compare.parity.sign_flips import effect, find_crossings
from mlp_compare.parity.worker import Worker
from mlp_workload.config import PRESETS
from twincheck.comparison import compare
from twincheck.pipe import Side, both

config = dataclasses.replace(PRESETS["relu"], batch_size=500)
MOST_STEPS, STEPS_AFTER = 600, 40


def apart(a, b):
    """The largest difference of any weight."""
    return max(np.abs(a.state[name] - b.state[name]).max() for name in a.state)


# %% [markdown]
# Each framework gets a process of its own, as the parity check has it. From the same weights and
# over the same batches both train, each on its own, until a pre-activation is on different sides
# of 0, and some steps more. Large batches make that soon: each has many pre-activations.

# %%
distances, crossed, before = {"float32": [], "float64": []}, None, None
with Side("jax", Worker) as one, Side("torch", Worker) as other:
    sides = (one, other)
    both(sides, "start", config, None)
    for step in range(1, MOST_STEPS + 1):
        a, b = both(sides, "step", step)
        distances["float32"].append(apart(a, b))
        if crossed is None and (a.signs != b.signs).any():
            crossed, traces, began = step, both(sides, "trace", step), before
        before = a.state, b.state
        if crossed is not None and step == crossed + STEPS_AFTER:
            break
    if not crossed or crossed == 1:
        raise RuntimeError("no crossing, or one in the first step: the lesson needs another seed")
    both(sides, "start", dataclasses.replace(config, dtype="float64"), None)
    for again in range(1, step + 1):
        distances["float64"].append(apart(*both(sides, "step", again)))
for dtype, values in distances.items():
    say(f"{dtype}: after {step} steps no weight is more than {values[-1]:.1e} apart.")

# %%
with figure("How far the weights of JAX and torch are apart, by step") as axes:
    for (dtype, values), colour in zip(distances.items(), COLOURS[2:], strict=False):
        axes.semilogy(np.arange(1, step + 1), np.maximum(values, 1e-18), color=colour, label=dtype)
    axes.axvline(crossed, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate(" first crossing", (crossed, 3e-13), color=INK, fontsize=8)
    axes.set(xlabel="step", ylabel="largest difference of a weight")
    axes.legend(frameon=False)
before, after = distances["float32"][crossed - 2 : crossed]
say(f"float32: {after / before:.0f} times as far apart after the crossing's step as before it.")

# %% [markdown]
# In float64 there is room for rounding: hardly ever is a number so near 0. In float32 the
# distance jumps at the first crossing. That is no fault of either framework, and a check must
# tell it from one. So it looks for the cause:

# %%
(crossing, *more) = find_crossings(config, *traces, *began, crossed)
say(f"{crossing}. Explained: {crossing.explained}; {len(more)} more in this step.")

# %% [markdown]
# The check allows rounding 4 eps times the sum of the magnitudes that were added up, far less than
# the worst case and more than what is seen. Where 0 is within that of both values, rounding alone
# explains the two sides. Then the check computes what
# the crossing makes of every gradient, takes that off, and the rest must be within the ordinary
# bounds.

# %%
table = bound_table.table("float32", 784, crossed)
floors = gradient_floors(traces[0], began[0])


def bound(name):
    row = table[bound_table.kind(name)]
    return dataclasses.replace(row, absolute=max(row.absolute, floors.get(name, 0.0)))


plain = compare(*traces, bound)
explained = compare(*traces, bound, effect(config, *traces, began[0]))
rows = ["| gradient | apart | less the crossing | allowed |", "|---|---|---|---|"]
for one, other in zip(plain.differences, explained.differences, strict=True):
    if one.name.endswith("weight.grad"):
        rows.append(
            f"| {one.name} | {one.absolute:.1e} | {other.absolute:.1e} | {other.bound:.1e} |"
        )
say("\n".join(rows))

# %%
with figure("ReLU and its slope around 0, with both values", columns=2) as (one, two):
    reach = 1.5 * max(abs(crossing.a), abs(crossing.b), crossing.rounding)
    z = np.linspace(-reach, reach, 1001)
    one.plot(z, np.maximum(z, 0), color=INK)
    two.plot(z, z > 0, color=INK)
    for name, value, colour in zip(
        ("JAX", "torch"), (crossing.a, crossing.b), COLOURS, strict=False
    ):
        one.plot(value, max(value, 0), "o", color=colour, label=name)
        two.plot(value, float(value > 0), "o", color=colour)
    for axes in (one, two):
        axes.axvspan(-crossing.rounding, crossing.rounding, color=INK, alpha=0.15, linewidth=0)
        axes.set_xlabel("pre-activation")
        axes.locator_params(axis="x", nbins=3)
    one.set_ylabel("ReLU")
    two.set_ylabel("its slope")
    one.legend(frameon=False, title="band: reach of rounding")

# %% [markdown]
# The whole check, over as many steps as one likes, from then on with common weights at the
# beginning of each step, so that a real fault still shows:
#
# ```
# python -m mlp_compare.parity --preset relu --steps 300
# ```
