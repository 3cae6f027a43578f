"""What the doctor finds in a healthy installation, and in one that is broken in every way."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from doctor_helpers import TORCH_RELEASE, plant_package, plant_version, spoil
from helpers import ROOT, assert_one_line
from visdom_process import free_port

from mlp_workload.doctor.finding import Finding


def doctor(folder, *arguments, path=(ROOT,), **variables):
    """`python -m mlp_workload.doctor` in `folder`, with packages from `path` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | variables
    command = [sys.executable, "-m", "mlp_workload.doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=240)


@pytest.fixture(scope="module")
def closed_port():
    return free_port()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, closed_port):
    folder = tmp_path_factory.mktemp("healthy")
    process = doctor(folder, "--json", "doctor.json", VISDOM_PORT=str(closed_port))
    return process, json.loads((folder / "doctor.json").read_text()), folder


def test_a_healthy_installation(healthy):
    process, content, folder = healthy
    assert (process.returncode, process.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["doctor.json"], "nothing else is left behind"
    *printed, last = process.stdout.splitlines()
    states = [finding["state"] for finding in content["findings"]]
    assert set(states) <= {"ok", "note"}
    assert last == f"nothing wrong, {states.count('note')} to note"
    fixes = [f"; fix: {finding['fix']}" if finding["fix"] else "" for finding in content["findings"]]
    assert printed == [
        f"{finding['state']:<5}  {finding['name']}: {finding['seen']}{fix}"
        for finding, fix in zip(content["findings"], fixes, strict=True)
    ]


def test_it_tells_of_each_framework(healthy):
    _, content, _ = healthy
    seen = [f"{finding['name']}: {finding['seen']}" for finding in content["findings"]]
    for name, package in (("JAX", "jax"), ("PyTorch", "torch")):
        facts = content["frameworks"][package]
        assert facts["file"].startswith(str(Path(find_spec(package).origin).parent))
        assert 0 < facts["product"]["error"] < facts["product"]["allowed"]
        assert any(line.startswith(f"{name}: {package} {metadata.version(package)}") for line in seen)
        assert any(line.startswith(f"{name} product: 200x784 by 784x200 is within ") for line in seen)
        assert f"{name} CUDA: built for the CPU" in seen or facts["cuda"]
    assert content["frameworks"]["jax"]["versions"].keys() == {"jax", "jaxlib", "flax", "optax"}
    assert f"compile cache: {os.environ['JAX_COMPILATION_CACHE_DIR']} can be written to" in seen
    assert "MNIST: four files with the published SHA-256 sums" in seen
    versions = [metadata.version(package) for package in ("visdom", "tornado", "tensorflow-datasets")]
    assert f"Visdom: {versions[0]} with tornado {versions[1]} serves its page" in seen
    assert f"TFDS: {versions[2]}" in seen


def test_a_closed_port_is_named_with_its_fix(healthy, closed_port):
    line = f"note   Visdom server: no Visdom server at http://localhost:{closed_port} (Connection refused)"
    fix = f"runs start without it; fix: python -m mlp_workload.dashboard --port {closed_port}"
    assert f"{line}; {fix}" in healthy[0].stdout.splitlines()


COPIED = pytest.mark.long("copies packages, and starts what is left of each framework")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Torch without a library, tornado 6.6, a file of MNIST that is another, and no place for compiled programs."""
    folder = tmp_path_factory.mktemp("broken")
    original = Path(find_spec("torch").origin).parent
    (folder / "first/torch/lib").mkdir(parents=True)
    for path in (*original.iterdir(), *(original / "lib").iterdir()):
        if path.name not in ("lib", "libtorch_cpu.so"):
            (folder / "first/torch" / path.relative_to(original)).symlink_to(path)
    as_tornado_6_6(folder / "first")
    for package in ("jax_mlp", "mlp_workload", "reference_torch"):
        shutil.copytree(ROOT / package, folder / "second" / package, ignore=shutil.ignore_patterns("__pycache__"))
    spoil(folder / "second/mlp_workload/data/mnist/t10k-labels-idx1-ubyte.gz")
    (folder / "a file").touch()
    path = (folder / "first", folder / "second")
    return doctor(folder, path=path, JAX_COMPILATION_CACHE_DIR=str(folder / "a file/cache"), VISDOM_PORT="x")


def as_tornado_6_6(folder):
    """The tornado that is installed, and what changed with 6.6: a file outside the static folder is refused."""
    shutil.copytree(Path(find_spec("tornado").origin).parent, folder / "tornado")
    plant_version(folder, "tornado", "6.6")
    with (folder / "tornado/web.py").open("a") as file:
        file.write("""

def _within(cls, root, path, get=StaticFileHandler.get_absolute_path.__func__):
    if os.path.relpath(get(cls, root, path), root).startswith(".."):
        raise HTTPError(403)
    return get(cls, root, path)

StaticFileHandler.get_absolute_path = classmethod(_within)
""")


BROKEN = {
    "MNIST": ("t10k-labels-idx1-ubyte.gz: damaged, its content has SHA-256 ", "--no-deps . in the project's folder"),
    "packages": ("tornado 6.6, but tornado<6.6 is needed", "pip install 'tornado<6.6'"),
    "compile cache": (
        "a file is not a folder), so every run compiles again",
        "unset JAX_COMPILATION_CACHE_DIR, or",
    ),
    "PyTorch": (
        "import torch fails: libtorch_cpu.so: cannot open shared object file",
        f"pip install --force-reinstall torch=={TORCH_RELEASE}",
    ),
    "Visdom": ("with tornado 6.6 answers 403 Forbidden instead of its page", "pip install 'tornado<6.6'"),
    "Visdom server": ("VISDOM_PORT must be from 1 to 65535, got 'x'", "correct the variable, or unset it"),
}


@COPIED
@pytest.mark.parametrize("name", BROKEN)
def test_each_thing_that_is_broken_is_found_with_its_fix(name, broken):
    assert (broken.returncode, broken.stderr) == (1, "")
    (line,) = [line for line in broken.stdout.splitlines() if line.startswith(f"wrong  {name}: ")]
    seen, fix = BROKEN[name]
    assert seen in line.partition("; fix: ")[0]
    assert fix in line.partition("; fix: ")[2]
    assert f"{len(BROKEN)} wrong, " in broken.stdout


@COPIED
def test_the_rest_of_a_broken_installation_is_still_looked_at(broken):
    assert "ok     JAX: jax " in broken.stdout
    assert "ok     JAX product: " in broken.stdout
    assert "ok     TFDS: " in broken.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--frobnicate", "unrecognized arguments: --frobnicate"),
        ("--json there", "--json there exists"),
        ("--json no/where", "cannot write no/where"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, run, tmp_path):
    (tmp_path / "there").touch()
    assert_one_line(run("mlp_workload.doctor", *arguments.split()), message)


def test_a_finding_is_one_line_without_control_characters():
    finding = Finding("wrong", "JAX", "first\nsecond \x1b[2J", "pip install\njax")
    assert str(finding) == r"JAX: first second \x1b[2J; fix: pip install jax"


def test_it_says_what_it_needs_itself(tmp_path):
    plant_package(tmp_path, "rich", "raise ModuleNotFoundError('No module named rich')")
    process = doctor(tmp_path, path=(tmp_path, ROOT))
    assert (process.returncode, process.stderr) == (1, "")
    assert (
        process.stdout
        == "wrong  packages: No module named rich; fix: make setup, or pip install . in the project's folder\n"
    )
