"""The project's dashboard in a process of its own, and raw HTTP and websockets to ask it by."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import websocket
from helpers import ROOT
from visdom_process import free_port
from warm import python

from mlp_workload.visdom.server import only_visdom

_SERVE = """
import os
from mlp_workload import dashboard
os.nice = lambda _: 0  # beside other tests a nice server waits for long
dashboard.main()
"""


class DashboardProcess:
    """Keeps its curves in `folder`/envs, or where it likes."""

    def __init__(self, folder: Path, *flags: str, env_path: str | None = "envs", base_url: str = "", prefix=()) -> None:
        self.folder, self.port, self.base_url = folder, free_port(), base_url
        self.errors = folder / "errors"
        command = [*prefix, python(), "-c", _SERVE, "--port", str(self.port), *flags]
        if env_path:
            command += ["--env-path", env_path]
        if base_url:
            command += ["--base-url", base_url]
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        while not (line := self.process.stdout.readline()).startswith("Visdom at "):
            assert line, self.errors.read_text()
        self.line = line

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}{self.base_url}"

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> tuple[int, str]:
        """The status and the text. `path` is below the base URL; a header that is None is not sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Host": f"localhost:{self.port}", "Content-Length": str(len(content or b""))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        with contextlib.closing(connection):
            connection.putrequest(method, self.base_url + path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(content)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def socket(self, path: str = "/socket", **options) -> websocket.WebSocket:
        """Raises `WebSocketBadStatusException` if the server refuses."""
        return websocket.create_connection(f"ws://localhost:{self.port}{self.base_url}{path}", timeout=10, **options)

    def environments(self, **headers: str) -> list[str]:
        return json.loads(self.ask("POST", "/env_state", {}, **headers)[1])

    def close(self) -> str:
        """Text that it wrote to standard error."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.errors.read_text()


@contextlib.contextmanager
def dashboard(folder: Path, *flags: str, **options) -> Iterator[DashboardProcess]:
    process = DashboardProcess(folder, *flags, **options)
    try:
        yield process
    finally:
        process.close()


def until_registered(socket: websocket.WebSocket) -> str:
    """The id by which the server knows a websocket."""
    while (message := json.loads(socket.recv()))["command"] != "register":
        pass
    return message["data"]


def until(condition: Callable[[], object]) -> None:
    """Returns when `condition` is true; fails after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def routes(folder: Path) -> dict[str, bool]:
    """Every path that the installed Visdom answers, with "main" as its argument, and whether it is a websocket."""
    with only_visdom():
        from tornado.websocket import WebSocketHandler
        from visdom.server.app import Application

    rules = Application(env_path=f"{folder}/").wildcard_router.rules
    found = {
        rule.matcher.regex.pattern.replace("(.*)", "main").strip("$"): issubclass(rule.target, WebSocketHandler)
        for rule in rules
    }
    return {"/" + re.sub(r"[()\\]", "", path).removeprefix("/"): is_socket for path, is_socket in found.items()} | {
        "/": False
    }
