"""Events for the person at the terminal: a line per epoch, a progress bar, a closing table."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mlp_workload.events import Evaluated, Event, RunFinished, RunStarted, TrainLosses, Warned


class Output(RichConsole):
    """Standard output, which goes quiet where nobody reads it any more, as behind `| head`; the run goes on."""

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class Console:
    """Prints to standard output."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._console = Output(markup=False, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("")
        self._train_loss = ""

    def emit(self, event: Event) -> None:
        try:
            self._print(event)
        except OSError as error:
            self._console.on_broken_pipe()
            print(f"warning: cannot print ({error.strerror}); the run goes on", file=sys.stderr)

    def _print(self, event: Event) -> None:
        match event:
            case RunStarted(config, facts):
                self._console.print(
                    f"{facts['framework']} {facts['framework_version']} on {facts['device']}, {config.preset} preset, "
                    f"{config.dataset}, {config.dtype}, seed {config.seed}"
                )
                self._console.print(f"run folder {self._run_dir}")
                self._progress.update(self._task, total=config.epochs)
                self._progress.start()
            case TrainLosses():
                self._train_loss = f"train loss {event.losses.mean():.4f}  "
            case Evaluated(epoch, step, evaluation):
                line = f"{self._train_loss}test loss {evaluation.loss:.4f}  accuracy {evaluation.accuracy:.2%}"
                self._console.print(f"epoch {epoch:2d}  step {step:5d}  {line}")
                self._progress.update(self._task, completed=epoch, description=line)
            case Warned(message):
                self._console.print(Text.assemble(("warning:", "yellow"), f" {message}"))
            case RunFinished(summary):
                self._progress.stop()
                self._console.print(_closing_table(summary))
                self._console.print(f"weights, losses and summary are in {self._run_dir}")

    def close(self) -> None:
        self._progress.stop()


def _closing_table(summary: Mapping[str, Any]) -> Table:
    rows = {
        "test accuracy": f"{summary['test_correct']} of {summary['test_examples']} = {summary['test_accuracy']:.2%}",
        "test loss": f"{summary['test_loss']:.4f} nats per example",
        "the article's test loss": f"{summary['article_test_loss']:.6f} (sum of batch means / examples)",
        "steps": str(summary["steps"]),
        "compile": f"{summary['compile_seconds']:.2f} s",
        "train": f"{summary['train_seconds']:.2f} s",
        "evaluate": f"{summary['evaluate_seconds']:.2f} s",
        "total": f"{summary['total_seconds']:.2f} s",
    }
    table = Table(show_header=False, title=f"{summary['framework']}, {summary['preset']}, seed {summary['seed']}")
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    return table
