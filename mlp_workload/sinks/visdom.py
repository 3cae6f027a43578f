"""Draws events as curves on a Visdom server, in a thread for which training never waits."""

import math
import threading
import time
from pathlib import Path
from queue import SimpleQueue

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import one_line, warn
from mlp_workload.events import Event, RunFinished
from mlp_workload.files import shell_quoted
from mlp_workload.sinks.console import Output
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import NothingThere, Unreachable, VisdomServer
from mlp_workload.visdom.windows import Drawing, comparison_name, environment_name, trace_name

PAUSE_SECONDS = 2.0
"""Time between two drawings; the events in between are drawn together."""
COMPARE_SECONDS = 10.0
"""Time between two drawings beside other runs."""
RETRY_SECONDS = 1.0
"""Time between two attempts to reach a server."""
LAST_SECONDS = 3.0
"""Longest time without an answer after which the end of a run still waits for the server."""
CLOSE_SECONDS = 8.0
"""Longest time that the end of a run waits for the last drawing."""


class Visdom:
    """Hands the events to a thread, which keeps a picture of the run and draws it.

    If no server answers, it keeps trying, and draws everything once one does. It warns once if a server refuses or
    disappears. If there never was one, it says so at the end of the run, unless `quiet`. A slow server gets the latest
    picture, which only grows by the losses.
    """

    def __init__(
        self, server: VisdomServer, config: Config, dataset: Dataset, folder: Path, framework: str, quiet: bool
    ) -> None:
        self._server, self._quiet, self._finished = server, quiet, False
        self._replay = f"python -m mlp_workload.dashboard --replay {shell_quoted(folder)}"
        comparison = comparison_name(config, dataset.digest)
        self._names = environment_name(folder), comparison, trace_name(framework, config)
        self._picture, self._events = Picture(dataset), SimpleQueue[Event]()
        self._changed, self._closing = threading.Event(), threading.Event()
        self._warned, self._answered_at = False, -math.inf
        self._compare_at = time.monotonic() + COMPARE_SECONDS
        self._thread = threading.Thread(target=self._draw, name="visdom", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        self._events.put(event)
        self._changed.set()
        self._finished = isinstance(event, RunFinished)

    def close(self) -> None:
        self._closing.set()
        self._changed.set()
        self._thread.join(CLOSE_SECONDS)
        if self._finished and not self._warned and self._answered_at == -math.inf:
            note = f"no Visdom server at {self._server.address}; for the curves: {self._replay}"
            Output(quiet=self._quiet).say(one_line(note))

    def _draw(self) -> None:
        drawing: Drawing | None = None
        while True:
            self._changed.wait(RETRY_SECONDS if drawing is None else None)
            self._changed.clear()
            if self._closing.is_set():
                break
            drawing = self._attempt(drawing, last=False)
            self._closing.wait(PAUSE_SECONDS)
        while self._attempt(drawing, last=True) is None and time.monotonic() < self._answered_at + LAST_SECONDS:
            drawing = None
            time.sleep(RETRY_SECONDS / 4)

    def _attempt(self, drawing: Drawing | None, last: bool) -> Drawing | None:
        """Draws the current picture; returns None if it failed."""
        try:
            while not self._events.empty():
                self._picture.take(self._events.get())
            if drawing is None:
                drawing = Drawing(self._server.connect(), *self._names)
                self._answered_at = time.monotonic()
            if last:
                drawing.complete(self._picture)
            else:
                drawing.update(self._picture)
                if time.monotonic() > self._compare_at:
                    drawing.compare(self._picture)
                    self._compare_at = time.monotonic() + COMPARE_SECONDS
            self._answered_at = time.monotonic()
            return drawing
        except NothingThere as reason:
            if self._answered_at > -math.inf:
                self._warn(reason)
        except Unreachable as reason:
            self._warn(reason)
        except Exception as error:  # a server of another version may do anything; the run goes on
            self._warn(f"Visdom failed ({type(error).__name__}: {error})")
        return None

    def _warn(self, reason: object) -> None:
        if not self._warned:
            self._warned = True
            warn(f"{reason}: no live curves until a server answers; {self._replay} draws them at any time")
