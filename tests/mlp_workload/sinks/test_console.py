"""What a run prints, and where a live display may be drawn."""

import os
import re
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from helpers import ROOT

from mlp_workload.config import Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.events import Evaluated, RunFinished, RunStarted, TrainLosses
from mlp_workload.metrics import Evaluation, Mistakes
from mlp_workload.run.run_events import RunEvents
from mlp_workload.sinks.console import Console, Output
from reference_torch.trainer import Trainer

FACTS = {"framework": "jax", "framework_version": "1", "device": "cpu", "train_examples": 10}
CONTROL = r"\x1b\[[0-9;?]*[A-Zf-ln-z]"
"""Escape sequences, colours aside."""


class Screen:
    """A file, or a pseudoterminal, that keeps all that is written to it."""

    def __init__(self, file, read):
        self.file, self._read, self._text = file, read, ""

    @property
    def text(self):
        self.file.flush()
        self._text += self._read().replace("\r\n", "\n")
        return self._text


@contextmanager
def screen(where, path):
    if where == "file":
        with path.open("w", encoding="utf-8") as file, path.open(encoding="utf-8") as reader:
            yield Screen(file, reader.read)
        return
    master, slave = os.openpty()

    def read():
        """All that was written before: a pseudoterminal hands it over a moment later."""
        os.write(slave, b"\0")
        text = b""
        while not text.endswith(b"\0"):
            text += os.read(master, 2**16)
        return text[:-1].decode()

    with open(slave, "w", encoding="utf-8") as file:
        yield Screen(file, read)
    os.close(master)


def set_environment(monkeypatch, **variables):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm-256color"} | variables).items():
        monkeypatch.setenv(name, value)


NOT_LIVE = pytest.mark.parametrize(
    ("where", "variables"),
    [
        ("file", {}),
        ("file", {"FORCE_COLOR": "1"}),
        ("file", {"TTY_COMPATIBLE": "1"}),
        ("file", {"FORCE_COLOR": "1", "TTY_INTERACTIVE": "1"}),
        ("terminal", {"TERM": "dumb"}),
        ("terminal", {"TERM": "unknown", "TTY_INTERACTIVE": "1"}),
        ("terminal", {"TTY_COMPATIBLE": "0"}),
        ("terminal", {"TTY_INTERACTIVE": "0"}),
    ],
)


def epoch(number, losses=(3.0, 2.0, 1.0)):
    return (
        TrainLosses(number, 3 * number - 2, np.array(losses, np.float64), "", 0.1),
        Evaluated(number, 3 * number, 0.5, 0.1, 7, 10, Mistakes([0], [1]), 0.1),
    )


@NOT_LIVE
def test_without_a_live_display_there_is_a_line_as_each_epoch_ends(where, variables, tmp_path, monkeypatch):
    set_environment(monkeypatch, **variables)
    with screen(where, tmp_path / "out") as out:
        monkeypatch.setattr(sys, "stdout", out.file)
        console = Console(tmp_path, quiet=False)
        console.emit(RunStarted(Config(epochs=2, batch_size=4), FACTS))
        for number in (1, 2):
            for event in epoch(number):
                console.emit(event)
            assert re.findall(r"^epoch +(\d)", out.text, re.M) == ["1", "2"][:number]
        console.close()
        assert not re.search(CONTROL, out.text)


@NOT_LIVE
def test_without_a_live_display_there_is_no_progress_bar(where, variables, tmp_path, monkeypatch):
    set_environment(monkeypatch, **variables)
    with screen(where, tmp_path / "out") as out:
        with Output(file=out.file).progress() as progress:
            assert list(progress.track(range(3))) == [0, 1, 2]
        assert out.text == ""


def test_on_a_terminal_there_are_both(tmp_path, monkeypatch):
    set_environment(monkeypatch)
    with screen("terminal", None) as out:
        monkeypatch.setattr(sys, "stdout", out.file)
        with Output().progress() as progress:
            list(progress.track(range(3)))
        assert re.search(CONTROL, out.text)
    with screen("terminal", None) as out:
        monkeypatch.setattr(sys, "stdout", out.file)
        console = Console(tmp_path, quiet=False)
        for event in (RunStarted(Config(epochs=2, batch_size=4), FACTS), *epoch(1)):
            console.emit(event)
        assert "epoch  1" not in out.text
        assert re.search("train loss.*1/2", out.text, re.S)
        console.close()


