"""Compares two trainers step by step through one run: `python -m mlp_compare.parity --help`."""

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mlp_compare.parity.faults import FAULTS
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.output import as_json, print_fault_result, print_report
from mlp_compare.parity.self_test import self_test
from mlp_compare.parity.worker import Worker
from mlp_workload.cli.parse import run_command
from mlp_workload.cli.trainer import parse_config
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.files import clear_write_errors, empty_folder, new_file, write_json
from mlp_workload.interface import check_is_there
from mlp_workload.run.inputs import load_dataset
from mlp_workload.sinks.console import Output
from twincheck.pipe import WorkerProcess, ask_all
from twincheck.trace import Trace

TRACED = (1, 2, 10, 100, 1000)
"""Steps that are compared tensor by tensor, besides the last one."""
LARGEST_STEPS = 10_000_000
"""Limit set by memory, which holds the losses of all steps."""
WITHOUT = ("epochs", "run_dir")
"""Fields of `Config` that have no flag here."""
ALIASES = {"--teeth": "--self-test"}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Trains two sides from the same weights on the same batches and compares every step's loss and parameters.

    Some steps are compared tensor by tensor. Exit status 0: all within bounds. 1: not, and the first mismatch is
    named: step, phase, tensor, index, both values, bound. 2: the arguments or the machine do not allow the check.
    """

    config: Config = PRESETS["leaky"]
    sides: tuple[str, str] = ("jax", "torch")
    """Compares these two of jax, torch and packages with a trainer of their own, such as examples.numpy_side."""
    steps: int = 3000
    """Trains this many steps, over as many epochs as that takes."""
    json: Path | None = None
    """Writes all figures to this new file."""
    traces: Path | None = None
    """Writes the tensors that were compared to this new or empty folder, one file for each step and side."""
    self_test: tuple[str, ...] | None = None
    """Tests the check itself: plants the named faults, or all, one at a time, and reports whether each is found."""

    def __post_init__(self) -> None:
        if self.config.matmul_precision != "highest":
            raise UserError("--matmul-precision: parity is checked with highest; the bounds are those of IEEE products")
        if not 1 <= self.steps <= LARGEST_STEPS:
            raise UserError(f"--steps must be from 1 to {LARGEST_STEPS}, got {self.steps}")
        names = [name for side in self.sides for name in side.split(".")]
        if len({*self.sides}) < 2 or not all(map(str.isidentifier, names)):
            expected = "two different ones of jax, torch and packages to import"
            raise UserError(f"--sides must be {expected}, got {self.sides}")
        for side in self.sides:
            check_is_there(side)
        run = (self.config, self.sides, self.steps, self.traces)
        if self.self_test is not None and run != (PRESETS[self.config.preset], Parity.sides, Parity.steps, None):
            raise UserError("--self-test takes no flag of a run: each fault has its own run")
        for name in self.self_test or ():
            if name not in FAULTS:
                near = difflib.get_close_matches(name, FAULTS, 1, cutoff=0.0)[0]
                raise UserError(f"--self-test: there is no fault {name!r}; the nearest is {near!r}")


def main() -> None:
    run_command("python -m mlp_compare.parity", Parity, run, parse_config, without=WITHOUT, aliases=ALIASES)


def run(options: Parity) -> bool:
    """Returns whether the check passed."""
    console = Output()
    if not console.file.isatty():
        console.width = 140  # columns of the table
    traces = empty_folder("--traces", options.traces)
    with new_file("--json", options.json) as json, ExitStack() as stack:
        sides = [stack.enter_context(WorkerProcess(side, Worker)) for side in options.sides]
        if options.self_test is not None:
            return _self_test(options, sides, json, console)
        config = options.config
        dataset = load_dataset(config)
        console.tell_of(dataset)
        check = Lockstep(config, dataset, sides, options.steps)
        steps = check.run({*TRACED, options.steps}, on_trace=lambda pair: _save(traces, pair))
        with console.progress() as progress:
            for _ in progress.track(steps, options.steps, description="compared"):
                pass
        report, table = check.report, check.table()
        if report.mismatch_traces:
            _save(traces, report.mismatch_traces)
        facts = dict(zip(options.sides, ask_all(sides, "facts"), strict=True))
        if json is not None:
            write_json(json, as_json(config, options.steps, report, facts, table))
        print_report(console, config, options.steps, report, facts, table)
        return report.mismatch is None


def _self_test(options: Parity, sides: Sequence[WorkerProcess], json: Path | None, console: Output) -> bool:
    chosen = [fault for name, fault in FAULTS.items() if not options.self_test or name in options.self_test]
    rows = []
    for result in self_test(chosen, sides):
        print_fault_result(console, result)
        rows.append(
            {
                "fault": result.fault.name,
                "side": result.fault.side,
                "planted": {"step": result.fault.step, "tensor": result.fault.tensor},
                "caught": result.caught,
                "located": result.located,
                "mismatch": result.mismatch and str(result.mismatch),
            }
        )
    caught, located = (sum(bool(row[outcome]) for row in rows) for outcome in ("caught", "located"))
    console.print(f"{len(rows)} faults planted, {caught} caught, {located} located where they were planted")
    if json is not None:
        write_json(json, {"faults": rows})
    return located == len(rows)


def _save(folder: Path | None, pair: tuple[Trace, Trace]) -> None:
    if folder is not None:
        with clear_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for trace in pair:
            trace.save(folder / f"step-{int(trace.facts['step']):06d}-{trace.facts['framework']}.safetensors")


if __name__ == "__main__":
    main()
