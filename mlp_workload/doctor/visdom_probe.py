"""Starts the dashboard's server and asks it for its page: `python -m mlp_workload.doctor.visdom_probe`."""

import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from mlp_workload.doctor.probe import Facts, tell
from mlp_workload.visdom import assets
from mlp_workload.visdom.server import VisdomServer, only_visdom
from mlp_workload.visdom.serving import http_server


def facts() -> Iterator[Facts]:
    """Yields the versions, missing files, and at the end the HTTP status, 200 for a page."""
    yield {"doing": "import visdom"}
    with only_visdom():
        import visdom  # noqa: F401
        from tornado.httpclient import AsyncHTTPClient
        from tornado.ioloop import IOLoop
        from tornado.testing import bind_unused_port

    yield {"versions": {"visdom": version("visdom"), "tornado": version("tornado")}}
    static = assets.static_folder()
    yield {"lacks": sum(bool(asset.package) for asset in assets.missing(static))}
    yield {"closed": None if os.access(static, os.W_OK) else str(static)}
    yield {"doing": "serving Visdom's page"}
    with tempfile.TemporaryDirectory() as folder:
        listener, port = bind_unused_port()
        http_server(VisdomServer(port=port), Path(folder)).add_socket(listener)
        address = f"http://127.0.0.1:{port}/"
        answer = IOLoop.current().run_sync(lambda: AsyncHTTPClient().fetch(address, raise_error=False))
    yield {"status": answer.code, "reason": answer.reason}


if __name__ == "__main__":
    tell(facts)
