"""The loop around a trainer: the same events and the same run folder whichever framework does the steps."""

import contextlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mlp_workload.batches import epoch_order, steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import PeerLost, UserError, clear_memory_errors
from mlp_workload.events import Event, RunFinished, Sink
from mlp_workload.files import clear_write_errors, expand, open_regular, shell_quoted
from mlp_workload.interface import Framework, Trainer
from mlp_workload.run.checkpoint import Checkpoint, Checkpoints
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Finished, Keeper, Pace, Resume, resumed_from
from mlp_workload.run.folder import RunFolder, has_begun, new_default_folder
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.run_events import RunEvents
from mlp_workload.run.signals import StopSignals
from mlp_workload.sinks.console import Output
from mlp_workload.sinks.json_lines import check_can_change, cut_events, events_until
from mlp_workload.weights import Parameters, load_weights, parameter_shapes

T = TypeVar("T")


def train(
    config: Config,
    framework: Framework,
    watching: OutputOptions,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: Resume = False,
) -> dict[str, Any]:
    """Trains as `config` says, leaves a run folder, and returns the content of its summary.json.

    Every `checkpoint_every` steps or so there is a checkpoint; with `resume` the run in the folder of `config` goes on
    from the newest. Raises `Stopped` after a signal such as Ctrl-C or SIGTERM, when a checkpoint is written.

    Raises `UserError` where the data, the starting weights, the device, a required Visdom server or the run folder are
    not to be had, before anything is trained; the folder is claimed last, so that none of the others leaves an empty
    one behind. Where the events can't be written any more, the weights so far are saved before it is raised.
    """
    start = time.perf_counter()
    begun = begun_folder(config, resume)
    if begun:
        watching = watching.as_before(begun)
    watching.check()
    keeper: Keeper | None = None
    with (
        clear_loss_of_peers(lambda: keeper.way_on if keeper else "nothing was trained"),
        contextlib.ExitStack() as stack,
    ):
        folder = stack.enter_context(RunFolder.reopen(begun)) if begun else None
        try:
            trainer, dataset, at, compile_seconds = prepare(stack, framework, config, folder, checkpoint_every)
        except Finished as finished:
            if not is_done(finished, config, resume):
                raise
            assert folder is not None
            Output(markup=False, highlight=False, soft_wrap=True, quiet=watching.quiet).say(
                f"the run in {folder.path} is finished after {finished.epochs} epochs: there is nothing to do"
            )
            return folder.summary()
        told: Sequence[Event] = ()
        if folder and at:
            told, end = events_until(folder.events, at.step, at.step - at.offset)
        else:
            default = f"seed{config.seed}"
            path = config.run_dir or new_default_folder(trainer.framework, config, default)
            folder = stack.enter_context(RunFolder.claim(expand(path), config, restart=resume == "or_start"))
        stack.enter_context(folder.reserve(weights_bytes(config, dataset)))
        if at:
            check_can_change(folder.events)
            folder.go_on(config)
            Checkpoints(folder.checkpoints).set_aside_after(at.step)
            cut_events(folder.events, end)
        sinks = watching.sinks(config, dataset, folder.path, trainer.framework, told)
        record = Record(stack, folder, trainer.parameters, sinks)
        signals = stack.enter_context(StopSignals())
        from_step = at.step if at else None
        keeper = Keeper(folder, checkpoint_every, signals, record.sync, record.save_weights, from_step, trainer.largest)
        events = RunEvents(config, dataset, trainer, start, compile_seconds)
        for event in run(config, dataset, trainer, events, keeper, at, told):
            record.tell(event)
    return record.summary


def begun_folder(config: Config, resume: Resume) -> Path | None:
    """The folder of the run that goes on; None if a run begins. Raises `UserError`."""
    if not resume:
        return None
    if config.run_dir is None:
        raise UserError("a run that is resumed has a folder: run_dir")
    folder = expand(config.run_dir)
    return None if resume == "or_start" and not has_begun(folder) else folder


def is_done(finished: Finished, config: Config, resume: Resume) -> bool:
    """Whether there is nothing to do: `--resume-or-start` on a run that is finished after the epochs of `config`."""
    return resume == "or_start" and config.epochs == finished.epochs


