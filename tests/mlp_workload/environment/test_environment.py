"""What is recorded of a run besides its configuration, and what is said if that changes."""

import dataclasses
import json
import pickle
import subprocess

import pytest
import torch
from helpers import write_idx_folder

import jax_mlp.train
import reference_torch.train
from mlp_compare.bench import processes
from mlp_compare.bench.processes import ProcessFailed
from mlp_workload.config import PRESETS, Config
from mlp_workload.environment import description
from mlp_workload.environment.variables import effect, set_variables
from mlp_workload.errors import BadVariable, PeerLost, why_ended
from mlp_workload.run.checkpointing import Finished
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.run.signals import Stopped

TRAIN = {"jax": jax_mlp.train.train, "torch": reference_torch.train.train}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("JAX_RANDOM_SEED_OFFSET", "numbers"),
        ("JAX_THREEFRY_PARTITIONABLE", "numbers"),
        ("JAX_DEFAULT_PRNG_IMPL", "numbers"),
        ("JAX_NUM_CPU_DEVICES", "numbers"),
        ("JAX_A_NEW_OPTION", "numbers"),
        ("NPROC", "numbers"),
        ("NPROC_PER_NODE", None),
        ("TORCHINDUCTOR_CACHE_DIR", "none"),
        ("TORCHINDUCTOR_MAX_AUTOTUNE", "numbers"),
        ("ONEDNN_DEFAULT_FPMATH_MODE", "numbers"),
        ("XLA_FLAGS", "numbers"),
        ("XLA_PYTHON_CLIENT_PREALLOCATE", "memory"),
        ("OMP_WAIT_POLICY", "speed"),
        ("CUDA_VISIBLE_DEVICES", "devices"),
        ("JAX_COMPILATION_CACHE_DIR", "none"),
        ("TORCHELASTIC_RUN_ID", "none"),
        ("HOME", None),
    ],
)
def test_what_a_variable_may_change(name, expected, monkeypatch):
    monkeypatch.setenv(name, "value")
    assert effect(name) == expected
    recorded = description.describe_environment(())["variables"]
    assert (recorded.get(name) == "value") == (expected in ("numbers", "memory", "speed", "devices"))
    assert (name in processes.environment()) == (expected in (None, "devices")), "else the benchmark removes it"


@pytest.fixture
def repositories(tmp_path):
    """Two with a commit each, "own" and "other", and their commits."""
    commits = {}
    for name in ("own", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "file").write_text(name)
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for command in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", name]):
            subprocess.run(["git", *command], cwd=folder, check=True)
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True)
        commits[name] = head.stdout.strip()
    return tmp_path, commits


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_DIR": "other/.git"},
        {"GIT_DIR": "other/.git", "GIT_WORK_TREE": "other", "GIT_INDEX_FILE": "other/.git/index", "GIT_PREFIX": ""},
        {"GIT_INDEX_FILE": "other/.git/index"},
        {"GIT_OBJECT_DIRECTORY": "other/.git/objects"},
        {"GIT_COMMON_DIR": "other/.git"},
    ],
)
def test_the_commit_is_of_the_source_whatever_a_hook_sets(variables, repositories, monkeypatch):
    folder, commits = repositories
    for name, path in variables.items():
        monkeypatch.setenv(name, str(folder / path))
    description.commit.cache_clear()
    assert description.commit(folder / "own") == commits["own"]
    (folder / "own/file").write_text("changed")
    description.commit.cache_clear()
    assert description.commit(folder / "own") == f"{commits['own']}-dirty"
    assert description.commit(folder) is None


@pytest.fixture
def config(tmp_path, digits) -> Config:
    (tmp_path / "digits").mkdir()
    source = write_idx_folder(tmp_path / "digits", digits)
    small = {"hidden": (5,), "batch_size": 50, "device": "cpu", "run_dir": tmp_path / "run"}
    return dataclasses.replace(PRESETS["leaky"], dataset=source, epochs=1, **small)


def warnings_of_settings(folder):
    return [warning for warning in RecordedRun.load(folder).warnings if "interruption" in warning]


def resume(framework, config):
    """Trains an epoch more; what is warned of in it about settings."""
    before = warnings_of_settings(config.run_dir)
    config = dataclasses.replace(config, epochs=config.epochs + 1)
    TRAIN[framework](config, OutputOptions(visdom="off", quiet=True), resume=True)
    return warnings_of_settings(config.run_dir)[len(before) :]


