"""Picture of all runs: one dot each, with a line between paired runs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlp_compare.accuracy.equivalence import MARGIN
from mlp_compare.accuracy.measurement import Cell
from mlp_compare.figures import COLOURS, INK, style, to_svg
from mlp_workload.interface import TITLES

_COLOURS = dict(zip(TITLES, COLOURS, strict=False))
_JITTER = 0.16


def draw(cells: Sequence[Cell]) -> bytes:
    """Returns an SVG file; equal counts give equal bytes."""
    groups = [[cell for cell in cells if cell.config is config] for config in dict.fromkeys(c.config for c in cells)]
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    with style():
        figure = Figure(figsize=(0.6 + 3.6 * columns, 0.3 + 2.5 * rows), layout="constrained")
        for axes, group in zip(figure.subplots(rows, columns, squeeze=False).flat, groups, strict=True):
            _draw_group(axes, group)
        figure.supylabel("correct of 10,000", fontsize=9)
        figure.supxlabel(f"bar: mean; band: PyTorch's mean ± {MARGIN}, the margin", fontsize=8)
        return to_svg(figure)


def _draw_group(axes: Axes, group: Sequence[Cell]) -> None:
    config = group[0].config
    last = "last activation as in the tutorial" if config.last_activation == "same" else "no last activation"
    axes.set_title(f"{config.preset}, {last}", fontsize=9)
    labels = []
    for left, cell in zip((0, 2.5), group, strict=True):
        positions = np.array([left, left + 1])
        counts = np.array(list(cell.correct.values()))
        jitter = np.linspace(-_JITTER, _JITTER, counts.shape[1])
        middle = counts[1].mean()
        axes.fill_between(
            [left - 0.4, left + 1.4], middle - MARGIN, middle + MARGIN, color=INK, alpha=0.15, linewidth=0
        )
        if cell.pairing == "paired":
            axes.plot(positions[:, None] + jitter, counts, color=INK, linewidth=0.6, alpha=0.7)
        for position, framework, values in zip(positions, cell.correct, counts, strict=True):
            axes.plot(position + jitter, values, "o", color=_COLOURS[framework], markersize=4, alpha=0.8)
            axes.hlines(values.mean(), position - 0.3, position + 0.3, color=_COLOURS[framework], linewidth=2)
            labels.append((float(position), f"{TITLES[framework]}\n{cell.pairing}"))
    axes.set_xticks(*zip(*labels, strict=True))
    axes.tick_params(axis="x", length=0)
