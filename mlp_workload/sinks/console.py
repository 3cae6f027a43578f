"""Prints a run's events: a live table on a terminal, otherwise a line per epoch, and a final table."""

import contextlib
import sys
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from mlp_workload.batches import batch_sizes
from mlp_workload.data import Dataset
from mlp_workload.errors import escaped, one_line, warn
from mlp_workload.events import Evaluated, Event, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Recall, weighted_means, worst

_CLASSES = 5
"""Classes per line of recalls."""


class Output(RichConsole):
    """Standard output that goes quiet if its reader is gone, as after `| head`; the run goes on.

    Text has no markup, no highlights and no line breaks. Control characters in text and tables are escaped, but not in
    a `rich.text.Text`. `is_interactive` tells whether a live display can be drawn, that is on a terminal that can move
    its cursor. With `FORCE_COLOR` rich alone would also draw into files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "soft_wrap": True} | options)
        can_redraw = self.is_terminal and not self.is_dumb_terminal and not self.quiet
        self.is_interactive = self.is_interactive and can_redraw and self.file.isatty()

    def progress(self) -> Progress:
        """Returns a progress bar that is shown only on an interactive terminal, and is erased at the end."""
        return Progress(console=self, transient=True, disable=not self.is_interactive)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escaped(text), **options)

    def on_broken_pipe(self) -> None:
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()

    def say(self, line: str) -> None:
        """Prints a line. If that fails, as with a full disk, it warns and prints nothing more."""
        try:
            self.print(line)
        except OSError as error:
            self.on_broken_pipe()
            warn(f"cannot print ({error.strerror}); the run goes on")

    def tell_of(self, dataset: Dataset) -> None:
        for note in dataset.notes:
            self.say(f"{dataset.source}: {note}")
        for message in dataset.warnings:
            warn(message)


class Console:
    """Prints to standard output; if `quiet`, only warnings, to standard error."""

    def __init__(self, run_dir: Path, quiet: bool) -> None:
        self._run_dir, self._quiet = run_dir, quiet
        self._console = Output(quiet=quiet)
        # Warnings on standard error must go above the table if that is the terminal too.
        self._live = Live(console=self._console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
        other_lines = 8  # the table's frame, and what is above it
        self._rows: deque[tuple[str, ...]] = deque(maxlen=max(self._console.height - other_lines, 1))
        self._epochs = self._train_examples = self._batch_size = self._seen = 0
        self._trained: TrainLosses | None = None
        self._seconds = 0.0

    def emit(self, event: Event) -> None:
        try:
            self._print(event)
        except OSError as error:
            self._console.on_broken_pipe()
            warn(f"cannot print ({error.strerror}); the run goes on")

    def _print(self, event: Event) -> None:
        match event:
            case RunStarted(config, facts) | RunResumed(config, facts):
                self._epochs, self._batch_size = config.epochs, config.batch_size
                self._train_examples = facts["train_examples"]
                self._console.print(
                    f"{facts['framework']} {facts['framework_version']} on {facts['device']}, {config.preset} preset, "
                    f"{config.dataset}, {config.dtype}, seed {config.seed}"
                )
                for note in facts.get("data_notes", ()):
                    self._console.print(f"{config.dataset}: {note}")
                self._console.print(f"run folder {self._run_dir}")
                if isinstance(event, RunResumed):
                    self._console.print(f"resumed after step {event.step}")
                if self._console.is_interactive:
                    self._live.start()
            case TrainLosses():
                self._trained = event
            case Evaluated():
                self._show(event)
            case Warned(message):
                if self._quiet:
                    warn(message)
                self._console.print(Text.assemble(("warning:", "yellow"), f" {one_line(message)}"))
            case RunFinished(summary):
                self._live.stop()
                self._console.print(_closing_table(summary))
                self._console.print(f"weights, losses and summary are in {self._run_dir}")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that was closed
            self._live.stop()

    def _show(self, event: Evaluated) -> None:
        trained = self._trained
        self._seconds += event.seconds + (trained.seconds if trained else 0.0)
        self._seen += 1
        train_loss = speed = ""
        if trained is not None:
            sizes = batch_sizes(trained.first_step, len(trained.losses), self._train_examples, self._batch_size)
            train_loss = f"{weighted_means(trained.losses, sizes)[0]:.4f}"
            speed = f"{self._train_examples / trained.seconds:,.0f}"
        loss, accuracy = f"{event.test_loss:.4f}", f"{event.test_accuracy:.2%}"
        if not self._console.is_interactive:
            before = f"train loss {train_loss}  " if trained else ""
            after = f"  {speed:>9} examples/s" if trained else ""
            result = f"{before}test loss {loss}  accuracy {accuracy}{after}"
            self._console.print(f"epoch {event.epoch:2d}  step {event.step:5d}  {result}")
            return
        left = timedelta(seconds=round(self._seconds / self._seen * (self._epochs - event.epoch)))
        self._rows.append((f"{event.epoch}/{self._epochs}", train_loss, loss, accuracy, speed, str(left)))
        table = Table("epoch", "train loss", "test loss", "accuracy", "examples/s", "time left")
        for column in table.columns:
            column.justify = "right"
        for row in self._rows:
            table.add_row(*row)
        self._live.update(table, refresh=True)


def _closing_table(summary: Mapping[str, Any]) -> Table:
    classes = [Recall(entry["name"], entry["correct"], entry["examples"]) for entry in summary["class_recall"]]
    lowest, shown, title = worst(classes), classes, "recall by class"
    if len(classes) > 20:
        tested = [recall for recall in classes if recall.examples]
        shown = sorted(tested, key=lambda recall: recall.correct / recall.examples)[:10]
        title = f"recall, worst {len(shown)} of {len(classes)}"
    recalls = [f"{recall.name}: {recall.brief}" for recall in shown]
    rows = {
        "test accuracy": f"{summary['test_correct']} of {summary['test_examples']} = {summary['test_accuracy']:.2%}",
        "worst class": f"{lowest.name}: {lowest}",
        title: ",\n".join(", ".join(recalls[i : i + _CLASSES]) for i in range(0, len(recalls), _CLASSES)),
        "test loss": f"{summary['test_loss']:.4f} nats per example",
        "the tutorial's test loss": f"{summary['article_test_loss']:.6f} (sum of batch means / examples)",
        "steps": str(summary["steps"]),
        **{part: f"{summary[f'{part}_seconds']:.2f} s" for part in ("compile", "train", "evaluate", "total")},
    }
    table = Table(show_header=False, title=f"{summary['framework']}, {summary['preset']}, seed {summary['seed']}")
    for _ in range(2):
        table.add_column(overflow="fold")
    for row in rows.items():
        table.add_row(*row)
    return table
