"""The arrows between the packages point one way, and neither framework is needed to run the other's half."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

JAX = ("flax", "jax", "jaxlib", "optax")
TORCH = ("torch",)

# Imports every module of a package in a process where some packages seem not to be installed.
IMPORT_ALL = """
import importlib, pkgutil, sys

package, *blocked = sys.argv[1:]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
modules = [package]
for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        modules.append(module.name)
print(*modules)
"""


def import_all(package, blocked, directory=ROOT):
    """Runs IMPORT_ALL with `directory` as the place to import from."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package, *blocked], cwd=directory, capture_output=True, text=True
    )


def lint_imports(directory):
    command = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run([sys.executable, "-c", command, "--no-cache"], cwd=directory, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages, to break."""
    for package in ("experiments", "jax_mlp", "mlp_compare", "mlp_workload", "reference_torch", "twincheck"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("mnist", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(file, line):
    file.write_text(file.read_text() + f"\n{line}\n")


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("jax_mlp", (*TORCH, "reference_torch")),
        ("reference_torch", (*JAX, "jax_mlp")),
        ("mlp_workload", (*JAX, *TORCH, "jax_mlp", "reference_torch")),
    ],
)
def test_every_module_imports_without_the_other_framework(package, blocked):
    result = import_all(package, blocked)
    assert result.returncode == 0, result.stderr
    files = sorted(path for path in (ROOT / package).rglob("*.py") if path.name != "__main__.py")
    assert len(result.stdout.split()) == len(files)


OTHER = pytest.mark.long("the same for another package")


@pytest.mark.parametrize(
    ("package", "blocked"),
    [
        ("mlp_workload", JAX),
        pytest.param("jax_mlp", TORCH, marks=OTHER),
        pytest.param("reference_torch", JAX, marks=OTHER),
    ],
)
def test_an_import_of_what_is_blocked_is_found_in_the_last_of_the_modules(package, blocked, copy):
    plant(sorted((copy / package).rglob("*.py"))[-1], f"import {blocked[0]}")
    result = import_all(package, blocked, copy)
    assert result.returncode == 1
    assert f"No module named '{blocked[0]}' (blocked by the test)" in result.stderr


def test_lint_imports_accepts_the_packages(copy):
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "9 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("jax_mlp/model.py", "import torch", "jax_mlp never imports torch"),
        ("jax_mlp/model.py", "import reference_torch.model", "jax_mlp never imports torch"),
        ("reference_torch/model.py", "from jax import numpy", "reference_torch never imports jax"),
        ("reference_torch/model.py", "def later():\n    import jax_mlp", "reference_torch never imports jax"),
        ("mlp_workload/config.py", "import torch", "mlp_workload imports neither framework"),
        ("mlp_workload/config.py", "import optax", "mlp_workload imports neither framework"),
        ("mlp_workload/config.py", "from jax_mlp import model", "mlp_workload imports neither framework"),
        ("mlp_compare/parity/worker.py", "import mlp_compare.accuracy.runner", "No import circle"),
        ("mlp_compare/figures.py", "import experiments.scaling", "The wheel imports no experiments"),
        ("mlp_compare/parity/result.py", "import mlp_compare.parity.lockstep", "No import circle"),
        ("mlp_workload/events.py", "import mlp_workload.run.session", "No import circle"),
        ("twincheck/trace.py", "import twincheck.comparison", "No import circle"),
        ("twincheck/trace.py", "import mlp_compare.parity", "twincheck knows no MLP"),
        ("twincheck/trace.py", "import mlp_workload.weights", "twincheck knows no MLP"),
        ("twincheck/bounds.py", "import torch", "twincheck compares in NumPy"),
        ("twincheck/layouts.py", "def later():\n    import jax", "twincheck compares in NumPy"),
        ("twincheck/causes/evidence.py", "import twincheck.causes.norms", "twincheck compares in NumPy"),
        ("twincheck/diagnosis.py", "import torch", "twincheck's JAX side never imports torch"),
        ("twincheck/causes/norms.py", "import torch", "twincheck's JAX side never imports torch"),
        ("twincheck/torch_side.py", "import jax", "twincheck's torch side never imports jax"),
        ("mlp_workload/weights.py", "import twincheck.trace", "mlp_workload imports neither framework"),
    ],
)
def test_lint_imports_rejects_a_planted_import(file, line, contract, copy):
    plant(copy / file, line)
    result = lint_imports(copy)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout


ABOVE = {
    "mlp_workload": ("jax_mlp", "reference_torch", "twincheck", "mlp_compare", "experiments"),
    "jax_mlp": ("twincheck", "mlp_compare", "experiments"),
    "reference_torch": ("twincheck", "mlp_compare", "experiments"),
    "twincheck": ("jax_mlp", "reference_torch", "mlp_compare", "experiments"),
}


def upward_strings(folder, names):
    """Strings, other than docstrings, that name one of the packages `names`: they could be imported by name."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in statements:
                found += [(path.name, node.value) for name in names if re.search(rf"\b{name}\b", node.value)]
    return found


@pytest.mark.parametrize("package", ABOVE)
def test_no_string_names_a_package_above(package, tmp_path):
    assert upward_strings(ROOT / package, ABOVE[package]) == []
    (tmp_path / "a.py").write_text(f'"""{ABOVE[package][-2]}"""\nNAME = "{ABOVE[package][-2]}.train"')
    assert upward_strings(tmp_path, ABOVE[package]) == [("a.py", f"{ABOVE[package][-2]}.train")]
