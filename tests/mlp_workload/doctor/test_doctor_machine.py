"""What the doctor says of files, folders, packages, servers and the machine."""

import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
from doctor_helpers import lines, plant_package, plant_version, spoil
from helpers import ROOT
from visdom_process import VisdomProcess

from jax_mlp import doctor_probe as jax_probe
from mlp_workload.data import shipped
from mlp_workload.doctor import frameworks, machine, packages, visdom_server
from mlp_workload.doctor.answer import Answer


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").touch()
    return tmp_path / "file"


def test_each_file_of_mnist_that_is_damaged_is_named(tmp_path):
    folder = shutil.copytree(shipped.FOLDER, tmp_path / "mnist")
    spoil(folder / "train-labels-idx1-ubyte.gz")
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    labels, images = lines(machine.mnist(folder))
    assert "wrong MNIST: " in labels
    assert "train-labels-idx1-ubyte.gz: damaged, its content has SHA-256 " in labels
    assert "t10k-images-idx3-ubyte.gz: No such file" in images


def test_a_checkout_brings_its_files_back(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CHECKOUT", tmp_path)
    assert (
        machine._mnist_fix(tmp_path / "data/mnist")
        == "pip install --force-reinstall --no-deps . in the project's folder"
    )
    (tmp_path / ".git").touch()
    assert machine._mnist_fix(tmp_path / "data/mnist") == f"git -C {tmp_path} checkout data/mnist"
    assert machine._mnist_fix(Path("/elsewhere")) == "pip install --force-reinstall --no-deps . in the project's folder"


def test_a_place_where_nothing_can_be_written(file, tmp_path, monkeypatch):
    """Also for root, whom no permission keeps out."""
    assert machine.refusal(tmp_path / "not/there/yet") is None
    assert list(tmp_path.iterdir()) == [file]
    assert machine.refusal(file) == machine.refusal(file / "a/b") == f"{file} is not a folder"
    assert machine.refusal(Path("/proc/nowhere")) == "No such file or directory"
    monkeypatch.chdir(tmp_path)
    assert machine.runs().state == "ok"
    (tmp_path / "runs").touch()
    finding = machine.runs()
    assert (finding.state, finding.fix) == ("wrong", "start in one of your own folders, or name one with --run-dir")
    assert finding.seen == f"nothing can be written to {tmp_path}/runs (runs is not a folder)"
    (tmp_path / "runs").unlink()
    monkeypatch.setattr(machine, "LITTLE", 1e15)
    assert (machine.runs().state, machine.runs().fix) == ("note", "free some space there")


def test_where_compiled_programs_are_kept(file, tmp_path, monkeypatch):
    def cache(named=None, home=tmp_path):
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        if named is not None:
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", named)
        finding = frameworks._cache(*jax_probe._cache().values())
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
        return f"{finding.state} {finding.seen}", finding.fix

    anew = "so every run compiles again"
    assert cache() == (f"ok {tmp_path}/jax-mlp can be written to", None)
    assert cache("") == ("ok off, because JAX_COMPILATION_CACHE_DIR is empty", None)
    assert cache("gs://bucket/x") == ("ok gs://bucket/x is not looked into", None)
    assert cache(f"{file}/x") == (
        f"wrong {file}/x can't be used ({file} is not a folder), {anew}",
        "unset JAX_COMPILATION_CACHE_DIR, or name one of your own folders there",
    )
    assert cache(home=file) == (
        f"wrong {file}/jax-mlp can't be used ({file} is not a folder), {anew}",
        "name one of your own folders in JAX_COMPILATION_CACHE_DIR",
    )
    (tmp_path / "jax-mlp").mkdir()
    assert cache()[0].startswith("ok ")
    (tmp_path / "jax-mlp").chmod(0o777)
    assert cache()[0].startswith(f"wrong {tmp_path}/jax-mlp can't be used (others can write to it, ")
    assert cache(f"{tmp_path}/jax-mlp")[0].startswith("ok "), "who names a folder may share it"


def test_a_port_that_something_else_holds(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        monkeypatch.setenv("VISDOM_PORT", str(other.server_port))
        finding = visdom_server.server()
    assert "answers 501" in finding.seen
    assert finding.fix == f"stop what listens at port {other.server_port}, or name another port by VISDOM_PORT"


def test_a_server_that_answers(tmp_path, monkeypatch):
    server = VisdomProcess(tmp_path / "visdom")
    monkeypatch.setenv("VISDOM_PORT", str(server.port))
    try:
        server.start()
        assert lines([visdom_server.server()]) == [f"ok Visdom server: one answers at http://localhost:{server.port}"]
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"status": 200, "lacks": 3},
         ["ok Visdom: 0.2.4 with tornado 6.5 serves its page",
          "note Visdom: 3 files of its page are not downloaded yet; "
          "fix: python -m mlp_workload.dashboard, which downloads them"]),
        ({"status": 200, "lacks": 3, "closed": "/static"},
         ["ok Visdom: 0.2.4 with tornado 6.5 serves its page",
          "note Visdom: 3 files of its page are not downloaded yet; "
          "fix: python -m mlp_workload.dashboard, started by a user who may write /static, which downloads them"]),
        ({"status": 500, "reason": "Internal Server Error"},
         ["wrong Visdom: 0.2.4 with tornado 6.5 answers 500 Internal Server Error instead of its page; "
          "fix: pip install --force-reinstall visdom"]),
        ({"versions": {"visdom": "0.2.4", "tornado": "6.6"}, "status": 403, "reason": "Forbidden"},
         ["wrong Visdom: 0.2.4 with tornado 6.6 answers 403 Forbidden instead of its page; "
          "fix: pip install 'tornado<6.6'"]),
        ({"doing": "import visdom", "error": {"type": "ImportError", "said": "no", "missing": None}},
         ["wrong Visdom: 0.2.4 with tornado 6.5 import visdom fails: no (ImportError); "
          "fix: make setup, or pip install '.[visdom]' in the project's folder"]),
    ],
)  # fmt: skip
def test_what_visdoms_page_lacks(facts, expected):
    facts = {"versions": {"visdom": "0.2.4", "tornado": "6.5"}} | facts
    assert lines(visdom_server.page(Answer(facts, 0, 60, ""))) == expected


