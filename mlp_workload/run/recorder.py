"""Writes a run down: events to its sinks, weights and summary to its folder."""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Any

from mlp_workload.errors import UserError
from mlp_workload.events import Event, RunFinished, Sink
from mlp_workload.files import clear_write_errors, open_regular, write_json
from mlp_workload.run.folder import RunFolder
from mlp_workload.weights import Parameters


class Recorder:
    """Records the run in `folder`, in which room for the weights is reserved, until `stack` ends."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: RunFolder,
        parameters: Callable[[], Parameters],
        sinks: Iterable[Sink],
    ) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = {}
        self._parameters = parameters
        self._sinks: list[Sink] = []
        for sink in sinks:
            stack.callback(sink.close)
            self._sinks.append(sink)

    def emit(self, event: Event) -> None:
        """Hands the event to all sinks. Raises `UserError` if it can't be written, after the weights are saved."""
        if isinstance(event, RunFinished):
            self.summary |= event.summary
            self.save_weights()
        try:
            for sink in self._sinks:
                sink.emit(event)
        except UserError as error:
            self.save_weights()
            raise UserError(f"{error}; the weights so far are in {self.folder.weights}") from error
        if isinstance(event, RunFinished):  # last: a folder with a summary is complete
            self.sync()
            write_json(self.folder.path / "summary.json", self.summary)

    def save_weights(self) -> None:
        self.folder.save_weights(self._parameters())

    def sync(self) -> None:
        """Makes the events outlast a power cut. Raises `UserError`."""
        with clear_write_errors(self.folder.events), open_regular(self.folder.events, "r+b") as file:
            os.fsync(file.fileno())
