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
# environments. The tutorial draws four of them. In this project
#
# ```
# python -m mlp_workload.dashboard
# ```
#
# starts such a server, and every run that begins while it is there draws itself. The lesson starts
# one for itself, on a free port, and reads back what it holds.

# %%
import atexit
import base64
import dataclasses
import io
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.image
import numpy as np

from jax_mlp.train import train
from lessons.figure import figure, say
from mlp_compare.figures import COLOURS
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.run.output_options import Watching
from mlp_workload.visdom.server import Unreachable, VisdomServer
from mlp_workload.visdom.windows import environment_name

with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
folder = tempfile.TemporaryDirectory()
# The dashboard, but for the files of its page, which it would fetch where they are missing.
DASHBOARD = "from mlp_workload import dashboard as d; d.ASSETS_SECONDS = 0; d.main()"
flags = ["--port", str(port), "--env-path", f"{folder.name}/curves"]
server = subprocess.Popen(
    [sys.executable, "-c", DASHBOARD, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
atexit.register(server.kill)


def connect():
    for _ in range(600):
        try:
            return VisdomServer(port=port).connect()
        except Unreachable:
            if server.poll() is not None:
                raise
            time.sleep(0.1)
    raise TimeoutError("no server within a minute")


viz = connect()

# %% [markdown]
# The tutorial's four windows, by hand. A line is begun with one point and appended to; two lines
# are two columns with a legend; images come as one picture, text as HTML.

# %%
digits = load("mnist").test
viz.line([0.0], [0.0], win="one", opts={"title": "one line"})
start = time.perf_counter()
for step in range(1, 51):
    viz.line([np.log(1 + step)], [float(step)], win="one", update="append")
appended = time.perf_counter() - start

steps = np.arange(51.0)
two = np.column_stack([np.exp(-steps / 20), 1 - np.exp(-steps / 10)])
start = time.perf_counter()
viz.line(two, steps, win="two", opts={"title": "two lines", "legend": ["loss", "acc."]})
at_once = time.perf_counter() - start

viz.images(digits.images[:20, None], nrow=10, win="images", opts={"title": "images"})
viz.text("labels: " + " ".join(map(str, digits.labels[:20])), win="text", opts={"title": "text"})
say(
    f"50 points appended one by one took {appended:.2f} s, 51 points of two lines in one go "
    f"{at_once:.3f} s: each append is a request of its own."
)

# %% [markdown]
# What the server holds now, asked for and drawn again.


# %%
def draw(axes, window):
    """A window of the server's, as its browser page would."""
    axes.set_title(window["title"], fontsize=9)
    content = window["content"]
    if window["type"] == "plot":
        for trace, colour in zip(content["data"], COLOURS, strict=False):
            axes.plot(trace["x"], trace["y"], color=colour, label=trace["name"])
        axes.set_xlabel("step")
        if len(content["data"]) > 1:
            axes.legend(frameon=False)
        return
    axes.set_axis_off()
    if window["type"] == "image":
        kind, _, data = content["src"].partition(";base64,")
        axes.imshow(matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), kind[11:]))
    else:
        words = re.sub(r"<.*?>", " ", re.sub("</(tr|p)>", "\n", content))
        axes.text(0.5, 0.5, words, ha="center", va="center", wrap=True, fontsize=8)


windows = json.loads(viz.get_window_data(win=None, env="main"))
with figure("Four windows", columns=2, rows=2, height=3.6) as axes:
    for one, name in zip(axes.flat, ("one", "two", "images", "text"), strict=True):
        draw(one, windows[name])

# %% [markdown]
# A run does the same by itself, from a thread beside the training, each window whole, every two
# seconds and at the end.

# %%
config = dataclasses.replace(
    PRESETS["leaky"], last_activation="none", epochs=2, run_dir=Path(folder.name, "run")
)
watching = Watching(visdom="required", visdom_host="localhost", visdom_port=port, quiet=True)
summary = train(config, watching)
environment = environment_name(config.run_dir)
windows = json.loads(viz.get_window_data(win=None, env=environment))
points = len(windows["train_loss"]["content"]["data"][0]["x"])
say(
    f"The run took {summary['steps']} steps; the server's environment {environment!r} has "
    f"{', '.join(map(repr, windows))}, and {points} points of the training loss."
)
with figure("The windows of a run", columns=2, rows=2, height=5) as axes:
    for one, name in zip(axes.flat, ("train_loss", "test", "x", "pred"), strict=True):
        draw(one, windows[name])

# %%
server.terminate()
server.wait(timeout=30)
folder.cleanup()
