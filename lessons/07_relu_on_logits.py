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
# The tutorial has an activation behind every layer, the last one included. Behind the last one
# it can take a class away: where its logit is below 0 for every example, ReLU makes it 0, and no
# gradient reaches the weights of that class. Only a change in the layers below could bring it
# back, and may never come. Whether it happens is up to the seed.

# %%
import contextlib
import dataclasses
import io
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jax_mlp.model import build_model
from jax_mlp.step import normalize
from jax_mlp.train import train_seeds
from jax_mlp.weights import load_canonical
from lessons.figure import figure, say
from mlp_compare.figures import COLOURS, INK
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.metrics import confusion_matrix
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.weights import load_weights, parameter_shapes

SEEDS, EPOCHS = 16, 1
folder = tempfile.TemporaryDirectory()
base = dataclasses.replace(PRESETS["relu"], epochs=EPOCHS)
found, said = {}, io.StringIO()
for last in ("same", "none"):
    config = dataclasses.replace(base, last_activation=last, run_dir=Path(folder.name, last))
    with contextlib.redirect_stderr(said):
        found[last] = train_seeds(config, SEEDS, OutputOptions(visdom="off", quiet=True))["seeds"]

# %% [markdown]
# The same seeds, with the ReLU and with `--last-activation none`. A class counts as lost where not
# one of its test digits is right. As commands:
#
# ```
# python -m jax_mlp.train --preset relu --seeds 16 --epochs 1
# python -m jax_mlp.train --preset relu --seeds 16 --epochs 1 --last-activation none
# ```

# %%
if not said.getvalue():
    raise RuntimeError("no seed lost a class: the lesson needs more of them")
NAMES = {"same": "ReLU on the logits", "none": "--last-activation none"}
for last, name in NAMES.items():
    right = np.array([one["test_correct"] for one in found[last]])
    lost = sum(bool(one["lost_classes"]) for one in found[last])
    say(
        f"**{name}**: {right.min():,} to {right.max():,} of 10,000 right after {EPOCHS} epoch, "
        f"mean {right.mean():,.0f}, deviation {right.std(ddof=1):,.0f}; {lost} of {SEEDS} runs "
        "lost a class."
    )
say(f"A run says so itself: “{said.getvalue().splitlines()[0]}”")

# %%
with figure("Right answers by seed", height=2.4) as axes:
    bins = np.arange(2000, 10001, 250)
    for place, last in enumerate(NAMES):
        counts = {}
        for one in sorted(found[last], key=lambda one: one["test_correct"]):
            bin_ = int(np.digitize(one["test_correct"], bins))
            counts[bin_] = counts.get(bin_, 0) + 1
            colour = COLOURS[1] if one["lost_classes"] else COLOURS[0]
            height = place + 0.075 * counts[bin_]
            axes.plot(one["test_correct"], height, "o", color=colour, markersize=4)
    axes.set(yticks=[0.3, 1.3], yticklabels=NAMES.values(), ylim=(-0.1, 2.2))
    axes.set_xlabel("right of 10,000, a dot for each seed; orange: a class was lost")
for last, name in NAMES.items():
    gap = np.diff(sorted(one["test_correct"] for one in found[last])).max()
    say(f"{name}: the widest gap between a run and the next better one is {gap:,}.")

# %% [markdown]
# Now to the runs that lost a class: how high does each logit get, over all test digits, before
# the ReLU? Of these runs the one with the lowest is shown.

# %%
test = load("mnist").test
config = dataclasses.replace(base, last_activation="none")
widths = config.widths(784, 10)
x = normalize(config, jnp.asarray(test.images.reshape(len(test), -1)))


def logits_of(seed):
    """Before the ReLU, (10000, 10)."""
    model = build_model(config, widths)
    weights = Path(folder.name, "same", f"seed-{seed}", "weights.safetensors")
    load_canonical(model, load_weights(weights, parameter_shapes(widths)))
    return np.asarray(model(x))


losers = {one["seed"]: logits_of(one["seed"]) for one in found["same"] if one["lost_classes"]}
seed = min(losers, key=lambda seed: losers[seed].max(axis=0).min())
logits = losers[seed]
highest, lost = logits.max(axis=0), int(logits.max(axis=0).argmin())
taken = confusion_matrix(test.labels, np.maximum(logits, 0).argmax(axis=1), 10)
recall = 100 * taken.diagonal() / taken.sum(axis=1)

# %%
with figure(f"Seed {seed}, which lost a class", columns=2) as axes:
    colours = [COLOURS[1] if label == lost else COLOURS[0] for label in range(10)]
    for one, heights in zip(axes, (highest, recall), strict=True):
        one.bar(range(10), heights, color=colours)
        one.set(xlabel="class", xticks=range(10))
    axes[0].axhline(0, color=INK, linewidth=0.6)
    axes[0].set_ylabel("highest logit of any digit")
    axes[1].set(ylabel="of its digits right, %", ylim=(0, 100))
other = taken[lost].argmax()
say(
    f"Seed {seed}: the logit of class {lost} gets up to {highest[lost]:.2f} and is above 0 for "
    f"{(logits[:, lost] > 0).sum()} of {len(test):,} digits. {recall[lost]:.0f} % of the "
    f"{taken[lost].sum():,} such digits are right; {taken[lost, other]:,} are taken for a {other}."
)
folder.cleanup()
