"""What `import twincheck` imports, and what it says of a package that is missing."""

import subprocess
import sys

import pytest
from helpers import ROOT

JAX = ("jax", "jaxlib", "flax", "optax", "equinox", "haiku")
JAX_SIDE = (
    "import twincheck.causes.table, twincheck.diagnosis, twincheck.function_side, twincheck.linen_side, "
    "twincheck.nnx_side, twincheck.pairs, twincheck.pins, twincheck.record_jax"
)


def run(code, missing=()):
    """Runs Python code in a process where some packages seem not to be installed."""
    blocked = f"import sys; sys.modules |= dict.fromkeys({missing!r})\n"
    return subprocess.run([sys.executable, "-c", blocked + code], cwd=ROOT, capture_output=True, text=True)


def test_importing_twincheck_imports_no_framework():
    result = run("import twincheck; print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    assert result.returncode == 0, result.stderr
    assert not {"torch", "scipy", "jinja2", *JAX} & {*result.stdout.split()}


@pytest.mark.parametrize(
    ("code", "missing"),
    [(JAX_SIDE, ("torch",)), ("import twincheck.record_torch, twincheck.torch_side", JAX)],
    ids=["JAX", "torch"],
)
def test_a_side_imports_without_the_other_framework(code, missing):
    result = run(code, missing)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("call", "missing", "extra"),
    [
        ("tc.torch(None, None)", "torch", "torch"),
        ("tc.pair(None, None)", "scipy", "compare"),
        ("tc.equinox(None, None)", "equinox", "ports"),
        ("tc.haiku(None, None, None)", "haiku", "ports"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(call, missing, extra):
    result = run(f"import twincheck as tc\n{call}", (missing,))
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"mlp_workload.errors.UserError: {missing} is not installed: ")
    assert f"pip install '.[{extra}]'" in last


@pytest.mark.parametrize(("missing", "extra"), [("torch", "torch"), ("scipy", "compare"), ("jinja2", "compare")])
def test_the_command_says_it_in_one_line(missing, extra, tmp_path):
    (tmp_path / "port.py").write_text("import torch\n\n\ndef sides():\n    return None\n")
    function = str(tmp_path / "port.py:sides")
    result = run(
        f"import runpy\nsys.argv[1:] = [{function!r}]\nrunpy.run_module('twincheck', None, '__main__')", (missing,)
    )
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"python -m twincheck: error: {missing} is not installed: ")
    assert f"pip install '.[{extra}]'" in line
