"""When a run is written down whole, and what it does when it is asked to stop."""

import sys
from collections.abc import Callable

from mlp_workload.checkpoint import Checkpoint, Checkpoints
from mlp_workload.errors import UserError
from mlp_workload.stopping import Stopped, StopSignals

CHECKPOINT_EVERY = 1000
"""Steps, where nobody says."""


class Keeper:
    """Writes a checkpoint `every` so many steps, or when a signal came, which then ends the run.

    An epoch is interrupted for one only where it has more steps than that. `sync` is called before each; `go_on` says
    how a run is taken up again.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every: int,
        signals: StopSignals,
        sync: Callable[[], None],
        go_on: str,
        from_step: int = 0,
    ) -> None:
        self._checkpoints, self._every, self._signals = checkpoints, every, signals
        self._go_on, self._sync = go_on, sync
        self.last_step = self._tried_at = from_step
        self._warned = False

    def pause(self, step: int, offset: int, steps: int) -> int:
        """How far, of an epoch's `steps`, to train in one go, `step` steps into the run and `offset` into the epoch."""
        return steps if self._every >= steps else min(steps, offset + max(self._tried_at + self._every - step, 1))

    def reached(self, step: int, is_last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """Raises `Stopped` where a signal came, after what there is to write is written."""
        stopped_by = self._signals.received
        if is_last or stopped_by is not None or step >= self._tried_at + self._every:
            self._save(checkpoint())
        if stopped_by is not None and not is_last:
            after = f"stopped after step {step}"
            there = (
                f"; {self._go_on} goes on from step {self.last_step}" if self.last_step else ", without a checkpoint"
            )
            raise Stopped(after + there, stopped_by)

    def _save(self, checkpoint: Checkpoint) -> None:
        """What can't be saved does not end the run: there may be room again, and room for the weights is kept."""
        self._tried_at = checkpoint.step
        if not checkpoint.is_finite:
            return  # nothing to go on from
        try:
            self._sync()
            self._checkpoints.save(checkpoint)
            self.last_step, self._warned = checkpoint.step, False
        except UserError as error:
            if not self._warned:
                print(f"warning: no checkpoint of step {checkpoint.step}: {error}; the run goes on", file=sys.stderr)
            self._warned = True
