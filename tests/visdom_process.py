"""A stock Visdom server in a process of its own, as its users start one, to be killed, suspended and asked."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from warm import python

from mlp_workload.visdom.server import Unreachable, VisdomServer

_SERVE = """
import logging, os, sys
open(sys.argv[2] + "pid", "w").write(str(os.getpid()))
from visdom.server.run_server import start_server
logging.getLogger().setLevel(logging.INFO)  # a line for each request
start_server(port=int(sys.argv[1]), base_url=sys.argv[3], env_path=sys.argv[2], bind_local=True)
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class VisdomProcess:
    """`folder` keeps its environments and its log, through any number of starts."""

    def __init__(self, folder: Path, base_url: str = "") -> None:
        self.port, self._folder, self._base_url = free_port(), folder, base_url
        self.log = folder / "log"
        self.process: subprocess.Popen | None = None

    @property
    def flags(self) -> list[str]:
        return ["--visdom-port", str(self.port)]

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        command = [python(), "-c", _SERVE, str(self.port), f"{self._folder}/", self._base_url]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect()
                return
            except Unreachable:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def connect(self):
        return VisdomServer(port=self.port, base_url=self._base_url or "/").connect()

    def kill(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.process is None:
            raise ProcessLookupError
        os.kill(int((self._folder / "pid").read_text()), number)

    def environments(self) -> list[str]:
        return self.connect().get_env_list()

    def windows(self, environment: str) -> dict:
        return json.loads(self.connect().get_window_data(win=None, env=environment))

    def traces(self, environment: str, window: str) -> dict[str, tuple[list, list]]:
        """Steps and values of each curve of a window."""
        data = self.windows(environment)[window]["content"]["data"]
        return {trace["name"]: (trace["x"], trace["y"]) for trace in data}

    def requests(self) -> int:
        """How many were answered so far, ours included."""
        return len(re.findall(r"tornado.access:\d+ (?:POST|GET)", self.log.read_text()))
