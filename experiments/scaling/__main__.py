"""Times steps on several devices and reports when more of them help: `python -m experiments.scaling --help`."""

from dataclasses import dataclass
from pathlib import Path

from mlp_workload.cli.parse import run_command
from mlp_workload.errors import UserError
from mlp_workload.files import expand, new_file, write_json
from mlp_workload.sinks.console import Output

PROGRAM = "python -m experiments.scaling"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Times training steps in JAX and in PyTorch, fits a cost model, and prints the tables of scaling.md.

    The steps run on 1, 2, 4 and 8 devices of a CPU and in 1 and 2 processes. Each timing is a command in fresh
    processes, which take turns, forwards and backwards. It takes about six minutes on an idle machine.
    """

    quick: bool = False
    """Times four of the six networks, once each, for a rough fit."""
    json: Path | None = None
    """Writes all timings to this new file."""
    docs: Path | None = None
    """Replaces scaling.json, scaling.svg and the tables of scaling.md in this folder."""

    def __post_init__(self) -> None:
        if self.docs is not None and self.json is not None:
            raise UserError("--docs writes scaling.json there; leave --json out")


def main() -> None:
    run_command(PROGRAM, Options, run)


def run(options: Options) -> None:
    from experiments.scaling import measure, report  # `main` reports a missing scipy or matplotlib

    console, docs = Output(), options.docs and expand(options.docs)
    if docs is not None:
        report.marked(docs / report.DOCUMENT)  # raises before the measurement
    with new_file("--json", options.json) as file:
        result = measure.measure(options.quick, console)
        if file is not None:
            write_json(file, result)
    if docs is not None:
        write_json(docs / report.MEASURED, result)
    scaling = report.Scaling(result)
    if docs is not None:
        report.rewrite(docs, scaling)
    for table in scaling.blocks().values():
        console.print(f"{table}\n")


if __name__ == "__main__":
    main()
