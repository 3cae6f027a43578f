"""A run that stops and goes on."""

import pytest
from helpers import write_idx_folder
from stopped_runs import config_on

from mlp_workload.config import Config


@pytest.fixture
def config(tmp_path, digits) -> Config:
    (tmp_path / "digits").mkdir()
    return config_on(write_idx_folder(tmp_path / "digits", digits))
