"""Events as curves on a Visdom server, drawn beside the training, which never waits for them."""

import contextlib
import queue
import sys
import threading
from pathlib import Path

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.events import Event
from mlp_workload.visdom.drawing import Drawing, comparison_name, environment_name, trace_name
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import Unreachable, VisdomServer

PAUSE_SECONDS = 0.5
"""Between two drawings; what happens meanwhile is drawn at once."""
RETRY_SECONDS = 1.0
"""Between two attempts to reach a server."""
CLOSE_SECONDS = 8.0
"""That the end of a run waits for the last drawing, at most."""


class Visdom:
    """A thread draws the run. Where no server answers it warns once, goes on trying, and draws all when one does."""

    def __init__(self, server: VisdomServer, config: Config, dataset: Dataset, folder: Path, framework: str) -> None:
        self._server, self._folder = server, folder
        self._names = environment_name(folder), comparison_name(config), trace_name(framework, config)
        self._picture = Picture(dataset)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._warned = False
        self._thread = threading.Thread(target=self._draw, name="visdom", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        self._events.put(event)

    def close(self) -> None:
        self._closing.set()
        self._events.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _draw(self) -> None:
        drawing: Drawing | None = None
        finished = False
        while not finished:
            finished = self._take_events(RETRY_SECONDS if drawing is None else None)
            try:
                drawing = drawing or Drawing(self._server.connect(), *self._names)
                drawing.update(self._picture)
                if finished:
                    drawing.complete(self._picture)
            except Exception as error:  # whatever a server of another version may do, the run goes on
                drawing = None
                self._warn(error if isinstance(error, Unreachable) else f"Visdom failed ({error!r})")
            self._closing.wait(PAUSE_SECONDS)

    def _take_events(self, timeout: float | None) -> bool:
        """Waits for an event and takes all that have come; whether the run is over."""
        try:
            event = self._events.get(timeout=timeout)
            while event is not None:
                self._picture.take(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return False
        return True

    def _warn(self, reason: object) -> None:
        if not self._warned:
            self._warned = True
            with contextlib.suppress(OSError):
                print(
                    f"warning: {reason}: no live curves until one answers; "
                    f"python -m mlp_workload.dashboard --replay {self._folder} draws them at any time",
                    file=sys.stderr,
                )
