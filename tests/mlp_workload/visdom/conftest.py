"""A stock Visdom server."""

import contextlib

import pytest
from visdom_process import VisdomProcess


@pytest.fixture
def server(tmp_path):
    server = VisdomProcess(tmp_path / "visdom")
    server.start()
    yield server
    with contextlib.suppress(ProcessLookupError, AttributeError):
        server.resume()
    server.kill()
