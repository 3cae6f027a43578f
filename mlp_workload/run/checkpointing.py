"""When a run is written down whole, what it does when it is asked to stop, and from where it goes on."""

import json
from collections.abc import Callable
from typing import Literal

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError, one_line, warn
from mlp_workload.files import shell_quoted
from mlp_workload.optimizer import state_shapes
from mlp_workload.run.checkpoint import Checkpoint, Checkpoints, NoCheckpoint
from mlp_workload.run.folder import RunFolder
from mlp_workload.run.signals import Stopped, StopSignals
from mlp_workload.sinks.json_lines import last_fact, read_starts
from mlp_workload.weights import parameter_shapes

CHECKPOINT_EVERY = 1000
"""Steps, where nobody says."""
Resume = bool | Literal["or_start"]
"""Whether a run goes on from its newest checkpoint. "or_start": if it has one; else it begins, and if it is finished
already, nothing is done."""
MAY_CHANGE = (
    "epochs", "device", "gpu", "devices", "split_hidden", "pad_batches", "dataset", "transpose_images", "run_dir",
)  # fmt: skip
"""Of a run's configuration, when it is resumed. The data must be the same wherever they are; the place is the folder's
own."""


class Finished(UserError):
    """The run that should be resumed is finished, after so many `epochs`."""

    def __init__(self, message: str, epochs: int) -> None:
        super().__init__(message, epochs)  # as it is pickled
        self.epochs = epochs

    def __str__(self) -> str:
        return one_line(self.args[0])


class Pace:
    """When a run pauses for a checkpoint, and whether it stops there: alike in all of its processes.

    It does at its start and end, `every` so many steps, and when a signal came to one of them, which ends the run. An
    epoch is interrupted for one only where it has more steps than that. A run that is resumed is written down already,
    at `from_step`. `max_over_processes` is a trainer's.
    """

    def __init__(
        self, every: int, signals: StopSignals, max_over_processes: Callable[[int], int], from_step: int | None = None
    ) -> None:
        self._every, self._signals, self._max_over_processes = every, signals, max_over_processes
        self._tried_at = from_step

    @property
    def has_begun(self) -> bool:
        """Whether the run has been written down before, or should have been."""
        return self._tried_at is not None

    def pause(self, step: int, offset: int, steps: int) -> int:
        """How far, of an epoch's `steps`, to train in one go, `step` steps into the run and `offset` into the epoch."""
        left = (self._tried_at or 0) + self._every - step
        return steps if self._every >= steps else min(steps, offset + max(left, 1))

    def reached(self, step: int, is_last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """Raises `Stopped` where a signal came, after what there is to write is written."""
        stopped_by = self._max_over_processes(self._signals.received or 0)
        if self._tried_at is None or step >= self._tried_at + self._every or is_last or stopped_by:
            self._tried_at = step
            self._save(checkpoint)
        if stopped_by and not is_last:
            raise Stopped(f"stopped after step {step}{self._left(step)}", stopped_by)

    def _save(self, checkpoint: Callable[[], Checkpoint]) -> None:
        """Nothing: the first process does."""

    def _left(self, step: int) -> str:
        """What is there of a run that stops after `step`."""
        return ""


class Keeper(Pace):
    """Writes them. `sync` is called before each, and where the last can't be written, `save_weights`."""

    def __init__(
        self,
        folder: RunFolder,
        every: int,
        signals: StopSignals,
        sync: Callable[[], None],
        save_weights: Callable[[], None],
        from_step: int | None,
        max_over_processes: Callable[[int], int],
    ) -> None:
        super().__init__(every, signals, max_over_processes, from_step)
        self._folder, self._sync, self._save_weights = folder, sync, save_weights
        self._checkpoints = Checkpoints(folder.checkpoints)
        self._last_step = from_step
        self._warned = False

    @property
    def way_on(self) -> str:
        """How a run goes on that ended in between."""
        if self._last_step is None:
            return "no checkpoint"
        return f"--resume {shell_quoted(self._folder.path)} goes on from step {self._last_step}"

    def _left(self, step: int) -> str:
        if self._last_step == step:
            return f"; {self.way_on}"
        self._save_weights()
        return f"; {self.way_on}; the weights of now are in {self._folder.weights}"

    def _save(self, make: Callable[[], Checkpoint]) -> None:
        """What can't be saved does not end the run: there may be room again, and room for the weights is kept."""
        checkpoint = make()
        if not checkpoint.is_finite:
            return  # nothing to go on from
        try:
            self._sync()
            self._checkpoints.save(checkpoint)
            self._last_step, self._warned = checkpoint.step, False
        except UserError as error:
            if not self._warned:
                warn(f"no checkpoint of step {checkpoint.step}: {error}; the run goes on")
            self._warned = True


def resumed_from(folder: RunFolder, config: Config, dataset: Dataset) -> tuple[Checkpoint, Dataset]:
    """The newest checkpoint, and the data set as the run was trained on it.

    Raises `UserError` where there is none, or none from which a run by `config` can go on.
    """
    shapes = state_shapes(config, parameter_shapes(config.widths(dataset.pixels, dataset.classes)))
    try:
        at = Checkpoints(folder.checkpoints).newest()
        began = json.loads(Config().to_json()) | at.config  # an older version lacks what came later
        changed = [
            f"--{name.replace('_', '-')} {value}, it began with {began[name]}"
            for name, value in json.loads(config.to_json()).items()
            if name not in MAY_CHANGE and value != began[name]
        ]
        if changed:
            raise UserError(f"a run goes on as it began: {'; '.join(changed)}")
        images = last_fact((event.facts for event in read_starts(folder.events)), "images")
        if (trained_on := dataset.as_trained(at.dataset_digest, images)) is None:
            raise UserError(f"--dataset {config.dataset} is not what the run was trained on")
        at.check(shapes, config.dtype)
        if (finished := folder.finished_epochs(len(dataset.train))) is not None and config.epochs <= finished:
            said = f"--resume {folder.path}: the run is finished after {finished} epochs; a higher --epochs goes on"
            raise Finished(said, finished)
        done = at.epoch - (at.offset == 0)
        if config.epochs < done:
            raise UserError(f"the run is in epoch {done} already: --epochs must be at least that, got {config.epochs}")
    except Finished:
        raise
    except UserError as error:
        message = f"--resume {folder.path}: {error}"
        if isinstance(error, NoCheckpoint) and folder.weights.is_file():
            weights = shell_quoted(folder.weights)
            message += f"; a new run can start from its weights: --initial-weights {weights} and the same settings"
        raise UserError(message) from error
    return at, trained_on
