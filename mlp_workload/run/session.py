"""A training run, whichever framework computes its steps: data, folder, checkpoints, signals and events."""

import contextlib
import json
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlp_workload.batches import epoch_order, steps_per_epoch
from mlp_workload.config import Config
from mlp_workload.environment.description import describe_environment
from mlp_workload.errors import PeerLost, UserError, clear_memory_errors
from mlp_workload.events import Event
from mlp_workload.files import expand
from mlp_workload.interface import Losses, MakeTrainer, Trainer
from mlp_workload.metrics import Evaluation
from mlp_workload.run.checkpoint import Checkpoint, Checkpoints
from mlp_workload.run.checkpointing import CHECKPOINT_EVERY, Checkpointer, Finished, Resume, resumed_from
from mlp_workload.run.folder import RunFolder, has_begun, new_default_folder
from mlp_workload.run.inputs import initial_weights, reading, weights_bytes
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorder import Recorder
from mlp_workload.run.run_events import RunEvents, timed
from mlp_workload.run.signals import StopSignals
from mlp_workload.sinks.console import Output
from mlp_workload.sinks.json_lines import check_can_change, cut_events, events_until
from mlp_workload.weights import Parameters


@dataclass(frozen=True)
class Part:
    """Batches of an epoch, from `first` to before `last`, counted from 0; `order` (n,) are the epoch's examples."""

    order: npt.NDArray[np.int32]
    first: int
    last: int
    ends_epoch: bool


