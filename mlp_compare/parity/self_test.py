"""Self-test of the parity check: plants faults and reports whether each is caught where it was planted."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlp_compare.parity.faults import Fault
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.result import Mismatch
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, load
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
        for fault in faults:
            yield FaultResult(fault, _mismatch(fault, sides, dataset, Path(folder)))


def _mismatch(fault: Fault, sides: Sequence[WorkerProcess], dataset: Dataset, folder: Path) -> Mismatch | None:
    config = dataclasses.replace(PRESETS[fault.preset], dtype=fault.dtype, device="cpu", **fault.config)
    if fault.start is not None:
        config = dataclasses.replace(config, initial_weights=_start(fault, config, dataset, folder))
    planted = [fault.name if side.name == fault.side else None for side in sides]
    steps = fault.step + (0 if fault.runs_freely else 1)
    check = Lockstep(config, dataset, sides, steps)
    for _ in check.run((1, 2), planted, evaluate=fault.evaluates, free_runs=fault.runs_freely):
        pass
    return check.report.mismatch


def _start(fault: Fault, config: Config, dataset: Dataset, folder: Path) -> Path:
    assert fault.start is not None
    widths = config.widths(dataset.pixels, dataset.classes)
    path = folder / "start.safetensors"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    save_weights(path, fault.start(initial_parameters(config.initialization, widths, config.seed)))
    return path
