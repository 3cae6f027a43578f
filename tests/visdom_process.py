"""A stock Visdom server in a process of its own, as its users start one, to be killed, suspended and asked."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from tolerances import DRAWN
from warm import python

from mlp_workload.run.recorded import RecordedRun
from mlp_workload.visdom.server import Unreachable, VisdomServer
from mlp_workload.visdom.windows import comparison_name, environment_name

_SERVE = """
import logging, os, sys
open(sys.argv[2] + "pid", "w").write(str(os.getpid()))
from visdom.server.run_server import start_server
logging.getLogger().setLevel(logging.INFO)  # a line for each request
start_server(port=int(sys.argv[1]), base_url=sys.argv[3], env_path=sys.argv[2], bind_local=True)
"""
HURRIED = {
    "mlp_workload.sinks.visdom.PAUSE_SECONDS": 0.1,
    "mlp_workload.sinks.visdom.COMPARE_SECONDS": 0.3,
    "mlp_workload.sinks.visdom.RETRY_SECONDS": 0.1,
    "mlp_workload.sinks.visdom.LAST_SECONDS": 0.0,
    "mlp_workload.sinks.visdom.CLOSE_SECONDS": 60.0,
    "mlp_workload.visdom.timed_http.ANSWER_SECONDS": 60.0,
}
"""Constants for a run's sink: what is done again is so at once, and what must come has time."""


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


def comparison_of(recorded):
    return comparison_name(recorded.config, recorded.fact("dataset_digest"))


def assert_shows(server, folder, trace=None):
    """The server's data are those of events.jsonl, each point once; in the comparison too, if it has a `trace`."""
    recorded = RecordedRun.load(folder)
    environment = environment_name(folder)
    ((steps, losses),) = server.traces(environment, "train_loss").values()
    assert steps == list(range(1, len(recorded.train_losses) + 1))
    DRAWN.assert_close(losses, recorded.train_losses)
    test = server.traces(environment, "test")
    evaluated = recorded.evaluations
    for name, values in (
        ("loss", [event.test_loss for event in evaluated]),
        ("acc.", [event.test_accuracy for event in evaluated]),
    ):
        assert test[name][0] == [event.step for event in evaluated]
        DRAWN.assert_close(test[name][1], values)
    windows = server.windows(environment)
    assert [windows[name]["title"] for name in ("train_loss", "test", "x", "pred")] == [
        "train loss", "test loss&acc.", "test images", "predicted labels",
    ]  # fmt: skip
    assert f"step {evaluated[-1].step}: " in windows["pred"]["content"]
    if trace is not None:
        comparison = comparison_of(recorded)
        assert server.traces(comparison, "test_loss")[trace] == test["loss"]
        assert server.traces(comparison, "test_accuracy")[trace] == test["acc."]