class Run:
    """A run, around the loop that trains it; both `train.py` have that loop.

    About every `checkpoint_every` steps a checkpoint is written. With `resume` the run in the folder of `config` goes
    on from the newest. Only the first process of a run writes anything; the others do the same steps.

    Raises `Stopped` after a signal such as Ctrl-C or SIGTERM, once a checkpoint is written. Raises `UserError` if the
    data, the starting weights, the device, a required Visdom server or the run folder are not available. The folder is
    claimed last, so that none of the others leaves an empty one. If the events can't be written any more, the weights
    are saved before it is raised.
    """

    def __init__(
        self,
        config: Config,
        output: OutputOptions | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        resume: Resume = False,
        is_first: bool = True,
    ) -> None:
        self.summary: dict[str, Any] = {}
        """Content of summary.json, once the run is finished; empty in other processes than the first."""
        self._began = time.perf_counter()
        self._config, self._output = config, output or OutputOptions()
        self._every, self._resume = checkpoint_every, resume
        self._profiled_steps, self._profiling = self._output.profile, contextlib.ExitStack()
        self._is_first = is_first
        self._recorder: Recorder | None = None
        self._schedule: Checkpointer | None = None
        self._at: Checkpoint | None = None
        self._epoch, self._offset, self._seconds, self._losses = 1, 0, 0.0, list[Losses]()

    def __enter__(self) -> Self:
        begun: Path | None = None
        if self._resume:
            if self._config.run_dir is None:
                raise UserError("a run that is resumed has a folder: run_dir")
            folder = expand(self._config.run_dir)
            begun = None if self._resume == "or_start" and not has_begun(folder) else folder
        if self._is_first:
            self._output = self._output.as_before(begun) if begun else self._output
            self._output.check()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._clear_errors())
            self._folder = stack.enter_context(RunFolder.reopen(begun, self._is_first)) if begun else None
            self._read = stack.enter_context(reading(self._config, begun is not None))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool:
        return bool(self._stack.__exit__(*error))

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Ends the run without an error if there is nothing to do; says how it goes on if another process is lost."""
        try:
            yield
        except Finished as finished:
            assert self._folder is not None
            if self._is_first:
                done = f"the run in {self._folder.path} is finished after {finished.epochs} epochs"
                Output(quiet=self._output.quiet).say(f"{done}: there is nothing to do")
                self.summary = self._folder.summary()
        except PeerLost as error:
            way_on = self._schedule.way_on if self._schedule else "nothing was trained"
            raise UserError(f"{error}; {way_on}") from error

    def prepare(self, framework: AbstractContextManager[MakeTrainer]) -> Trainer:
        """Returns a compiled trainer, at the start or where the run goes on, and opens the run's folder.

        Enters `framework`, which imports it while the data are read, until the run ends.

        Raises `UserError`, also if the processes of the run differ in what they were told.
        """
        make_trainer = self._stack.enter_context(framework)
        config, dataset = self._config, self._read()
        initial = None if self._folder else initial_weights(config, dataset)
        self._stack.enter_context(clear_memory_errors())
        if self._folder:
            try:
                at, dataset = resumed_from(self._folder, config, dataset)
            except Finished as finished:
                if self._resume != "or_start" or config.epochs != finished.epochs:
                    raise UserError(str(finished)) from finished
                raise
            self._at, self._epoch, self._offset, self._seconds = at, at.epoch, at.offset, at.seconds
            self._losses = [at.losses]
        trainer = make_trainer(config, dataset, self._at.parameters if self._at else initial)
        self._trainer, self._dataset = trainer, dataset
        _, compile_seconds = timed(trainer.compile)
        from_step, state = (self._at.step, self._at.state) if self._at else (None, initial)
        if self._at:
            trainer.load_state(self._at.state)
        self._check_processes_agree(from_step or 0, state or {})
        self._steps = steps_per_epoch(len(dataset.train), config.batch_size)
        past = self._open() if self._is_first else ()
        signals = self._stack.enter_context(StopSignals())
        self._stack.enter_context(self._profiling)
        self._schedule = Checkpointer(
            self._recorder, config.run_dir, self._every, signals, trainer.max_over_processes, from_step
        )
        self._events = RunEvents(config, dataset, trainer, self._began, compile_seconds)
        self._emit(self._events.started() if from_step is None else self._events.resumed(from_step, past))
        if from_step is None:
            self._checkpoint()
        return trainer

    def _open(self) -> Sequence[Event]:
        """Claims the run's folder, or goes on in it, and opens its sinks; returns the events up to the checkpoint."""
        config, folder, framework = self._config, self._folder, self._trainer.framework
        past: Sequence[Event] = ()
        if folder and self._at:
            past, end = events_until(folder.events, self._at.step, self._at.step - self._at.offset)
        else:
            path = config.run_dir or new_default_folder(framework, config, f"seed{config.seed}")
            claimed = RunFolder.claim(expand(path), config, restart=self._resume == "or_start")
            folder = self._stack.enter_context(claimed)
        self._stack.enter_context(folder.reserve(weights_bytes(config, self._dataset)))
        if self._at:
            check_can_change(folder.events)
            folder.go_on(config)
            Checkpoints(folder.checkpoints).set_aside_after(self._at.step)
            cut_events(folder.events, end)
        sinks = self._output.sinks(config, self._dataset, folder.path, framework, past)
        self._recorder = Recorder(self._stack, folder, self._trainer.parameters, sinks)
        return past

    def parts(self) -> Iterator[Part]:
        """Yields what to train next: an epoch, or as far as the next checkpoint, until the last epoch is done."""
        assert self._schedule is not None
        drawn = 0
        while self._epoch <= self._config.epochs:
            if drawn != self._epoch:
                drawn, self._order = self._epoch, epoch_order(self._config.seed, self._epoch, len(self._dataset.train))
            last = self._schedule.pause(self._step, self._offset, self._steps)
            if self._profiled_steps:
                last, self._profiled_steps = min(last, self._offset + self._profiled_steps), None
                if self._recorder:
                    self._profiling.enter_context(self._trainer.profile(self._recorder.folder.path / "profile"))
            self._clock = time.perf_counter()
            self._part = Part(self._order, self._offset, last, last == self._steps)
            yield self._part

    def trained(self, losses: Losses) -> None:
        """Takes the losses (steps,) of the part that was trained."""
        self._seconds += time.perf_counter() - self._clock
        self._profiling.close()
        assert len(losses) == self._part.last - self._part.first, "the trainer returns the loss of each batch"
        self._losses.append(losses)
        self._offset = self._part.last
        if self._offset < self._steps:
            self._checkpoint()
        else:
            self._emit(self._events.trained(self._order, np.concatenate(self._losses), self._seconds))
            self._clock = time.perf_counter()

    def evaluated(self, evaluation: Evaluation) -> None:
        """Takes the evaluation of the test set that ends an epoch."""
        self._emit([self._events.evaluated(evaluation, time.perf_counter() - self._clock)])
        self._epoch, self._offset, self._seconds, self._losses = self._epoch + 1, 0, 0.0, []
        self._checkpoint()

    def finish(self) -> None:
        if self._events.last is None:  # as if a run is resumed after its last epoch
            event = self._events.evaluated(*timed(self._trainer.evaluate))
            if self._config.epochs == 0:
                self._emit([event])
        self._emit(self._events.finished())
        self.summary = self._recorder.summary if self._recorder else {}

    @property
    def _step(self) -> int:
        return (self._epoch - 1) * self._steps + self._offset

    def _emit(self, events: Iterable[Event]) -> None:
        for event in events:
            if self._recorder:
                self._recorder.emit(event)

    def _checkpoint(self) -> None:
        """Writes a checkpoint if one is due. Raises `Stopped` if a signal came."""

        def make() -> Checkpoint:
            losses = np.concatenate([np.empty(0, self._config.dtype), *self._losses])
            return Checkpoint(
                json.loads(self._config.to_json()), self._dataset.digest, self._trainer.framework, self._step,
                self._epoch, self._offset, self._seconds, losses, self._trainer.state(),
            )  # fmt: skip

        assert self._schedule is not None
        self._schedule.reached(self._step, self._epoch > self._config.epochs, make)

    def _check_processes_agree(self, step: int, state: Parameters) -> None:
        """Raises `UserError` in each process of the run if they differ in flags, data, versions, step or state."""
        same = replace(self._config, dataset="mnist", transpose_images=None, run_dir=None, initial_weights=None)
        versions = describe_environment(self._trainer.packages)["versions"]
        told = f"{same.to_json()} {self._dataset.digest} {self._every} {self._profiled_steps} {step} {versions}"
        number = zlib.crc32(told.encode())
        for _, array in sorted(state.items()):
            number = zlib.crc32(np.ascontiguousarray(array).data, number)
        number //= 2  # of 32 bits with a sign
        if (self._trainer.max_over_processes(number), -self._trainer.max_over_processes(-number)) != (number, number):
            raise UserError("the processes of this run differ in their flags, data, versions or first weights")
