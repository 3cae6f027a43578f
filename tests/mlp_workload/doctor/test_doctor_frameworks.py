"""What the doctor says of a framework: however it ends, and of its product."""

import os
from importlib import metadata

import numpy as np
import pytest
from doctor_helpers import JAX_RELEASE, lines, plant_package
from helpers import ROOT

import jax_mlp.doctor_probe
from mlp_workload.doctor import frameworks
from mlp_workload.doctor.answer import Answer
from mlp_workload.doctor.frameworks import JAX, TORCH
from mlp_workload.doctor.gpus import Gpus
from mlp_workload.doctor.probe import product

ENDS = [
    ("raise ModuleNotFoundError('', name='jax')", "not installed", "make setup, or pip install . in"),
    ("raise ModuleNotFoundError('', name='optax')", "optax is not installed", "make setup, or pip install . in"),
    (
        "raise RuntimeError('jaxlib is too new')",
        f"{JAX_RELEASE}, import jax fails: jaxlib is too new (RuntimeError)",
        f"pip install --force-reinstall jax=={JAX_RELEASE} jaxlib=={metadata.version('jaxlib')}",
    ),
    ("raise OSError('libz.so.1')", "import jax fails: libz.so.1 (OSError)", "pip install --force-reinstall jax=="),
    pytest.param(
        "import time; time.sleep(600)", "import jax hangs, no answer within 10 s", "pip install --force-reinstall",
        marks=pytest.mark.long("waits ten seconds for a process that hangs"),
    ),
    ("import os; os.kill(os.getpid(), 11)", "import jax ends the process by SIGSEGV", "pip install --force-reinstall"),
    ("import os; os.kill(os.getpid(), 9)", "by SIGKILL, which is also how the system frees", "close other programs"),
    ("import sys; sys.exit('no')", "import jax ends the process with status 1: no", "pip install --force-reinstall"),
    (
        "__version__ = 'v'; lax = Device = None; import sys; version = sys.modules['jax']; "
        "sys.modules |= {'jaxlib': version, 'jaxlib.version': version}; "
        "devices = lambda: __import__('os').abort()",
        "looking for devices ends the process by SIGABRT",
        "unset JAX_PLATFORMS",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("source", "seen", "fix"), ENDS)
def test_however_a_framework_ends_it_is_one_finding(source, seen, fix, tmp_path, monkeypatch):
    plant_package(tmp_path, "jax", f"print(5)  # which is JSON, too\n{source}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    answer = Answer.of("jax_mlp.doctor_probe", seconds=10 if "sleep" in source else 60)
    cache, finding = frameworks.findings(JAX, answer, Gpus())
    assert (cache.name, cache.state) == ("compile cache", "ok"), "what was answered before counts"
    assert (finding.name, finding.state) == ("JAX", "wrong")
    assert seen in finding.seen
    assert fix in finding.fix


def test_a_framework_that_hangs_is_one_finding():
    (finding,) = frameworks.findings(JAX, Answer({"doing": "import jax"}, None, 2, ""), Gpus())
    assert (finding.state, finding.seen) == ("wrong", f"{JAX_RELEASE}, import jax hangs, no answer within 2 s")


def test_a_torch_that_is_not_there_is_no_fault(tmp_path, monkeypatch):
    plant_package(tmp_path, "torch", "raise ModuleNotFoundError('', name='torch')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (line,) = lines(frameworks.findings(TORCH, Answer.of("reference_torch.doctor_probe"), Gpus()))
    assert line.startswith("note PyTorch: not installed, only ")
    assert line.endswith("; fix: make setup, or pip install '.[torch]' in the project's folder")


def tf32(array):
    """With the 10 bits behind the point that NVIDIA's TF32 keeps."""
    return (array.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize(
    ("multiply", "state"),
    [
        (lambda x, y: x @ y, "ok"),
        (lambda x, y: tf32(x) @ tf32(y), "wrong"),
        (lambda x, y: 1.0001 * (x @ y), "wrong"),
        (lambda x, y: np.nan * (x @ y), "wrong"),
    ],
    ids=["NumPy's", "TF32", "a ten-thousandth too much", "nan"],
)
def test_a_product_is_held_against_numpys(multiply, state):
    assert frameworks._product(TORCH, **product(multiply)).state == state


def test_a_variable_that_spoils_products_is_named(monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert frameworks._product(JAX, 1.0, 0.1).fix == "unset NVIDIA_TF32_OVERRIDE"


def test_the_probe_of_jax_keeps_no_programs_and_takes_no_memory_in_advance(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "before")
    assert any(facts == {"doing": "import jax"} for facts in jax_mlp.doctor_probe.facts())
    assert (os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("", "false")