def follow(
    config: Config, framework: Framework, checkpoint_every: int = CHECKPOINT_EVERY, resume: Resume = False
) -> None:
    """What every process of a run but the first does: the same steps, of which it tells and writes nothing.

    Raises as `train` does. A run that is resumed is read from its folder, which must be the first process's own.
    """
    start = time.perf_counter()
    pace: Pace | None = None
    where = f"--resume {shell_quoted(config.run_dir)} goes on" if config.run_dir else "it can be resumed"
    with (
        clear_loss_of_peers(lambda: where if pace and pace.has_begun else "nothing was trained"),
        contextlib.ExitStack() as stack,
    ):
        begun = begun_folder(config, resume)
        folder = RunFolder.reopen(begun, to_write=False) if begun else None
        try:
            trainer, dataset, at, compile_seconds = prepare(stack, framework, config, folder, checkpoint_every)
        except Finished as finished:
            if not is_done(finished, config, resume):
                raise
            return
        signals = stack.enter_context(StopSignals())
        pace = Pace(checkpoint_every, signals, trainer.largest, at.step if at else None)
        for _ in run(config, dataset, trainer, RunEvents(config, dataset, trainer, start, compile_seconds), pace, at):
            pass


def prepare(
    stack: contextlib.ExitStack, framework: Framework, config: Config, folder: RunFolder | None, checkpoint_every: int
) -> tuple[Trainer, Dataset, Checkpoint | None, float]:
    """A compiled trainer, at the start or where the run in `folder` goes on; the seconds are those of compilation.

    When it returns, no process of the run needs to read the folder any more. Raises `UserError`, also where the
    processes were not told the same.
    """
    make_trainer, dataset, initial = begin(stack, framework(config), config, folder is not None)
    at = None
    if folder:
        at, dataset = resumed_from(folder, config, dataset)
    trainer = make_trainer(config, dataset, at.parameters if at else initial)
    _, compile_seconds = timed(trainer.compile)
    if checkpoint_every < steps_per_epoch(len(dataset.train), config.batch_size) or (at and at.offset):
        compile_seconds += timed(trainer.compile_steps)[1]
    if at:
        trainer.load_state(at.state)
    check_processes_agree(config, dataset, trainer, checkpoint_every, at.step if at else 0, at.state if at else initial)
    return trainer, dataset, at, compile_seconds


def check_processes_agree(
    config: Config, dataset: Dataset, trainer: Trainer, checkpoint_every: int, step: int, state: Parameters | None
) -> None:
    """Raises `UserError` in each process of a run where one was told other things, found other data, goes on from
    another step or state, or has another version of the framework."""
    alike = replace(config, dataset="mnist", transpose_images=None, run_dir=None, initial_weights=None).to_json()
    versions = describe_environment(trainer.packages)["versions"]
    told = f"{alike} {dataset.digest} {checkpoint_every} {step} {versions}"
    number = zlib.crc32(told.encode())
    for _, array in sorted((state or {}).items()):
        number = zlib.crc32(np.ascontiguousarray(array).data, number)
    number //= 2  # of 32 bits with a sign
    if (trainer.largest(number), -trainer.largest(-number)) != (number, number):
        raise UserError("the processes of this run differ in their flags, data, versions or first weights")


@contextlib.contextmanager
def clear_loss_of_peers(way_on: Callable[[], str]) -> Iterator[None]:
    """Says how a run goes on that a process was lost of."""
    try:
        yield
    except PeerLost as error:
        raise UserError(f"{error}; {way_on()}") from error


def begin(
    stack: contextlib.ExitStack, framework: AbstractContextManager[T], config: Config, resume: bool = False
) -> tuple[T, Dataset, Any]:
    """What `framework` gives, the data, and the starting weights or None; from here on memory may run out.

    Imports and reads side by side where the data are files: TFDS imports much itself. Raises `UserError`.
    """
    if config.dataset.startswith("tfds:"):
        make, dataset = stack.enter_context(framework), load_named(config, resume)
    else:
        with ThreadPoolExecutor(1) as reader:
            loading = reader.submit(load_named, config, resume)
            make, dataset = stack.enter_context(framework), loading.result()
    check_batch_size(config, dataset)
    initial: Parameters | None = None
    if config.initial_weights is not None and not resume:
        shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
        initial = load_weights(expand(config.initial_weights), shapes, config.dtype)
    stack.enter_context(clear_memory_errors())
    return make, dataset, initial