def test_no_other_module_draws_a_live_display():
    for package in ("jax_mlp", "mlp_compare", "mlp_workload", "reference_torch"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "console.py":
                assert not re.search(r"\b(Progress|Live|Status|[^.]track|console.status)\(", path.read_text()), path


def test_recall_is_printed_by_class_and_the_worst_is_named(tmp_path, capsys, digits):
    """One class was never trained, and one has no test example."""
    train, test = digits.train, digits.test
    labels = np.array([0, 0, 0, 2], np.int32), np.array([0, 0, 1, 2], np.int32)
    sets = (Examples(examples.images[:4], own) for examples, own in zip((train, test), labels, strict=True))
    dataset = Dataset("d", *sets, ("a", "b", "c", "d"))
    events = RunEvents(Config(), dataset, Trainer(Config(hidden=()), dataset, None), 0.0, 0.0)
    evaluation = Evaluation(np.ones(4), np.array([0, 2, 0, 2]), dataset.test.labels, np.ones(4, bool), np.ones(4))
    console = Console(tmp_path, quiet=False)
    order = np.arange(4, dtype=np.int32)
    for told in (events.started(), events.trained(order, np.ones(1), 0.1), [events.evaluated(evaluation, 0.1)]):
        for event in told:
            console.emit(event)
    for event in events.finished():
        console.emit(event)
    out = capsys.readouterr().out
    assert "warning: only the test set has class b (example 2), which cannot be learned" in out
    assert "lost" not in out, "what was never trained was not lost"
    assert re.search(r"worst class +│ b: 0 of 1 = 0.00% ", out)
    assert "a: 50.0%, b: 0.0%, c: 100.0%, d: 0 of 0 " in out
    assert event.summary["worst_class"] == "b"
    assert event.summary["class_recall"][::3] == [
        {"name": "a", "correct": 1, "examples": 2, "recall": 0.5},
        {"name": "d", "correct": 0, "examples": 0, "recall": None},
    ]


@pytest.mark.parametrize(
    ("losses", "printed"), [((1e308,) * 3, "inf"), ((np.inf, 1.0, 1.0), "inf"), ((np.nan, 1, 1), "nan")]
)
def test_a_train_loss_that_overflows_is_printed_without_a_warning(losses, printed, tmp_path, capsys, recwarn):
    console = Console(tmp_path, quiet=False)
    console.emit(RunStarted(Config(epochs=1, batch_size=4), FACTS))
    for event in epoch(1, losses=losses):
        console.emit(event)
    assert f"train loss {printed} " in capsys.readouterr().out
    assert list(recwarn) == []


@pytest.mark.parametrize(("classes", "shown"), [(20, 20), (21, 10), (1000, 10)])
def test_of_many_classes_the_worst_are_printed(classes, shown, tmp_path, capsys, digits, monkeypatch):
    """Class k has k of 1,000 right; the last one has no example."""
    monkeypatch.setenv("COLUMNS", "200")
    events = RunEvents(Config(), digits, Trainer(Config(hidden=()), digits, None), 0.0, 0.0)
    labels = digits.test.labels
    list(events.trained(np.arange(3, dtype=np.int32), np.ones(1), 0.1))
    events.evaluated(Evaluation(np.ones(len(labels)), labels, labels, np.ones(3, bool), np.ones(len(labels))), 0.1)
    summary = next(event.summary for event in events.finished() if isinstance(event, RunFinished))
    recalls = [{"name": f"c{k}", "correct": k, "examples": 1000} for k in range(classes - 1)]
    recalls.append({"name": "none", "correct": 0, "examples": 0})
    console = Console(tmp_path, quiet=False)
    console.emit(RunFinished(summary | {"class_recall": recalls[::-1]}))
    out = capsys.readouterr().out
    assert len(re.findall(r"c\d+: \d+\.\d%|0 of 0", out)) == shown
    if classes > shown:
        assert f"recall, worst 10 of {classes}" in out
        assert "c0: 0.0%, c1: 0.1%, c2: 0.2%" in out


@pytest.mark.parametrize("first_epoch", [1, 2])
def test_the_printed_train_loss_is_a_mean_over_examples(first_epoch, tmp_path, capsys):
    """The batches have 4, 4 and 2 examples; a resumed run begins with a later epoch."""
    console = Console(tmp_path, quiet=False)
    console.emit(RunStarted(Config(epochs=2, batch_size=4), FACTS))
    for event in epoch(first_epoch, losses=(20.0, 10.0, 5.0)):
        console.emit(event)
    assert f"train loss {(4 * 20 + 4 * 10 + 2 * 5) / 10:.4f} " in capsys.readouterr().out
