"""Writes one page about runs, which needs no server and no network: `python -m mlp_compare.report --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mlp_compare.old_names import with_current_names
from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.errors import UserError, refusal
from mlp_workload.files import expand, new_file, read_json, write_atomically
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.console import Output


@dataclass(frozen=True, kw_only=True)
class Report:
    """Writes one HTML file about one or more runs: how they differ, curves, mistakes, weights, timings, environment.

    The file holds everything it shows. Runs may be finished, going on, or interrupted.
    """

    runs: Annotated[tuple[Path, ...], Positional("RUN")]
    """Folders of the runs to report."""
    output: Path = Path("report.html")
    """Writes the page to this new file."""
    results: tuple[Path, ...] = ()
    """Also shows these files, which mlp_compare.parity, .accuracy or .bench wrote by --json."""


def main() -> None:
    run_command("python -m mlp_compare.report", Report, run)


def run(options: Report) -> None:
    import jinja2  # `main` reports a missing jinja2 or matplotlib

    from mlp_compare.report.page import render

    runs = RecordedRun.load_all(options.runs)
    results = [_result(expand(path)) for path in options.results]
    with new_file("--output", options.output) as output:
        assert output is not None
        try:
            content = render(runs, results).encode(errors="replace")  # a path may have bytes that are not text
        except (jinja2.TemplateError, AttributeError, LookupError, TypeError, ValueError) as error:
            if not results:
                raise
            raise UserError(f"--results: not what the commands write by --json ({refusal(error)})") from error
        write_atomically(output, content)
    Output().print(f"{output}: {len(content) / 2**10:.0f} KiB")


def _result(path: Path) -> dict[str, Any]:
    """Returns the result in the file `path`. Raises `UserError` if no command of ours wrote it."""
    content = with_current_names(read_json(path))
    if isinstance(content, dict) and content.get("kind") == "benchmark":
        from mlp_compare.bench import tables

        tables.check(content, str(path))
    if not isinstance(content, dict) or not content.keys() & {"quantities", "cells", "kind"}:
        raise UserError(f"{path} is not what mlp_compare.parity, .accuracy or .bench writes by --json")
    return content


if __name__ == "__main__":
    main()
