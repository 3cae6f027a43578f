"""A run of made-up events that draws on a Visdom server."""

import numpy as np
from visdom_process import HURRIED

from mlp_workload.config import Config
from mlp_workload.events import Evaluated, RunFinished, RunStarted, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.sinks.json_lines import JsonLines
from mlp_workload.sinks.visdom import Visdom
from mlp_workload.visdom.server import VisdomServer
from mlp_workload.visdom.windows import environment_name


class Live:
    """A run of made-up events in this process."""

    def __init__(self, server, folder, dataset, monkeypatch):
        for name, seconds in HURRIED.items():
            monkeypatch.setattr(name, seconds)
        folder.mkdir(parents=True)
        self._server, self._environment, self._epochs = server, environment_name(folder), 0
        sink = Visdom(VisdomServer(port=server.port), Config(), dataset, folder, "jax", quiet=False)
        self._sinks = JsonLines(folder / "events.jsonl"), sink
        self._emit(RunStarted(Config(), {"framework": "jax", "dataset_digest": dataset.digest}))

    def _emit(self, event):
        for sink in self._sinks:
            sink.emit(event)

    def train(self, epochs=1):
        for _ in range(epochs):
            self._epochs += 1
            self._emit(TrainLosses(self._epochs, 5 * self._epochs - 4, np.arange(5) / self._epochs, "", 0.1))
            self._emit(Evaluated(self._epochs, 5 * self._epochs, 1 / self._epochs, 0.1, 31, 31, Mistakes([], []), 0.1))

    def diverge(self):
        self._emit(TrainLosses(2, 6, np.array([1e30, np.inf, np.nan]), "", 0.1))
        self._emit(Evaluated(2, 8, np.nan, 0.1, 3, 31, Mistakes([], []), 0.1))

    @property
    def is_drawn(self):
        """Whether the server has all."""
        if self._environment not in self._server.environments():
            return False
        curves = [self._server.traces(self._environment, window) for window in ("train_loss", "test")]
        return [len(curve["1" if "1" in curve else "loss"][0]) for curve in curves] == [5 * self._epochs, self._epochs]

    def finish(self):
        self._emit(RunFinished({}))
        for sink in self._sinks:
            sink.close()
