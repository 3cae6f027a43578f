"""Writes events as TensorBoard scalars."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event as Record
from tensorboardX.summary import scalar

from mlp_workload.errors import warn
from mlp_workload.events import Evaluated, Event, TrainLosses


class TensorBoard:
    """Writes `train/loss` of each step, `test/loss` and `test/accuracy` of each evaluation, if they are finite.

    It does not use tensorboardX's thread, which hangs with its callers once the disk is full. If nothing can be written
    any more, it warns once, and the run goes on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._broken = folder, False
        with self._until_broken():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("events*"):  # a resumed run sends its events again
                old.unlink()
            self._writer = EventsWriter(str(folder / "events"))

    def emit(self, event: Event) -> None:
        if self._broken:
            return
        with self._until_broken():
            match event:
                case TrainLosses():
                    for step, loss in enumerate(event.losses.tolist(), start=event.first_step):
                        self._write("train/loss", loss, step)
                case Evaluated():
                    self._write("test/loss", event.test_loss, event.step)
                    self._write("test/accuracy", event.test_accuracy, event.step)
                    self._writer.flush()

    def close(self) -> None:
        if not self._broken:
            with self._until_broken():
                self._writer.close()

    def _write(self, tag: str, value: float, step: int) -> None:
        if math.isfinite(value):
            self._writer.write_event(Record(summary=scalar(tag, value), step=step, wall_time=time.time()))

    @contextlib.contextmanager
    def _until_broken(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._broken = True
            warn(f"cannot write {self._folder} ({error.strerror or error}); the run goes on")
