"""Self-test of the parity check: plants faults and reports whether each is caught where it was planted."""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlp_compare.parity.faults import Fault
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.result import Mismatch
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import save_weights
from twincheck.pipe import WorkerProcess


@dataclass(frozen=True)
class FaultResult:
    """Outcome of one planted fault; `mismatch` is None if the check did not notice it."""

    fault: Fault
    mismatch: Mismatch | None

    @property
    def caught(self) -> bool:
        return self.mismatch is not None

    @property
    def located(self) -> bool:
        """Whether the check named the step and the tensor where the fault was planted."""
        if self.mismatch is None:
            return False
        return (self.mismatch.step, self.mismatch.difference.name) == (self.fault.step, self.fault.tensor)


def self_test(faults: Iterable[Fault], sides: Sequence[WorkerProcess]) -> Iterator[FaultResult]:
    """Plants each fault in a run of its own, which ends one step after the fault's."""
    dataset = load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder, "start.safetensors")
        for fault in faults:
            config = dataclasses.replace(PRESETS[fault.preset], dtype=fault.dtype, device="cpu", **fault.config)
            if fault.start is not None:
                widths = config.widths(dataset.pixels, dataset.classes)
                save_weights(start, fault.start(initial_parameters(config.initialization, widths, config.seed)))
                config = dataclasses.replace(config, initial_weights=start)
            planted = [fault.name if side.name == fault.side else None for side in sides]
            check = Lockstep(config, dataset, sides, fault.step + (0 if fault.runs_freely else 1))
            for _ in check.run((1, 2), planted, evaluate=fault.evaluates, free_runs=fault.runs_freely):
                pass
            yield FaultResult(fault, check.report.mismatch)
