"""Figures of the lessons: in the page's own colours, light or dark."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure

from mlp_compare.figures import inline, style, to_svg


@contextlib.contextmanager
def figure(title: str, columns: int = 1, rows: int = 1, height: float = 2.7) -> Iterator[Any]:
    """Axes to draw on, one or an array (rows, columns) without the ones, shown when the block ends.

    `height` is in inches, the width that of the page; `title` is read out in the picture's place.
    """
    with style():
        drawn = Figure(figsize=(7.2, height), layout="constrained")
        yield drawn.subplots(rows, columns)
        name = re.sub(r"\W+", "-", title.lower())
        display(HTML(inline(to_svg(drawn), name, title)))


def say(text: str) -> None:
    """Shows Markdown."""
    display(Markdown(text))
