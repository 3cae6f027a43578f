"""The command that fuzzes: what it takes, and that it finds what is planted."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
from helpers import ROOT

FUZZ = [sys.executable, "-m", "fuzz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["tar"], "expected some of idx, "), (["idx", "--seconds", "0"], "--seconds must be at least 1, got 0")],
)  # fmt: skip
def test_wrong_arguments_end_in_one_line(arguments, message, run):
    process = run("fuzz", *arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("python -m fuzz: error: ")
    assert message in line


@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris, which make fuzz installs")
@pytest.mark.parametrize(
    "planted", ["raise KeyError", pytest.param("while True: pass", marks=pytest.mark.long("waits for a time-out"))]
)
def test_it_finds_a_planted_crash_and_a_planted_hang(planted, packages):
    """Each behind a number of images that neither a seed nor MNIST has."""
    shutil.copytree(ROOT / "fuzz", packages / "fuzz", ignore=shutil.ignore_patterns("__pycache__"))
    command = packages / "fuzz/__main__.py"
    command.write_text(command.read_text().replace("SLOWEST = 20", "SLOWEST = 2"))
    reader = packages / "mlp_workload/data/idx.py"
    line = "    size = math.prod(shape) * itemsize\n"
    assert line in reader.read_text()
    reader.write_text(
        reader.read_text().replace(line, f"{line}    if shape[0] not in (5, 10_000, 60_000):\n        {planted}\n")
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(packages), *sys.path])}
    process = subprocess.run(
        [*FUZZ, "idx", "--seconds", "60"], cwd=packages, env=environment, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert "idx: ended with status" in process.stdout
    (found,) = (packages / "fuzz-findings").iterdir()
    assert found.name.startswith("idx-crash-" if planted.startswith("raise") else "idx-timeout-")
