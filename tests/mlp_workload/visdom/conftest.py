"""A stock Visdom server, and a run that draws on it."""

import contextlib

import pytest
from live_run import Live
from visdom_process import VisdomProcess


@pytest.fixture
def server(tmp_path):
    server = VisdomProcess(tmp_path / "visdom")
    server.start()
    yield server
    with contextlib.suppress(ProcessLookupError, AttributeError):
        server.resume()
    server.kill()


@pytest.fixture
def live(server, tmp_path, digits, monkeypatch):
    return Live(server, tmp_path / "runs/run", digits, monkeypatch)
