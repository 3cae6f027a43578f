"""Plumbing of the lessons: figures in the page's colours, runs without output, a Visdom server."""

import atexit
import base64
import contextlib
import dataclasses
import io
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

import jax_mlp.train
import reference_torch.train
from mlp_compare.figures import COLOURS, INK, inline, style, to_svg
from mlp_workload.config import Config
from mlp_workload.initial import initial_parameters
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.visdom.server import Unreachable, VisdomServer
from mlp_workload.weights import Parameters, load_weights, parameter_shapes, save_weights

__all__ = [
    "COLOURS",
    "INK",
    "figure",
    "say",
    "start_visdom",
    "train_both",
    "train_seeds",
    "windows",
]

_PIXELS, _CLASSES = 784, 10
_SILENT = OutputOptions(visdom="off", quiet=True)


def say(text: str) -> None:
    """Shows Markdown."""
    display(Markdown(text))


@contextlib.contextmanager
def figure(title: str, columns: int = 1, rows: int = 1, height: float = 2.7) -> Iterator[Any]:
    """Yields axes to draw on, one or an array of those (rows, columns); shows them in the end.

    `height` is in inches, the width is the page's. Screen readers read `title`.
    """
    with style():
        drawn = Figure(figsize=(7.2, height), layout="constrained")
        yield drawn.subplots(rows, columns)
        name = re.sub(r"\W+", "-", title.lower())
        display(HTML(inline(to_svg(drawn), name, title)))


def _weights(run: Path, config: Config) -> Parameters:
    shapes = parameter_shapes(config.widths(_PIXELS, _CLASSES))
    return load_weights(run / "weights.safetensors", shapes)


def train_both(config: Config) -> dict[str, tuple[dict[str, Any], Parameters]]:
    """Trains in each framework from the same initial weights; returns summaries and weights."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder, "start.safetensors")
        widths = config.widths(_PIXELS, _CLASSES)
        save_weights(start, initial_parameters(config.initialization, widths, config.seed))
        for name, train in (("JAX", jax_mlp.train.train), ("torch", reference_torch.train.train)):
            run = dataclasses.replace(config, initial_weights=start, run_dir=Path(folder, name))
            results[name] = train(run, _SILENT), _weights(Path(folder, name), config)
    return results


def train_seeds(config: Config, seeds: int) -> tuple[list[dict[str, Any]], str]:
    """Trains as `--seeds` does; returns each seed's summary and "weights", and all warnings."""
    warnings = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config, run_dir=Path(folder, "run"))
        with contextlib.redirect_stderr(warnings):
            summaries = jax_mlp.train.train_seeds(config, seeds, _SILENT)["seeds"]
        for each in summaries:
            each["weights"] = _weights(Path(folder, "run", f"seed-{each['seed']}"), config)
    return summaries, warnings.getvalue()


def start_visdom() -> tuple[Any, int]:
    """Starts a server on a free port, which ends with this process; returns a client, the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    folder = tempfile.TemporaryDirectory()
    # `python -m mlp_workload.dashboard`, without fetching files of its page.
    program = "from mlp_workload import dashboard as d; d.ASSETS_SECONDS = 0; d.main()"
    flags = ["--port", str(port), "--env-path", f"{folder.name}/curves"]
    server = subprocess.Popen(
        [sys.executable, "-c", program, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def stop() -> None:
        server.terminate()
        server.wait(timeout=30)
        folder.cleanup()

    atexit.register(stop)
    for _ in range(600):
        try:
            return VisdomServer(port=port).connect(), port
        except Unreachable:
            if server.poll() is not None:
                raise
            time.sleep(0.1)
    raise TimeoutError("no server within a minute")


def windows(
    client: Any, title: str, environment: str = "main", height: float = 3.6
) -> dict[str, Any]:
    """Draws the four windows that a server holds, as its page would; returns them by name."""
    held: dict[str, Any] = json.loads(client.get_window_data(win=None, env=environment))
    with figure(title, columns=2, rows=2, height=height) as axes:
        for each, window in zip(axes.flat, held.values(), strict=True):
            _draw(each, window)
    return held


def _draw(axes: Any, window: dict[str, Any]) -> None:
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
