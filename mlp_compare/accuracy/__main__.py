"""Final accuracies of both frameworks over several seeds: `python -m mlp_compare.accuracy --help`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlp_workload.cli.parse import run_command
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.files import new_file, write_atomically, write_json
from mlp_workload.sinks.console import Output

LARGEST = 100_000
"""Largest number of seeds, and of epochs: years of training."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Trains JAX and torch with several seeds and says whether their final accuracies are the same within a margin.

    Paired: both from the same initial weights on the same batches. Unpaired: each by its own initialiser and shuffling,
    as users have it. For each cell, a preset with or without the last activation, two one-sided tests and a bootstrap
    interval lead to a result: equivalent, different, or how many seeds it would take.

    Exit status 0: measured, whether or not the seeds sufficed. 1: measured, and a cell is different. 2: the arguments
    or the machine do not allow it.
    """

    seeds: int = 5
    """Trains with this many seeds, from seed 0 on; at least 2."""
    preset: Literal["relu", "leaky", "both"] = "both"
    """Trains this program of the tutorial, or both."""
    last_activation: Literal["same", "none", "both"] = "both"
    """Applies the activation to the logits too (same), or not (none), or measures one after the other (both)."""
    epochs: int = 10
    """Passes over the training set in each run."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Trains on this device; auto takes a GPU if there is one."""
    gpu: int | None = None
    """Trains on this one of the GPUs, counted from 0."""
    matmul_precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Precision of float32 matrix products on a GPU; highest is IEEE."""
    json: Path | None = None
    """Writes all counts and figures to this new file."""
    plot: Path | None = None
    """Writes a picture of all runs to this new SVG file."""

    def __post_init__(self) -> None:
        for flag, value, least in (("--seeds", self.seeds, 2), ("--epochs", self.epochs, 1)):
            if not least <= value <= LARGEST:
                raise UserError(f"{flag} must be from {least} to {LARGEST}, got {value}")
        _ = self.configs  # checks the device too
        if self.plot is not None and self.plot.suffix != ".svg":
            raise UserError(f"--plot must end in .svg, got {self.plot}")

    @property
    def configs(self) -> list[Config]:
        settings = {name: getattr(self, name) for name in ("epochs", "device", "gpu", "matmul_precision")}
        return [
            replace(config, **settings | {"last_activation": last_activation})
            for preset, config in PRESETS.items()
            if self.preset in (preset, "both")
            for last_activation in ("same", "none")
            if self.last_activation in (last_activation, "both")
        ]


def main() -> None:
    run_command("python -m mlp_compare.accuracy", Accuracy, run)


def run(options: Accuracy) -> bool:
    """Returns whether no cell is different."""
    from mlp_compare.accuracy import distributions, measurement  # `main` reports a missing scipy or matplotlib

    console = Output()
    with new_file("--json", options.json) as json, new_file("--plot", options.plot) as plot:
        measured = measurement.measure(options.configs, options.seeds, console)
        if json is not None:
            write_json(json, measurement.as_json(measured))
        measurement.print_measurement(console, measured)
        if plot is not None:
            write_atomically(plot, distributions.draw(measured.cells))
    return all(cell.equivalence.result != "different" for cell in measured.cells)


if __name__ == "__main__":
    main()
