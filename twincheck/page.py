"""HTML page of a report: the causes, then the model as a tree with the size of each mismatch."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2

from mlp_workload.errors import escaped

_DECADES = 16
"""A bar is full at 1 and empty at 1e-16."""

_TENSOR = {
    "code": "{tensor}, by the code since {before}",
    "module": "{tensor}",
    "gradient of code": "gradient of {tensor}, back from {after}",
    "gradient of module": "gradient of {tensor}",
    "gradient of parameter": "gradient of {tensor}",
}


@dataclass
class Node:
    """A module of the tree: the places that were compared at it, and the modules in it by name."""

    places: list[Mapping[str, Any]] = field(default_factory=list)
    children: dict[str, "Node"] = field(default_factory=dict)

    def walk(self) -> Iterator[Mapping[str, Any]]:
        yield from self.places
        for child in self.children.values():
            yield from child.walk()

    @property
    def total(self) -> int:
        return sum(1 for _ in self.walk())

    @property
    def out(self) -> int:
        return sum(place["out"] for place in self.walk())


def render(report: Mapping[str, Any]) -> str:
    """Returns the HTML of a page about a report, as its `as_dict` gives it, with control characters escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twincheck", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    causes = {i: cause["name"] for cause in report["causes"] for i in cause["places"]}
    places = [_view(place) | {"cause": causes.get(i, "")} for i, place in enumerate(report["places"])]
    ends: list[Mapping[str, Any]] = [place for place in places if place["module"] is None]
    tree = _tree(place for place in places if place["module"] is not None)
    template = environment.get_template("page.html.jinja")
    return escaped(template.render(report=report, places=places, tree=tree, ends=Node(ends)))


def _tree(places: Iterator[Mapping[str, Any]]) -> Node:
    root = Node()
    for place in places:
        node = root
        for name in filter(None, re.split("[./]", place["module"])):
            node = node.children.setdefault(name, Node())
        node.places.append(place)
    return root


def _view(place: Mapping[str, Any]) -> dict[str, Any]:
    bound = place["allowed"] / place["scale"] if place["scale"] else 0.0
    call = f"call {place['call']}: " if place["call"] else ""
    return {
        **place,
        "label": call + _TENSOR[place["kind"]].format(**place),
        "bar": _percent(place["relative"]),
        "mark": _percent(bound),
    }


def _percent(relative: float) -> float:
    """Returns the length of a bar on the logarithmic scale; what is no number fills it."""
    if not math.isfinite(relative):
        return 100.0
    return round(100 * min(1.0, max(0.0, 1 + math.log10(relative) / _DECADES)), 1) if relative > 0 else 0.0
