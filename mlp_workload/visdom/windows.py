"""Draws a run's picture in the windows of a Visdom server.

A window is always sent whole. This costs the server less than appending, for which it compares all points with each
other, and sending twice does no harm.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import one_line
from mlp_workload.visdom.picture import Curve, Floats, Picture
from mlp_workload.visdom.server import ServerError

_COMPARED = ("train_loss", "test_loss", "test_accuracy")
"""Windows of the comparison, by the names of curves."""
_DOTS = {"markers": True, "markersize": 5}
"""Options for test results, of which a run may have only one."""
LONGEST_NAME = 250
"""Most bytes of an environment's name, which with .json is the name of its file."""
COMPARED_POINTS = 500
"""Most points of each curve in the comparison, whose drawing costs the server most."""


class Drawing:
    """Draws a run into its own environment, and into one that it shares with runs of the other framework.

    All methods raise `Unreachable` if the server does not answer.
    """

    def __init__(self, client: Any, environment: str, comparison: str, trace: str) -> None:
        self._client = client
        self.environment, self.comparison, self._trace = environment, comparison, trace
        self._drawn: dict[str, int] = {}
        self._compared: set[str] = set()

    def update(self, picture: Picture) -> None:
        """Draws the changes in the run's own environment; the server saves it after each test result."""
        first = not self._drawn
        changed = {part for part, version in picture.version.items() if self._drawn.get(part) != version}
        if "train" in changed:
            self._lines("train_loss", "train loss", "loss", [picture.train_loss])
        if "test" in changed:
            curves = [picture.test_loss, picture.test_accuracy]
            self._lines("test", "test loss&acc.", "", curves, ["loss", "acc."])
        if first and (images := picture.images) is not None:
            height, width = images.shape
            opts = {"title": "test images", "width": width + 20, "height": height + 50}
            self._client.image(images, win="x", env=self.environment, opts=opts)
        if "test" in changed and ((labels := picture.labels) is not None or first):
            opts = {"title": "predicted labels", "width": 330, "height": 370}
            self._client.text(labels or "no test result yet", win="pred", env=self.environment, opts=opts)
        if "test" in changed and picture.test_loss.steps:
            self._client.save([self.environment])
        self._drawn = dict(picture.version)

    def compare(self, picture: Picture) -> None:
        """Draws the run beside others, which costs the server several times as much as `update`."""
        if picture.test_loss.steps:
            for window in _COMPARED:
                self._trace_in(window, window.replace("_", " "), getattr(picture, window))
            self._client.save([self.comparison])

    def complete(self, picture: Picture) -> None:
        """Draws everything, and again if the server does not have it then, as after a restart."""
        self.update(picture)
        self.compare(picture)
        if not self._holds(picture):
            self._drawn, self._compared = {}, set()
            self.update(picture)
            self.compare(picture)

    def _holds(self, picture: Picture) -> bool:
        expected = {
            (self.environment, "train_loss", "1"): len(picture.train_loss.points()[0]),
            (self.environment, "test", "loss"): len(picture.test_loss.points()[0]),
        }
        for window in _COMPARED:
            points = getattr(picture, window).points(COMPARED_POINTS)
            expected[self.comparison, window, self._trace] = len(points[0])
        try:
            windows = {
                environment: json.loads(self._client.get_window_data(win=None, env=environment))
                for environment in (self.environment, self.comparison)
            }
            if picture.images is not None and not {"x", "pred"} <= windows[self.environment].keys():
                return False
            for (environment, window, trace), points in expected.items():
                traces = windows[environment].get(window, {}).get("content", {}).get("data", [])
                if points and [len(found["x"]) for found in traces if found["name"] == trace] != [points]:
                    return False
            return True
        except ServerError:  # the environment is missing
            return False
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not an answer of Visdom
            return False

    def _lines(self, window: str, title: str, y: str, curves: Sequence[Curve], legend: Sequence[str] = ()) -> None:
        points = [curve.points() for curve in curves]
        steps = points[0][0]
        values = np.column_stack([values for _, values in points])
        if not len(steps):  # an empty window from the start
            steps, values = np.zeros(1), np.full((1, len(curves)), np.nan)
        opts = {"title": title, "xlabel": "step", "ylabel": y} | ({"legend": list(legend), **_DOTS} if legend else {})
        self._client.line(values if legend else values[:, 0], steps, win=window, env=self.environment, opts=opts)

    def _trace_in(self, window: str, title: str, curve: Curve) -> None:
        """Draws or replaces one trace among others; creates the window if there is none."""
        if not curve.steps:
            return
        steps, values = curve.points(COMPARED_POINTS)
        target = {"win": window, "env": self.comparison, "name": self._trace}
        exists = window in self._compared or self._client.win_exists(window, self.comparison)
        if not (exists and self._replaced(values, steps, target)):
            opts = {"title": title, "xlabel": "step", "showlegend": True} | (_DOTS if window != "train_loss" else {})
            self._client.line(values, steps, opts=opts, **target)
        self._compared.add(window)

    def _replaced(self, values: Floats, steps: Floats, target: Mapping[str, str]) -> bool:
        """Returns whether the trace was replaced. It fails if the window was closed, or saved by Visdom 0.2 for 0.3."""
        try:
            return bool(self._client.line(values, steps, update="replace", **target) == target["win"])
        except ServerError:
            return False


def environment_name(folder: Path) -> str:
    """Returns the name of a run's own environment: its folder, the one above, and four digits of the path's hash."""
    path = folder.resolve()
    return _safe(f"{'_'.join(path.parts[-2:])}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:4]}")


def comparison_name(config: Config, dataset_digest: str) -> str:
    """Returns the name of the environment that runs of one preset, data set and seed share.

    It contains the data set's digest: `idx:data` may be different sets in two projects.
    """
    digest = "" if config.dataset == "mnist" else f"_{dataset_digest[:8]}"
    return _safe(f"compare_{config.preset}_{config.dataset}{digest}_seed{config.seed}")


def trace_name(framework: str, config: Config) -> str:
    """Returns the framework and every setting that differs from the preset's."""
    beside = ("preset", "dataset", "seed", "run_dir")
    preset = vars(PRESETS[config.preset])
    own = [f"{name} {value}" for name, value in vars(config).items() if name not in beside and value != preset[name]]
    return one_line(", ".join([framework, *own]))


def _safe(name: str) -> str:
    """Returns `name` as a file name that every Visdom server takes; a long one is shortened, with a digest.

    Servers refuse a leading dot, and lose an environment with .json in the middle of its name when they start.
    """
    safe = re.sub(r"[^\w.-]+|^\.+|\.(?=json)", "_", name)
    if len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = f"_{hashlib.sha256(safe.encode()).hexdigest()[:8]}"
    return safe.encode()[: LONGEST_NAME - len(digest)].decode(errors="ignore") + digest
