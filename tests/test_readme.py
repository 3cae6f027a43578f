"""Every command of the README, as written, but for `make`, which runs this, and pip, which the Makefile calls."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
SCRIPTS = [block for block in BLOCKS if not block.startswith("make ")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The project's folders alone, so that what the commands write lands elsewhere."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("mlp_workload", "jax_mlp", "reference_torch", "mlp_compare", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


@pytest.mark.xdist_group("readme")  # some read what an earlier one wrote
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.partition("\n")[0] for script in SCRIPTS])
def test_the_readmes_commands_run_as_written(script, checkout):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.run(
        ["bash", "-eu", "-c", script], capture_output=True, text=True, cwd=checkout, env=environment, timeout=280
    )
    assert process.returncode == 0, process.stderr
    assert [line for line in process.stderr.splitlines() if not line.startswith("warning: no Visdom server at ")] == []


def test_the_readme_has_commands_and_its_links_lead_somewhere():
    assert len(SCRIPTS) >= 5
    text = (ROOT / "README.md").read_text()
    titles = re.findall(r"^#+ (.+)", text, re.M)
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), target
    for path in re.findall(r"`([a-z_]+/[\w/.]+\.(?:py|md|safetensors))`", text):
        assert (ROOT / path).exists(), path
