# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What a ReLU on the logits does
#
# The tutorial has an activation behind every layer, the last one included. Behind the last layer it
# can take a class away. If the logit of a class is below 0 for every example, ReLU makes it 0, and
# no gradient reaches the weights of that class. Only a change in the layers below could bring it
# back, and that may never come. Whether it happens depends on the seed. The figure has a dot for
# each of 16 seeds, orange if a class was lost, with the ReLU and without it.

# %% Imports
import dataclasses

import jax.numpy as jnp
import numpy as np

from jax_mlp.model import build_model
from jax_mlp.step import normalize
from jax_mlp.weights import load_canonical
from lessons.helpers import COLOURS, INK, figure, say, train_seeds
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.metrics import confusion_matrix

# %% [markdown]
# The same seeds train with the ReLU and with `--last-activation none`. A class counts as lost if
# not one of its test digits is right. As commands:
#
# ```
# python -m jax_mlp.train --preset relu --seeds 16 --epochs 1
# python -m jax_mlp.train --preset relu --seeds 16 --epochs 1 --last-activation none
# ```

# %%
SEEDS = 16
with_relu = dataclasses.replace(PRESETS["relu"], epochs=1)
without = dataclasses.replace(with_relu, last_activation="none")
runs, warning = train_seeds(with_relu, SEEDS)
NAMES = ("ReLU on the logits", "--last-activation none")
both = dict(zip(NAMES, (runs, train_seeds(without, SEEDS)[0]), strict=True))

losers = [run for run in runs if run["lost_classes"]]
if not losers:
    raise RuntimeError("no seed lost a class: the lesson needs more of them")
say(f"A run that lost a class says so: “{warning.splitlines()[0]}”")

# %% The figure
with figure("Right answers by seed", height=2.4) as axes:
    bins = np.arange(2000, 10001, 250)
    for place, name in enumerate(NAMES):
        counts = {}
        for run in sorted(both[name], key=lambda run: run["test_correct"]):
            bin_ = int(np.digitize(run["test_correct"], bins))
            counts[bin_] = counts.get(bin_, 0) + 1
            colour = COLOURS[1] if run["lost_classes"] else COLOURS[0]
            height = place + 0.075 * counts[bin_]
            axes.plot(run["test_correct"], height, "o", color=colour, markersize=4)
    axes.set(yticks=[0.3, 1.3], yticklabels=NAMES, ylim=(-0.1, 2.2))
    axes.set_xlabel("right of 10,000, a dot for each seed; orange: a class was lost")

# %%
for name in NAMES:
    right = np.array([run["test_correct"] for run in both[name]])
    lost = sum(bool(run["lost_classes"]) for run in both[name])
    say(
        f"**{name}**: {right.min():,} to {right.max():,} of 10,000 right after 1 epoch, "
        f"mean {right.mean():,.0f}, deviation {right.std(ddof=1):,.0f}; {lost} of {SEEDS} runs "
        f"lost a class. The widest gap between a run and the next better one is "
        f"{np.diff(np.sort(right)).max():,}."
    )

# %% [markdown]
# Now to the runs that lost a class: how high does each logit get, over all test digits, before the
# ReLU? The one with the lowest is shown.

# %%
test = load("mnist").test
x = normalize(without, jnp.asarray(test.images.reshape(len(test), -1)))


def logits_of(run):
    """Returns the logits before the ReLU, (10000, 10)."""
    model = build_model(without, without.widths(784, 10))
    load_canonical(model, run["weights"])
    return np.asarray(model(x))


logits, seed = min(
    ((logits_of(run), run["seed"]) for run in losers), key=lambda pair: pair[0].max(axis=0).min()
)
highest, lost = logits.max(axis=0), int(logits.max(axis=0).argmin())
taken = confusion_matrix(test.labels, np.maximum(logits, 0).argmax(axis=1), 10)
recall = 100 * taken.diagonal() / taken.sum(axis=1)

# %% The second figure
with figure(f"Seed {seed}, which lost a class", columns=2) as axes:
    colours = [COLOURS[1] if label == lost else COLOURS[0] for label in range(10)]
    for side, heights in zip(axes, (highest, recall), strict=True):
        side.bar(range(10), heights, color=colours)
        side.set(xlabel="class", xticks=range(10))
    axes[0].axhline(0, color=INK, linewidth=0.6)
    axes[0].set_ylabel("highest logit of any digit")
    axes[1].set(ylabel="of its digits right, %", ylim=(0, 100))
often = taken[lost].argmax()
say(
    f"Seed {seed}: the logit of class {lost} gets up to {highest[lost]:.2f} and is above 0 for "
    f"{(logits[:, lost] > 0).sum()} of {len(test):,} digits. {recall[lost]:.0f} % of the "
    f"{taken[lost].sum():,} such digits are right; {taken[lost, often]:,} are taken for a {often}."
)
