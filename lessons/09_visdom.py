# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Visdom: one line, two lines, images, text
#
# Visdom is a server that draws in the browser what a program sends: windows, each with a name, in
# environments. The tutorial draws the four kinds in the figure. In this project
#
# ```
# python -m mlp_workload.dashboard
# ```
#
# starts such a server, and every run that begins while it is there draws itself. The lesson starts
# one for itself, on a free port, and draws here what the server holds.

# %% Imports
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from jax_mlp.train import train
from lessons.helpers import say, start_visdom, windows
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.visdom.windows import environment_name

# %% [markdown]
# The tutorial's four windows, by hand. A line begins with one point and is appended to. Two lines
# are two columns with a legend. Images come as one picture, text as HTML.

# %%
viz, port = start_visdom()
viz.line([0.0], [0.0], win="one", opts={"title": "one line"})
start = time.perf_counter()
for step in range(1, 51):
    viz.line([np.log(1 + step)], [float(step)], win="one", update="append")
appended = time.perf_counter() - start

# %%
steps = np.arange(51.0)
two = np.column_stack([np.exp(-steps / 20), 1 - np.exp(-steps / 10)])
start = time.perf_counter()
viz.line(two, steps, win="two", opts={"title": "two lines", "legend": ["loss", "acc."]})
at_once = time.perf_counter() - start

digits = load("mnist").test
viz.images(digits.images[:20, None], nrow=10, win="images", opts={"title": "images"})
viz.text("labels: " + " ".join(map(str, digits.labels[:20])), win="text", opts={"title": "text"})

# %%
windows(viz, "Four windows")
say(
    f"50 points appended one by one took {appended:.2f} s, 51 points of two lines in one go "
    f"{at_once:.3f} s: each append is a request of its own."
)

# %% [markdown]
# A run does the same by itself, from a thread beside the training, each window whole, every two
# seconds and at the end.

# %%
folder = tempfile.TemporaryDirectory()
run = Path(folder.name, "run")
config = dataclasses.replace(PRESETS["leaky"], last_activation="none", epochs=2, run_dir=run)
output = OutputOptions(visdom="required", visdom_host="localhost", visdom_port=port, quiet=True)
summary = train(config, output)
environment = environment_name(run)
held = windows(viz, "The windows of a run", environment, height=5)
points = len(held["train_loss"]["content"]["data"][0]["x"])
say(
    f"The run took {summary['steps']} steps; the server's environment {environment!r} has "
    f"{', '.join(map(repr, held))}, and {points} points of the training loss."
)
