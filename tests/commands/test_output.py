"""What the trainers print: in a pipe, on a terminal, where nobody reads, where there is no room."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, assert_one_line, trainers
from warm import python

from mlp_workload.cli.parse import one_line_errors

COLD = pytest.mark.long("starts the real interpreter, which imports a framework")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_is_closed_changes_no_status(closed, tmp_path):
    command = f"{sys.executable} -m mlp_workload.export_onnx nowhere model.onnx {closed}"
    process = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == ("2>&-" not in closed)
    assert list(tmp_path.iterdir()) == []


@trainers
def test_in_a_pipe_there_is_a_line_per_epoch_and_a_closing_table(trainer, run, small, tmp_path):
    process = run(trainer, *small, "--epochs", "2", "--seed", "1", "--visdom", "off")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "\x1b" not in process.stdout
    assert re.findall(r"^epoch +(\d+) +step +(\d+) .*train loss .*test loss .*accuracy", process.stdout, re.M) == [
        ("1", "6"),
        ("2", "12"),
    ]
    (folder,) = (tmp_path / "runs").iterdir()
    assert str(Path("runs", folder.name)) in process.stdout
    correct = json.loads((folder / "summary.json").read_text())["test_correct"]
    assert f"{correct} of 31" in process.stdout


@trainers
def test_quiet_prints_warnings_alone(trainer, run, small, tmp_path):
    flags = [*small, "--quiet", "--visdom", "off", "--run-dir", "run", "--epochs", "1"]
    process = run(trainer, *flags, "--last-activation", "none", "--learning-rate", "1e30")
    assert (process.returncode, process.stdout) == (0, "")
    (warning,) = process.stderr.splitlines()
    assert re.match("warning: the loss is (nan|inf) from step", warning)
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize("quiet", [True, False])
def test_warnings_on_a_terminal_reach_standard_error(quiet, small, tmp_path):
    """Where it is a file, the file, and nothing else."""
    master, slave = os.openpty()
    flags = [*small, "--epochs", "1", "--visdom-port", "9", "--run-dir", "run"]
    command = [python(), "-m", "reference_torch.train", *flags, *(["--quiet"] if quiet else [])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    environment["VISDOM_BASE_URL"] = "no path"
    with (tmp_path / "errors").open("w") as errors, subprocess.Popen(
        command, stdout=slave, stderr=errors, cwd=tmp_path, env=environment
    ) as process:  # fmt: skip
        os.close(slave)
        screen = b""
        with contextlib.suppress(OSError):
            while part := os.read(master, 4096):
                screen += part
        assert process.wait(timeout=240) == 0
    os.close(master)
    warnings = (tmp_path / "errors").read_text().splitlines()
    assert sum(line.startswith("warning: VISDOM_BASE_URL must be a path ") for line in warnings) == 1
    assert any("lost classes" in line for line in warnings) == quiet, "else it is on the screen, above the table"
    assert (screen == b"") == quiet
    assert b"VISDOM_BASE_URL" not in screen
    assert (b"no Visdom server at http://localhost:9;" in screen) != quiet, "a note, behind the table"


@trainers
def test_nobody_reading_does_not_stop_the_run(trainer, small, tmp_path):
    """As behind `| head -1`."""
    command = [python(), "-m", trainer, *small, "--epochs", "100", "--visdom", "off", "--run-dir", "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, pipesize=4096
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=240) == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 600


@trainers
def test_a_terminal_gets_a_live_table(trainer, small, tmp_path):
    """In a pseudoterminal of 100 columns."""
    master, slave = os.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [python(), "-m", trainer, *small, "--epochs", "2", "--visdom", "off", "--run-dir", "a[bold]b[/x]"]
    with subprocess.Popen(command, stdout=slave, stderr=slave, cwd=tmp_path, env=environment) as process:
        os.close(slave)
        screen = b""
        with contextlib.suppress(OSError):  # Linux's end of a pseudoterminal
            while part := os.read(master, 4096):
                screen += part
        assert process.wait(timeout=240) == 0, screen
    os.close(master)
    text = screen.decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(r"epoch +┃ +train loss +┃ +test loss +┃ +accuracy +┃ +examples/s +┃ +time left", plain)
    for epoch in ("1/2", "2/2"):
        row = r" +│ +\d\.\d{4} +│ +\d\.\d{4} +│ +\d+\.\d\d% +│ +[\d,]+ +│ +0:00:\d\d"
        assert re.search(epoch + row, plain), plain
    assert re.search(r"test accuracy +│ \d+ of 31", text)
    assert text.rstrip().endswith("weights, losses and summary are in a[bold]b[/x]")


@COLD
def test_an_encoding_without_the_paths_letters(run, small, tmp_path):
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    flags = [*small, "--epochs", "0", "--visdom", "off", "--run-dir", "rünning"]
    process = run("jax_mlp.train", *flags, env=environment)
    assert (process.returncode, process.stderr) == (0, "")
    assert "in r?nning" in process.stdout
    assert (tmp_path / "rünning/summary.json").exists()
    for trainer, flags, message in (
        ("reference_torch.train", ["--frobnicate"], "unrecognized arguments: --frobnicate"),
        ("jax_mlp.train", ["--epochs", "a"], "--epochs: invalid int value: 'a'"),
    ):
        assert_one_line(run(trainer, *flags, env=environment), rf"error: {message} \(--help lists the flags\)$")


@trainers
def test_a_full_standard_output_does_not_stop_the_run(trainer, small, tmp_path):
    command = [python(), "-m", trainer, *small, "--epochs", "1", "--visdom", "off", "--run-dir", "run"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=240,
        )  # fmt: skip
    assert process.returncode == 0
    assert process.stderr == "warning: cannot print (No space left on device); the run goes on\n"
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 6


def test_nobody_reading_ends_the_articles_program_quietly(tmp_path):
    command = [python(), "-m", "reference_torch.tutorial", "module", "--epochs", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=240) == 1


def test_what_the_encoding_of_the_output_lacks_is_replaced(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", newline="\n"))
    with one_line_errors("program"):
        print("9553 ± 2")
    assert written.getvalue() == b"9553 ? 2\n"
