"""Picture of a benchmark: seconds of an epoch by variant, and the cost of an example by batch size and width."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mlp_compare.bench.tables import Figures, Result
from mlp_compare.bench.variants import CONTROL
from mlp_compare.figures import COLOURS, INK, style, to_svg


def draw(result: Result) -> bytes:
    """Returns an SVG: the epochs of every variant and, if there is a sweep, the cost of an example."""
    figures = Figures(result)
    with style():
        swept = bool(result["sweep"])
        figure = Figure(figsize=(9, 6.4) if swept else (9, 3.4), layout="constrained")
        grid = figure.add_gridspec(2 if swept else 1, 2)
        _draw_epochs(figure.add_subplot(grid[0, :]), figures)
        for column, varied in enumerate(("batch size", "width") if swept else ()):
            _draw_sweep(figure.add_subplot(grid[1, column]), figures, varied)
        return to_svg(figure)


def _colour(figures: Figures, name: str) -> str:
    kinds = {"jax": COLOURS[0], "control": COLOURS[0], "torch": COLOURS[1], "peer": COLOURS[2]}
    return kinds.get(figures.variants[name]["kind"], INK)


def _draw_epochs(axes: Any, figures: Figures) -> None:
    names = [*figures.ordered()[::-1], CONTROL]
    for position, name in enumerate(names):
        seconds, colour = figures.seconds[name], _colour(figures, name)
        axes.barh(position, np.median(seconds), color=colour, alpha=0.35, height=0.7)
        axes.plot(seconds, [position] * len(seconds), "|", color=colour, markersize=9)
    axes.set_yticks(range(len(names)), [figures.variants[name]["name"] for name in names])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="seconds for an epoch; a bar is the median of the processes, a stroke one of them")
    axes.set_xlim(left=0)


def _draw_sweep(axes: Any, figures: Figures, varied: str) -> None:
    points = [point for point in figures.result["sweep"] if point["varied"] == varied]
    for name in dict.fromkeys(point["variant"] for point in points):
        own = [point for point in points if point["variant"] == name]
        at = [point["batch_size"] if varied == "batch size" else point["hidden"][0] for point in own]
        cost = [1e6 * float(np.median(point["epoch_seconds"])) / point["examples"] for point in own]
        dashed = "--" if name == "torch-hand" else "-"
        axes.loglog(at, cost, dashed, marker=".", color=_colour(figures, name), label=figures.variants[name]["name"])
    axes.set(xlabel=varied if varied == "batch size" else "width of the hidden layers", ylabel="µs an example")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.legend(frameon=False, fontsize=7)
    axes.grid(alpha=0.25)