def load_named(config: Config, resume: bool = False) -> Dataset:
    """Loads a run's data. Raises `UserError` that names the flag: a run that is resumed may have its data elsewhere."""
    try:
        return load(config.dataset, config.transpose_images)
    except UserError as error:
        hint = "; if the run's data are elsewhere now, name the folder: --dataset idx:DIR"
        is_folder = config.dataset.startswith("idx:")
        raise UserError(f"--dataset {error}{hint if resume and is_folder else ''}") from error


class Record:
    """A run as it is written down: its folder, with room for the weights, and its sinks, until `stack` ends."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        folder: RunFolder,
        parameters: Callable[[], Parameters],
        sinks: Iterable[Sink],
    ) -> None:
        self.summary: dict[str, Any] = {}
        self._folder, self._parameters = folder, parameters
        self._sinks = []
        for sink in sinks:
            stack.callback(sink.close)
            self._sinks.append(sink)

    def sync(self) -> None:
        """So that the events outlast a power cut. Raises `UserError`."""
        with clear_write_errors(self._folder.events), open_regular(self._folder.events, "r+b") as file:
            os.fsync(file.fileno())

    def save_weights(self) -> None:
        """Those of now, for which there is room."""
        self._folder.save_weights(self._parameters())

    def tell(self, event: Event) -> None:
        """Raises `UserError` where an event can't be written, after the weights."""
        if isinstance(event, RunFinished):
            self.summary |= event.summary
            self.save_weights()
        try:
            for sink in self._sinks:
                sink.emit(event)
        except UserError as error:
            self.save_weights()
            raise UserError(f"{error}; the weights so far are in {self._folder.weights}") from error
        if isinstance(event, RunFinished):  # last: where there is a summary, all else is there
            self.sync()
            self._folder.save_summary(self.summary)


def run(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    events: RunEvents,
    keeper: Pace | None = None,
    at: Checkpoint | None = None,
    told: Iterable[Event] = (),
) -> Iterator[Event]:
    """The events of a run of a compiled trainer, which goes on as they are taken.

    With `at`, a checkpoint whose state the trainer has, it goes on from there, after the events that are `told`.
    """
    epoch, offset, losses, seconds = (1, 0, [], 0.0) if at is None else (at.epoch, at.offset, [at.losses], at.seconds)
    steps = steps_per_epoch(len(dataset.train), config.batch_size)

    def keep() -> None:
        if keeper is not None:
            step = (epoch - 1) * steps + offset
            keeper.reached(
                step,
                epoch > config.epochs,
                lambda: Checkpoint(
                    json.loads(config.to_json()), dataset.digest, trainer.framework, step, epoch, offset, seconds,
                    np.concatenate([np.empty(0, config.dtype), *losses]), trainer.state(),
                ),
            )  # fmt: skip

    yield from events.started() if at is None else events.resumed(at.step, told)
    if at is None:
        keep()
    while epoch <= config.epochs:
        order = epoch_order(config.seed, epoch, len(dataset.train))
        while offset < steps:
            end = steps if keeper is None else keeper.pause((epoch - 1) * steps + offset, offset, steps)
            whole = offset == 0 and end == steps
            train_part = partial(trainer.run_epoch, order) if whole else partial(trainer.run_steps, order, offset, end)
            part, part_seconds = timed(train_part)
            losses, seconds, offset = [*losses, part], seconds + part_seconds, end
            if offset < steps:
                keep()
        yield from events.trained(order, np.concatenate(losses), seconds)
        yield events.evaluated(*timed(trainer.evaluate))
        epoch, offset, losses, seconds = epoch + 1, 0, [], 0.0
        keep()
    if not events.is_evaluated:
        evaluated = events.evaluated(*timed(trainer.evaluate))
        if config.epochs == 0:
            yield evaluated
    yield from events.finished()


def weights_bytes(config: Config, dataset: Dataset) -> int:
    """Of all parameters together."""
    shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
    return np.dtype(config.dtype).itemsize * sum(map(math.prod, shapes.values()))


def check_batch_size(config: Config, dataset: Dataset) -> None:
    """Raises `UserError` where a batch is larger than the training set."""
    if config.batch_size > (examples := len(dataset.train)):
        raise UserError(f"--batch-size must be at most {examples}, the training examples, got {config.batch_size}")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start
