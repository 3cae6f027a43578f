"""Checks the shipped MNIST files."""

from collections.abc import Iterator
from pathlib import Path

from mlp_workload.data import shipped
from mlp_workload.data.idx import read_idx
from mlp_workload.doctor.finding import Finding
from mlp_workload.errors import UserError
from mlp_workload.files import shell_quoted

_CHECKOUT = Path(__file__).parents[2]
"""Root of the git repository, if this is one."""


def findings(folder: Path = shipped.FOLDER) -> Iterator[Finding]:
    """Yields a finding for each file that differs from the published one, or one for all if none does."""
    damaged = False
    for name, digest in shipped.SHA256.items():
        try:
            read_idx(folder / f"{name}.gz", 3 if "images" in name else 1, digest)
        except UserError as error:
            damaged = True
            yield Finding("wrong", "MNIST", str(error), _fix(folder))
    if not damaged:
        yield Finding("ok", "MNIST", "four files with the published SHA-256 sums")


def _fix(folder: Path) -> str:
    if (_CHECKOUT / ".git").exists() and folder.is_relative_to(_CHECKOUT):
        return f"git -C {shell_quoted(_CHECKOUT)} checkout {shell_quoted(folder.relative_to(_CHECKOUT))}"
    return "pip install --force-reinstall --no-deps . in the project's folder"