def test_a_variable_of_visdom_that_makes_no_sense(monkeypatch):
    monkeypatch.setenv("VISDOM_PORT", "http")
    assert lines([visdom_server.server()]) == [
        "wrong Visdom server: VISDOM_PORT must be from 1 to 65535, got 'http'; fix: correct the variable, or unset it"
    ]


def test_a_tfds_that_does_not_import(tmp_path, monkeypatch):
    plant_package(tmp_path, "importlib_resources", "raise ModuleNotFoundError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    finding = next(packages.tfds())
    assert finding.state == "wrong"
    assert "import importlib_resources fails: no such thing (ModuleNotFoundError)" in finding.seen
    assert finding.fix == "pip install '.[tfds]' in the project's folder"


def test_versions_out_of_the_projects_range(tmp_path, monkeypatch):
    assert lines(packages.ranges()) == ["ok packages: all installed packages have versions that jax-mlp supports"]
    plant_version(tmp_path, "tornado", "6.6.0")
    plant_version(tmp_path, "flax", "0.12.0")
    monkeypatch.syspath_prepend(tmp_path)
    assert lines(packages.ranges()) == [
        "wrong packages: flax 0.12.0, but flax>=0.12.1 is needed; fix: pip install 'flax>=0.12.1'",
        "wrong packages: tornado 6.6.0, but tornado<6.6 is needed; fix: pip install 'tornado<6.6'",
    ]


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.13.0+cpu", (2, 13)), ("6.6", (6, 6)), ("6.6b1", (6, 6)), ("1.0.0", (1,)), ("x", ())]
)
def test_the_numbers_of_a_version(version, numbers):
    assert packages.release(version) == numbers


def test_memory_within_a_containers_limit(tmp_path):
    assert machine.memory(tmp_path).seen == "this system does not say how much is free"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("24 1 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8000000 kB\n")
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free"]
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in {"max": "max\n", "current": "3000000000\n", "stat": "anon 1\ninactive_file 500000000\n"}.items():
        (group / f"memory.{name}").write_text(text)
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free"]
    (group / "memory.max").write_text("30000000000\n")
    assert lines([machine.memory(tmp_path)]) == ["ok memory: 8.2 GB free under a cgroup's limit of 30.0 GB"]
    (group / "memory.max").write_text("3300000000\n")
    seen = "note memory: 0.8 GB free under a cgroup's limit of 3.3 GB"
    assert lines([machine.memory(tmp_path)]) == [f"{seen}; fix: close other programs, or raise the limit"]


def test_a_cpu_quota_stands_beside_the_cores(monkeypatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine, "runnable_cores", lambda: 4)
    assert ", 4 cores under a CPU quota of 1.5, " in machine.python().seen


def test_the_variables_that_steer_a_framework_are_shown(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    monkeypatch.setenv("JAX_THREEFRY_PARTITIONABLE", "0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    seen = machine.variables().seen
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=.5" in seen
    assert "JAX_THREEFRY_PARTITIONABLE=0" in seen
    assert "elsewhere" not in seen
