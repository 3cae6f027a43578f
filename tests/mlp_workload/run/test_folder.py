"""A run's folder belongs to one run."""

from pathlib import Path

import pytest

from mlp_workload.config import PRESETS
from mlp_workload.errors import UserError
from mlp_workload.run.folder import RunFolder, new_default_folder


def test_the_claim_on_a_folder_is_atomic(tmp_path, monkeypatch):
    """Two runs that both find the folder empty: only one makes config.json."""
    RunFolder.claim(tmp_path / "run", PRESETS["leaky"])
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(()))
    with pytest.raises(UserError, match="is in use by another run"):
        RunFolder.claim(tmp_path / "run", PRESETS["relu"])
    assert '"leaky"' in (tmp_path / "run/config.json").read_text()


def test_default_folders_of_one_second_get_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [new_default_folder("jax", PRESETS["leaky"], "seed0") for _ in range(5)]
    assert len(set(folders)) == 5
    assert any(folder.name.endswith("-2") for folder in folders)
