"""Environment variables that JAX or XLA can't start with: one line that names them, before anything begins."""

import re
import subprocess
import sys

import jax
import pytest
from helpers import ROOT

import jax_mlp.train
from jax_mlp import startup
from mlp_workload.config import Config
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.frameworks import JAX, findings
from mlp_workload.doctor.gpus import Gpus
from mlp_workload.errors import NO_THREADS, BadVariable

ONE_MORE = pytest.mark.long("starts JAX for one more variable")
GOOD = "--xla_cpu_enable_fast_math=false"
BAD_FLAGS = [
    ("—xla_cpu_enable_fast_math=true", "'—xla_cpu_enable_fast_math=true' is no flag, as .* and no file either"),
    (f"{GOOD} —xla_cpu_enable_fast_math=true", "'—xla_cpu_enable_fast_math=true' is no flag, as [^,]*$"),
    (f"{GOOD} true", "'true' is no flag"),
    ("-xla_cpu_enable_fast_math=true", "'-xla_cpu_enable_fast_math=true' is no flag"),
    ("/no/such/file", "'/no/such/file' is no flag, as .* and no file either"),
    ("'--xla_cpu_enable_fast_math=true", "No closing quotation"),
    ("--xla_nonsense=1", "XLA has no flag --xla_nonsense=1$"),
    (f"{GOOD} --xla_nonsense", "XLA has no flag --xla_nonsense$"),
    ("--xla_cpu_enable_fast_math=maybe", "--xla_cpu_enable_fast_math can't be 'maybe'$"),
    (f"{GOOD} --xla_force_host_platform_device_count=two", "--xla_force_host_platform_device_count can't be 'two'$"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_FLAGS)
def test_what_xla_would_end_by_or_ignore_is_named(flags, message, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(BadVariable, match=f"^XLA_FLAGS: {message}"):
        startup.check_xla_flags()


@pytest.mark.parametrize("flags", ["", "  ", GOOD, f'{GOOD} --xla_dump_to="a folder"', "file"])
def test_good_flags_are_taken(flags, tmp_path, monkeypatch):
    if flags == "file":
        (tmp_path / "flags").write_text(f"{GOOD}\n")
        flags = str(tmp_path / "flags")
    monkeypatch.setenv("XLA_FLAGS", flags)
    startup.check_xla_flags()


def test_without_flags_no_process_is_started(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(subprocess, "run", None)
    startup.check_xla_flags()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("JAX_DISABLE_JIT", "1", "JAX_DISABLE_JIT: the training programs have to be compiled and run"),
        pytest.param(
            "JAX_NO_TRACING", "1", "JAX_NO_TRACING: the training programs have to be compiled and run", marks=ONE_MORE
        ),
        pytest.param("JAX_DISABLE_JIT", "maybe", "JAX_DISABLE_JIT: invalid truth value 'maybe'", marks=ONE_MORE),
        pytest.param(
            "JAX_TRANSFER_GUARD",
            "disallow",
            "JAX_TRANSFER_GUARD: disallow refuses transfers that are needed here",
            marks=ONE_MORE,
        ),
        ("JAX_TRANSFER_GUARD", "nonsense", 'JAX_TRANSFER_GUARD: Invalid value "nonsense"'),
        pytest.param("JAX_DEFAULT_DEVICE", "nonsense", "JAX_DEFAULT_DEVICE: .* got: 'nonsense'", marks=ONE_MORE),
        ("XLA_FLAGS", "--xla_nonsense", "XLA_FLAGS: XLA has no flag --xla_nonsense"),
    ],
)
def test_the_doctor_names_the_variable_and_does_not_reinstall(name, value, message, monkeypatch):
    """Its process starts JAX as the trainers do."""
    monkeypatch.setenv(name, value)
    found = [
        finding for finding in findings(JAX, Answer.of("jax_mlp.doctor_probe"), Gpus()) if finding.state == "wrong"
    ]
    assert [finding.fix for finding in found] == [f"correct {name}, or unset it"]
    assert re.match(message, found[0].seen)


def test_a_trainer_refuses_in_one_line(run, tmp_path):
    process = run("jax_mlp.train", env={"JAX_DISABLE_JIT": "1"})
    assert (process.returncode, process.stdout) == (2, "")
    assert re.fullmatch("python -m jax_mlp.train: error: JAX_DISABLE_JIT: the training .*; unset it\n", process.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", ["jax_debug_nans", "jax_debug_infs"])
def test_a_number_that_jax_is_told_to_stop_at_names_the_variable(check, monkeypatch):
    jax.config.update(check, True)
    try:
        with (
            pytest.raises(BadVariable, match=f"^{check.upper()}: JAX found (nan|inf) in jit"),
            jax_mlp.train.framework(Config()),
        ):
            jax.jit(lambda x: x / 0.0).lower(1.0).compile()(0.0 if check.endswith("nans") else 1.0)
    finally:
        jax.config.update(check, False)


def test_other_errors_stay_as_they_are():
    with pytest.raises(ZeroDivisionError), jax_mlp.train.framework(Config()):
        raise ZeroDivisionError


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set as Linux has it")
@pytest.mark.parametrize("start", ["threading.Thread(target=input).start()", "import_jax()"])
def test_no_thread_more(start, tmp_path):
    """The limit of processes leaves none to start, and the user is bound by it."""
    code = (
        "import resource, os, threading\n"
        "from jax_mlp.startup import import_jax\n"
        "from mlp_workload.cli.parse import one_line_errors\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))\n"
        "os.geteuid() or os.setuid(54321)\n"
        "with one_line_errors('trainer'):\n"
        f"    {start}\n"
        f"    {start}\n"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert process.stderr == f"trainer: error: {NO_THREADS}\n"