@pytest.fixture
def threads():
    """Sets the number of torch's threads."""
    number = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(number)


def test_resuming_with_other_threads_warns(config, threads):
    threads(1)
    assert TRAIN["torch"](config, OutputOptions(visdom="off", quiet=True))["environment"]["threads"] == 1
    threads(2)
    said = "the run may end with other bits than without the interruption: threads 2, before 1"
    assert resume("torch", config) == [said]
    assert resume("torch", dataclasses.replace(config, epochs=2)) == [], "as it went on last"


def test_resuming_with_other_variables_warns_unless_the_framework_is_another(config, monkeypatch):
    TRAIN["jax"](config, OutputOptions(visdom="off", quiet=True))
    monkeypatch.setenv("NPROC", "7")
    monkeypatch.setenv("JAX_RANDOM_SEED_OFFSET", "3")
    (said,) = resume("jax", config)
    assert said.endswith(f": JAX_RANDOM_SEED_OFFSET 3, before unset; threads 7, before {description.usable_cores()}")
    monkeypatch.delenv("NPROC")
    monkeypatch.delenv("JAX_RANDOM_SEED_OFFSET")
    assert resume("torch", dataclasses.replace(config, epochs=2)) == []


def test_a_run_of_an_older_version_warns_of_what_that_recorded(config, threads, monkeypatch):
    TRAIN["torch"](config, OutputOptions(visdom="off", quiet=True))
    events = config.run_dir / "events.jsonl"
    first, *others = events.read_text().splitlines()
    started = json.loads(first)
    del started["environment"]["threads"], started["environment"]["cpu_quota"]
    started["environment"]["variables"] = {}  # a few names; the machine may set others
    events.write_text("\n".join([json.dumps(started), *others, ""]))
    threads(1)
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    (said,) = resume("torch", config)
    assert said.endswith("interruption: MKL_NUM_THREADS 7, before unset")


TORCHS = """Traceback (most recent call last):
  File "/x.py", line 1, in <module>
    f()
    ^^^
torch._inductor.exc.InductorError: {error}

Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace
"""
JAXS = """Traceback (most recent call last):
  File "/x.py", line 1, in <module>
TypeError: shapes differ
--------------------
For simplicity, JAX has removed its internal frames from the traceback of the following exception.
"""
COMPILERS = """CppCompileError: C++ compile error

Command:
g++ x.cpp

Output:
x.cpp: In function f:
x.cpp:1:10: fatal error: Python.h: No such file or directory
compilation terminated."""


@pytest.mark.parametrize(
    ("status", "stderr", "expected"),
    [
        (1, TORCHS.format(error="OSError: /t/x.so: failed to map segment"),
         "torch._inductor.exc.InductorError: OSError: /t/x.so: failed to map segment"),
        (1, TORCHS.format(error=COMPILERS),
         "torch._inductor.exc.InductorError: CppCompileError: C++ compile error "
         "(x.cpp:1:10: fatal error: Python.h: No such file or directory)"),
        (1, f"warning: a\n{JAXS}", "TypeError: shapes differ"),
        (1, f"{JAXS}\nDuring handling of the above exception:\n\n{TORCHS.format(error='b')}",
         "torch._inductor.exc.InductorError: b"),
        (2, f"{JAXS}python -m x: error: no such file\n", "python -m x: error: no such file"),
        (1, "one\n\ntwo\n \n", "two"),
        (3, "", "ended with status 3"),
    ],
)  # fmt: skip
def test_why_a_process_ended(status, stderr, expected):
    assert why_ended(status, stderr) == expected


@pytest.mark.parametrize(
    "error",
    [BadVariable("XLA_FLAGS", "wrong"), Finished("the run is finished", 3), PeerLost("[a/b] gone. Advice"),
     ProcessFailed("a: wrong"), Stopped("stopped", 15)],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_errors_come_out_of_a_process(error):
    """A side of the parity check hands them over by pickle."""
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))


def test_variables_are_in_order(monkeypatch):
    for name in ("OMP_NUM_THREADS", "JAX_X", "NPROC"):
        monkeypatch.setenv(name, "1")
    names = list(set_variables("numbers"))
    assert names == sorted(names)
