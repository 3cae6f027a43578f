"""Every command and example of the README and of the pages in docs/, as written, except for `make` and pip."""

import os
import pkgutil
import re
import shlex
import subprocess
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers import ROOT
from warm import python

import jax_mlp.train
import mlp_compare.parity.__main__ as parity
import twincheck.record_jax
import twincheck.record_torch
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from twincheck.causes.table import CAUSES

DOCS, API = sorted((ROOT / "docs").glob("*.md")), sorted((ROOT / "docs/api").glob("*.md"))
PAGES = {
    path: path.read_text()
    for path in (*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *DOCS, *API)
}
BLOCKS = [block for text in PAGES.values() for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)]
ELSEWHERE = ("make ", "python -m reference_torch.tutorial")
"""Beginnings of what other tests run; the tutorial's command `test_commands.py`."""
SCRIPTS = [block for block in dict.fromkeys(BLOCKS) if not block.startswith(ELSEWHERE)]


def first_line(script):
    return script.partition("\n")[0]


@pytest.mark.long("trains on MNIST")
@pytest.mark.parametrize("script", SCRIPTS, ids=first_line)
def test_the_readmes_commands_run_as_written(script, tmp_path):
    """Beside links to the project's folders, so that what the commands write lands elsewhere."""
    for name in ("mlp_workload", "jax_mlp", "reference_torch", "mlp_compare", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {"PATH": f"{Path(python()).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        ["bash", "-eu", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""


OPTIONS = {
    "examples.numpy_side.train": TrainingOptions,
    "jax_mlp.train": jax_mlp.train.Options,
    "mlp_compare.parity": parity.Parity,
    "reference_torch.train": TrainingOptions,
}
LINES = map(shlex.split, "".join(SCRIPTS).splitlines())
COMMANDS = [words[2:] for words in LINES if len(words) > 2 and words[2] in OPTIONS]
assert COMMANDS


@pytest.mark.parametrize("command", [command for command in COMMANDS if "--resume" not in command], ids=shlex.join)
def test_their_flags_are_there(command):
    module, *flags = command
    old_names = parity.ALIASES if module == "mlp_compare.parity" else {}
    parse_config(flags, OPTIONS[module], aliases=old_names)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        file, _, heading = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not heading or heading in headings(path.read_text()), target
    for path in re.findall(r"`([a-z_]+/[\w/.]+\.(?:py|md|safetensors))`", PAGES[page]):
        assert (ROOT / path).exists(), path


def headings(text):
    titles = re.findall(r"^#+ (.+)", text, re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def python_of(page):
    """Returns the one Python block of a page."""
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    return code


@pytest.mark.long("trains and compiles")
@pytest.mark.parametrize("page", API, ids=[page.stem for page in API])
def test_the_examples_of_the_reference_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(python_of(page), {})


@pytest.mark.parametrize("page", API, ids=[page.stem for page in API])
def test_the_reference_lists_what_is_there(page):
    for name in re.findall(r"^::: (.+)", PAGES[page], re.M):
        assert pkgutil.resolve_name(name).__doc__, name


def test_the_readme_is_short():
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 220


def test_the_readmes_python_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    """But for the sizes, which differ between machines, and for the files of the models."""
    (shown,) = re.findall(r"^```\n(not the same model.*?)^```", PAGES[ROOT / "README.md"], re.M | re.S)
    torch.manual_seed(0)
    models = {"torch_model": TorchModel(), "flax_model": FlaxModel(nnx.Rngs(0)), "x": torch.randn(16, 32)}
    monkeypatch.chdir(tmp_path)
    exec(python_of(ROOT / "README.md"), models)
    assert without_sizes(capsys.readouterr().out) == without_sizes(shown)
    assert Path("port.html").stat().st_size


def test_the_python_of_the_page_on_checks_runs(tmp_path, monkeypatch, capsys):
    """With a port that is right; AdamW's defaults differ."""
    torch.manual_seed(0)
    port = FlaxModel(nnx.Rngs(0), epsilon=1e-5, approximate=False)
    x, labels = torch.randn(16, 32).numpy(), np.arange(16) % 10
    given = {"model": TorchModel(), "port": port, "x": x, "labels": labels}
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"^```python\n(.*?)^```", PAGES[ROOT / "docs/twincheck.md"], re.M | re.S):
        exec(code, given)
    printed = capsys.readouterr().out
    assert printed.startswith("the same in all ")
    assert [finding.name for finding in given["result"].findings] == ["weight-decay"]
    assert "def convert(state):" in printed


def test_the_python_of_the_page_on_comparisons_compares_two_models(tmp_path, monkeypatch, capsys):
    """The smallest pair there is: a linear layer on each side, with the same weights and then with others."""
    torch_model = torch.nn.Sequential(OrderedDict(fc=torch.nn.Linear(4, 3).double()))
    flax_model, x = Linear(nnx.Rngs(0)), np.linspace(-1, 1, 20).reshape(5, 4)
    flax_model.fc.bias.set_value(jnp.array(torch_model.fc.bias.detach().numpy()))
    monkeypatch.chdir(tmp_path)
    twincheck.record_torch.record(torch_model, lambda y: (y**2).sum(), torch.tensor(x)).save("torch.safetensors")
    for factor, answer in ((1, "the same in all 9 tensors; "), (2, "fc.kernel[")):
        flax_model.fc.kernel.set_value(factor * jnp.array(torch_model.fc.weight.detach().numpy().T))
        twincheck.record_jax.record(flax_model, lambda y: (y**2).sum(), jnp.array(x)).save("flax.safetensors")
        exec(python_of(ROOT / "docs/porting.md"), {})
        assert capsys.readouterr().out.startswith(answer)


def without_sizes(text):
    return re.sub(r"\d\.\de-\d\d (of|\()|allowed [^)]*|at \w+\.py:\d+", "#", text)


def test_the_page_on_checks_lists_every_cause():
    """A failure shows the rows that belong there."""
    rows = [f"| `{cause.name}` | {cause.says} |" for cause in CAUSES]
    (table,) = re.findall(r"^## Causes\n(.*?)^## ", PAGES[ROOT / "docs/twincheck.md"], re.M | re.S)
    assert re.findall(r"^\| `.*", table, re.M) == rows


class TorchModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up = torch.nn.LayerNorm(32), torch.nn.Linear(32, 64)
        self.gelu, self.down = torch.nn.GELU(), torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.down(self.gelu(self.up(self.norm(x))))


class FlaxModel(nnx.Module):
    def __init__(self, rngs, epsilon=1e-6, approximate=True):
        self.norm = nnx.LayerNorm(32, epsilon=epsilon, rngs=rngs)
        self.up, self.down = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)
        self.approximate = approximate

    def __call__(self, x):
        return self.down(jax.nn.gelu(self.up(self.norm(x)), approximate=self.approximate))


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(4, 3, param_dtype=float, rngs=rngs)

    def __call__(self, x):
        return self.fc(x)
