"""Final accuracies of both frameworks over seeds, as a table and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

from rich import box
from rich.table import Table

from mlp_compare.accuracy import equivalence
from mlp_compare.accuracy.equivalence import Equivalence
from mlp_compare.accuracy.runner import Pairing, Runs
from mlp_compare.comparable import require_comparable
from mlp_workload.config import Config
from mlp_workload.interface import TITLES
from mlp_workload.sinks.console import Output
from twincheck.pipe import WorkerProcess


@dataclass(frozen=True)
class Cell:
    """Results of one configuration and pairing: `correct` (seeds,) of the test set, by framework."""

    config: Config
    pairing: Pairing
    correct: Mapping[str, Sequence[int]]
    equivalence: Equivalence


@dataclass(frozen=True)
class Measurement:
    """All cells, and `facts`: device and environment by framework."""

    cells: Sequence[Cell]
    facts: Mapping[str, Mapping[str, Any]]


def measure(configs: Sequence[Config], count: int, console: Output) -> Measurement:
    """Trains each of `configs` with the seeds 0 to `count` - 1.

    The frameworks take turns, each with all cores, which is faster than both at once.
    """
    pairings: Sequence[Pairing] = get_args(Pairing)
    with ExitStack() as stack:
        progress = stack.enter_context(console.progress())
        sides = {framework: stack.enter_context(WorkerProcess(framework, Runs)) for framework in TITLES}
        task = progress.add_task("", total=len(configs) * len(pairings) * count * len(sides))

        def correct(framework: str, config: Config, pairing: Pairing) -> int:
            progress.update(
                task, description=f"{framework} {config.preset} {config.last_activation} {pairing} {config.seed}"
            )
            result = sides[framework].do("final_correct", config, pairing)
            progress.advance(task)
            return int(result)

        cells = []
        for config in configs:
            runs = [dataclasses.replace(config, seed=seed) for seed in range(count)]
            for pairing in pairings:
                facts = {framework: side.do("compiled", runs[0]) for framework, side in sides.items()}
                require_comparable(facts)
                counts = {framework: [correct(framework, run, pairing) for run in runs] for framework in TITLES}
                humps = config.last_activation == "same"
                test = equivalence.equivalence(*counts.values(), paired=pairing == "paired", two_humps=humps)
                cells.append(Cell(config, pairing, counts, test))
    return Measurement(cells, facts)


def print_measurement(console: Output, measurement: Measurement) -> None:
    config, n = measurement.cells[0].config, measurement.cells[0].equivalence.n
    versions = [
        f"{name} {facts['environment']['versions'][name]} on {facts['device']}"
        for name, facts in measurement.facts.items()
    ]
    console.print(
        f"{' and '.join(versions)}, {config.dataset}, {config.dtype}, {config.epochs} epochs, seeds 0 to {n - 1}"
    )
    if not console.file.isatty():
        console.width = 200  # columns of the table
    console.print(_table(measurement))
    first, second = TITLES
    console.print(
        f"Correct on the test set, mean ± deviation; difference {first} - {second} with its 90 % bootstrap interval; "
        f"margin ±{equivalence.MARGIN}."
    )
    if n < equivalence.TWO_HUMP_SEEDS and any(cell.config.last_activation == "same" for cell in measurement.cells):
        console.print(
            "With the last activation a run can lose a class, and accuracies have two humps: for few seeds the "
            f"t-tests' assumptions do not hold, and there is no result from fewer than {equivalence.TWO_HUMP_SEEDS}."
        )


def _table(measurement: Measurement) -> Table:
    table = Table("preset", "last activation", "runs", "N", *TITLES, "difference", "TOST p", "result", box=box.MARKDOWN)
    for column in table.columns[3:-1]:
        column.justify = "right"
    for cell in measurement.cells:
        test = cell.equivalence
        sides = [f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(test.means, test.deviations, strict=True)]
        low, high = test.bootstrap_interval
        table.add_row(
            cell.config.preset,
            cell.config.last_activation,
            cell.pairing,
            str(test.n),
            *sides,
            f"{test.difference:+.1f} ({low:+.1f} to {high:+.1f})",
            f"{test.tost_p:.2g}",
            str(test),
        )
    return table


def as_json(measurement: Measurement) -> dict[str, Any]:
    """Returns all figures as JSON can hold them; `correct` of each cell is in the order of the seeds."""
    return {
        "margin": equivalence.MARGIN,
        "level": equivalence.LEVEL,
        "power": equivalence.POWER,
        "two_hump_seeds": equivalence.TWO_HUMP_SEEDS,
        "epochs": measurement.cells[0].config.epochs,
        "cells": [
            {
                "preset": cell.config.preset,
                "last_activation": cell.config.last_activation,
                "pairing": cell.pairing,
                "correct": cell.correct,
                **dataclasses.asdict(cell.equivalence),
            }
            for cell in measurement.cells
        ],
        "sides": measurement.facts,
    }
