"""Plants every fault in turn and sees whether the parity check catches it where it was planted."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlp_compare.parity.faults import Fault
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.result import Departure
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, load
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import save_weights
from twincheck.pipe import Side


@dataclass(frozen=True)
class Bite:
    """What the check made of a fault: `departure` is None where it noticed nothing."""

    fault: Fault
    departure: Departure | None

    @property
    def caught(self) -> bool:
        return self.departure is not None

    @property
    def placed(self) -> bool:
        """Whether it was named at the step and the tensor where it was planted."""
        found = self.departure
        return found is not None and (found.step, found.difference.name) == (self.fault.step, self.fault.tensor)


def bite(faults: Iterable[Fault], sides: Sequence[Side]) -> Iterator[Bite]:
    """Plants each fault in a run of its own, which goes a step beyond the fault's."""
    dataset = load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults:
            yield Bite(fault, _departure(fault, sides, dataset, Path(folder)))


def _departure(fault: Fault, sides: Sequence[Side], dataset: Dataset, folder: Path) -> Departure | None:
    config = dataclasses.replace(PRESETS[fault.preset], dtype=fault.dtype, device="cpu", **fault.config)
    if fault.start is not None:
        config = dataclasses.replace(config, initial_weights=_start(fault, config, dataset, folder))
    planted = [fault.name if side.name == fault.side else None for side in sides]
    steps = fault.step + (0 if fault.runs_freely else 1)
    check = Lockstep(config, dataset, sides, steps)
    for _ in check.run((1, 2), planted, evaluate=fault.evaluates, free_runs=fault.runs_freely):
        pass
    return check.report.departure


def _start(fault: Fault, config: Config, dataset: Dataset, folder: Path) -> Path:
    assert fault.start is not None
    widths = config.widths(dataset.pixels, dataset.classes)
    path = folder / "start.safetensors"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    save_weights(path, fault.start(initial_parameters(config.initialization, widths, config.seed)))
    return path
