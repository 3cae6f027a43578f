"""Style of all pictures: SVG without a background, legible on white and on black."""

import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

INK = "#808080"
COLOURS = ("#3f86e0", "#e06c2f", "#2a9d5c", "#b04fc4", "#b58900", "#1fa2a8")
"""Colours of series: JAX, PyTorch, then others."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "figures",
    "svg.fonttype": "none",
    "font.size": 9,
    **{f"{name}.color": INK for name in ("text", "xtick", "ytick", "grid")},
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style() -> Any:
    return rc_context(_STYLE)


def to_svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG file; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def inline(svg: bytes, name: str, title: str) -> str:
    """Returns the `<svg>` element for a page, in the page's text colour, with `title` for screen readers.

    Its ids start with `name`. The document type, metadata and namespaces are removed, because they name other hosts.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", text, count=4)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    return text.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
