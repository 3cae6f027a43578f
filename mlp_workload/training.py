"""The loop around a trainer: the same events and the same run folder whichever framework does the steps."""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.errors import UserError
from mlp_workload.events import Event, RunFinished, Sink
from mlp_workload.files import expand
from mlp_workload.metrics import Evaluation
from mlp_workload.order import epoch_order
from mlp_workload.run_events import Implementation, RunEvents
from mlp_workload.run_folder import RunFolder, new_default_folder
from mlp_workload.trace import Trace
from mlp_workload.watching import Watching
from mlp_workload.weights import Parameters, load_weights, parameter_shapes

T = TypeVar("T")


class Trainer(Implementation, Protocol):
    """What a framework must provide."""

    def compile(self) -> None:
        """Makes everything ready, so that the first epoch takes as long as the others."""

    def run_epoch(self, order: npt.NDArray[np.int32]) -> npt.NDArray[np.floating[Any]]:
        """Trains once over the training set in `order` (n,); the losses (steps,) when all is computed."""

    def evaluate(self) -> Evaluation: ...

    def parameters(self) -> Parameters:
        """A copy of the weights under neutral names."""

    def state(self) -> Parameters:
        """A copy of all that the next step depends on: the weights and, where the run has momentum, the velocities as
        `layers.0.weight.momentum`, zeros before the first step."""

    def load_state(self, state: Parameters) -> None:
        """Goes on from what `state` returned, which it copies."""

    def trace_step(self, batch: npt.NDArray[np.int32]) -> Trace:
        """Trains on the examples `batch` (b,), as `run_epoch` does with each of its batches, and tells all of it."""


MakeTrainer = Callable[[Config, Dataset, Parameters | None], Trainer]
"""Takes the starting weights, which it copies, or None for the framework's own initialiser. Raises `UserError` where
the wanted device is not there."""
Framework = Callable[[Config], AbstractContextManager[MakeTrainer]]
"""Imports what it takes; all that a trainer does happens within the context."""


def train(config: Config, framework: Framework, watching: Watching) -> dict[str, Any]:
    """Trains as `config` says, leaves a run folder, and returns the content of its summary.json.

    Raises `UserError` where the data, the starting weights, the device, a required Visdom server or the run folder are
    not to be had, before anything is trained; the folder is claimed last, so that none of the others leaves an empty
    one behind. Where the events can't be written any more, the weights so far are saved before it is raised.
    """
    start = time.perf_counter()
    watching.check()
    with contextlib.ExitStack() as stack:
        make_trainer, dataset, initial = begin(stack, framework(config), config)
        trainer = make_trainer(config, dataset, initial)
        _, compile_seconds = timed(trainer.compile)
        if config.run_dir is None:
            path = new_default_folder(trainer.framework, config, f"seed{config.seed}")
        else:
            path = expand(config.run_dir)
        folder = RunFolder(path, config)
        sinks = watching.sinks(config, dataset, folder.path, trainer.framework)
        record = Record(stack, folder, weights_bytes(config, dataset), trainer.parameters, sinks)
        for event in run(config, dataset, trainer, start, compile_seconds):
            record.tell(event)
    return record.summary


def begin(stack: contextlib.ExitStack, framework: AbstractContextManager[T], config: Config) -> tuple[T, Dataset, Any]:
    """What `framework` gives, the data, and the starting weights or None; from here on memory may run out.

    Imports and reads side by side where the data are files: TFDS imports much itself. Raises `UserError`.
    """
    if config.dataset.startswith("tfds:"):
        make, dataset = stack.enter_context(framework), load(config.dataset)
    else:
        with ThreadPoolExecutor(1) as reader:
            loading = reader.submit(load, config.dataset)
            make, dataset = stack.enter_context(framework), loading.result()
    check_batch_size(config, dataset)
    initial: Parameters | None = None
    if config.initial_weights is not None:
        shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
        initial = load_weights(expand(config.initial_weights), shapes, config.dtype)
    stack.enter_context(clear_memory_errors())
    return make, dataset, initial


class Record:
    """A run as it is written down: its folder, with room for the weights, and its sinks, until `stack` ends."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: RunFolder,
        weights_bytes: int,
        parameters: Callable[[], Parameters],
        sinks: Iterable[Sink],
    ) -> None:
        self.summary: dict[str, Any] = {}
        self._folder, self._parameters = folder, parameters
        stack.enter_context(folder.reserve(weights_bytes))
        self._sinks = []
        for sink in sinks:
            stack.callback(sink.close)
            self._sinks.append(sink)

    def tell(self, event: Event) -> None:
        """Raises `UserError` where an event can't be written, after the weights."""
        if isinstance(event, RunFinished):
            self.summary |= event.summary
            self._folder.save_weights(self._parameters())
            self._folder.save_summary(self.summary)
        try:
            for sink in self._sinks:
                sink.emit(event)
        except UserError as error:
            self._folder.save_weights(self._parameters())
            raise UserError(f"{error}; the weights so far are in {self._folder.weights}") from error


def run(config: Config, dataset: Dataset, trainer: Trainer, start: float, compile_seconds: float) -> Iterator[Event]:
    """The events of a run of a compiled trainer, which goes on as they are taken.

    `start` is when the work began, by `time.perf_counter`.
    """
    events = RunEvents(config, dataset, trainer, start, compile_seconds)
    yield events.started()
    for epoch in range(1, config.epochs + 1):
        order = epoch_order(config.seed, epoch, len(dataset.train))
        losses, seconds = timed(partial(trainer.run_epoch, order))
        yield from events.trained(order, losses, seconds)
        yield events.evaluated(*timed(trainer.evaluate))
    if config.epochs == 0:
        yield events.evaluated(*timed(trainer.evaluate))
    yield from events.finished()


def weights_bytes(config: Config, dataset: Dataset) -> int:
    """Of all parameters together."""
    shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
    return np.dtype(config.dtype).itemsize * sum(map(math.prod, shapes.values()))


def check_batch_size(config: Config, dataset: Dataset) -> None:
    """Raises `UserError` where a batch is larger than the training set."""
    if config.batch_size > (examples := len(dataset.train)):
        raise UserError(f"--batch-size must be at most {examples}, the training examples, got {config.batch_size}")


@contextlib.contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Turns running out of memory, a `RuntimeError` of many lines in both frameworks, into a `UserError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error), re.I):
            raise
        raise UserError("not enough memory: try smaller --hidden, --batch-size or --seeds, or --device cpu") from error


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
