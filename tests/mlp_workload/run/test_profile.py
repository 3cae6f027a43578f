"""`--profile` traces the first steps with the framework's profiler, and changes no number."""

import gzip
import json

import pytest
from helpers import assert_one_line, trainers

ONCE_A_STEP = {"jax_mlp.train": "exponential", "reference_torch.train": "Optimizer.step"}
"""Part of the name of an operation that each step has once: softmax's exponential, the update."""


def operations(folder):
    """Returns the names of all that took time in the trace in `folder`."""
    (file,) = [*folder.rglob("perfetto_trace.json.gz"), *folder.glob("*.pt.trace.json")]
    content = file.read_bytes()
    events = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)["traceEvents"]
    return [event["name"] for event in events if event.get("ph") == "X" and event["dur"] >= 0]


@trainers
@pytest.mark.parametrize(("asked", "traced"), [(3, 3), (100, 6)], ids=["some steps", "the rest of the epoch"])
def test_the_trace_has_the_first_steps(trainer, asked, traced, run, small, tmp_path):
    command = [trainer, *small, "--epochs", "2", "--visdom", "off", "--quiet", "--run-dir"]
    for flags in (["without"], ["with", "--profile", str(asked)]):
        process = run(*command, *flags)
        assert process.returncode == 0, process.stderr
    names = [name for name in operations(tmp_path / "with/profile") if not name.startswith("end: ")]
    assert sum(ONCE_A_STEP[trainer] in name for name in names) == traced
    with_it, without = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("with", "without"))
    assert with_it == without


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--profile 0", "--profile must be at least 1, got 0"), ("--profile 5 --seeds 2", "--profile is for one run")],
)
@trainers
def test_what_makes_no_sense_is_refused(trainer, flags, message, run):
    assert_one_line(run(trainer, *flags.split()), message)
