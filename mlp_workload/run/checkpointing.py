"""Decides when a run writes a checkpoint and whether it stops there, and finds the one from which it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError, warn
from mlp_workload.files import shell_quoted
from mlp_workload.optimizer import state_shapes
from mlp_workload.run.checkpoint import Checkpoint, Checkpoints, NoCheckpoint
from mlp_workload.run.folder import RunFolder
from mlp_workload.run.recorder import Recorder
from mlp_workload.run.signals import Stopped, StopSignals
from mlp_workload.sinks.json_lines import last_fact, read_starts
from mlp_workload.weights import parameter_shapes

CHECKPOINT_EVERY = 1000
"""Default number of steps between checkpoints."""
Resume = bool | Literal["or_start"]
"""Whether a run continues from its newest checkpoint. With "or_start" it starts if it has none, and does nothing if it
is finished."""
MAY_CHANGE = (
    "epochs", "device", "gpu", "devices", "split_hidden", "pad_batches", "dataset", "transpose_images", "run_dir",
)  # fmt: skip
"""Fields of the configuration that may change when a run is resumed. The data must be the same, wherever they are."""


class Finished(UserError):
    """The run that should be resumed has finished all its `epochs`."""

    def __init__(self, message: str, epochs: int) -> None:
        super().__init__(message, epochs)  # as it is pickled
        self.epochs = epochs


class Checkpointer:
    """Decides when a run pauses for a checkpoint, writes it, and stops the run there; the same in all of its processes.

    A checkpoint is due at the run's start and end, `every` so many steps, and when a signal came to one of the
    processes, which ends the run. An epoch is interrupted for one only if it has more steps than `every`. A run that is
    resumed has one at `from_step`. `max_over_processes` is a trainer's. Only the first process has a `recorder`, and
    only it writes.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        run_dir: Path | None,
        every: int,
        signals: StopSignals,
        max_over_processes: Callable[[int], int],
        from_step: int | None,
    ) -> None:
        self._recorder, self._run_dir = recorder, run_dir
        self._every, self._signals, self._max_over_processes = every, signals, max_over_processes
        self._tried_at = self._last_step = from_step
        self._warned = False

    @property
    def way_on(self) -> str:
        """Returns how the run can be continued if it ends now, as the end of a message."""
        if self._recorder:
            if self._last_step is None:
                return "no checkpoint"
            return f"--resume {shell_quoted(self._recorder.folder.path)} goes on from step {self._last_step}"
        if self._tried_at is None:
            return "nothing was trained"
        return f"--resume {shell_quoted(self._run_dir)} goes on" if self._run_dir else "it can be resumed"

    def pause(self, step: int, offset: int, steps: int) -> int:
        """Returns how far, of an epoch's `steps`, to train in one go, after `step` steps of the run and `offset` of the
        epoch."""
        left = (self._tried_at or 0) + self._every - step
        return steps if self._every >= steps else min(steps, offset + max(left, 1))

    def reached(self, step: int, is_last: bool, make: Callable[[], Checkpoint]) -> None:
        """Saves the checkpoint of `step` if it is due. Raises `Stopped` after that if a signal came."""
        stopped_by = self._max_over_processes(self._signals.received or 0)
        if self._tried_at is None or step >= self._tried_at + self._every or is_last or stopped_by:
            self._tried_at = step
            if self._recorder:
                self._save(make())
        if stopped_by and not is_last:
            left = f"; {self.way_on}" if self._recorder else ""
            if self._recorder and self._last_step != step:
                self._recorder.save_weights()
                left += f"; the weights of now are in {self._recorder.folder.weights}"
            raise Stopped(f"stopped after step {step}{left}", stopped_by)

    def _save(self, checkpoint: Checkpoint) -> None:
        """Saves a checkpoint, or warns and goes on: there may be room later, and that for the weights is reserved."""
        assert self._recorder is not None
        if not checkpoint.is_finite:
            return  # nothing to go on from
        try:
            self._recorder.sync()
            Checkpoints(self._recorder.folder.checkpoints).save(checkpoint)
            self._last_step, self._warned = checkpoint.step, False
        except UserError as error:
            if not self._warned:
                warn(f"no checkpoint of step {checkpoint.step}: {error}; the run goes on")
            self._warned = True


def resumed_from(folder: RunFolder, config: Config, dataset: Dataset) -> tuple[Checkpoint, Dataset]:
    """Returns the newest checkpoint, and the data set as the run was trained on it.

    Raises `UserError` if there is none, or none from which a run with `config` can continue.
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
