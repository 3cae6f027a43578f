"""The drawing page's handle on one framework's process."""

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mlp_workload.cli.parse import INSTALL
from mlp_workload.doctor.packages import installed
from mlp_workload.interface import TITLES, package_of

ANSWER_SECONDS = 120.0
"""Time limit for a process to start or to answer; then it is killed."""


class Side:
    """A process of `mlp_workload.predict.draw_answers`; a context manager that ends the process.

    `failure` is the reason why there are no answers, in a line, or None.
    """

    def __init__(self, side: str, run: Path) -> None:
        version = (installed(side) or "").partition("+")[0]
        self.name = f"{TITLES[side]} {version}".strip()
        self.failure: str | None = None
        # In its own session Ctrl-C does not reach it; it ends with its input.
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{package_of(side)}.drawing", str(run.absolute())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip

    def ask(self, image: npt.NDArray[np.uint8]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # the process has ended, as `answer` reports
            self._process.stdin.write(image.tobytes().hex() + "\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Returns the next answer; empty if there is a `failure`."""
        if self.failure is not None:
            return {}
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_SECONDS, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        answer: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
        if not answer:
            self.failure = f"its process ended with status {self._process.wait()}"
        elif error := answer.get("error"):
            missing = error["missing"]
            self.failure = f"{missing} is not installed: {INSTALL[missing]}" if missing in INSTALL else error["said"]
        return {} if self.failure else answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=2)  # it ends with its input
        self._process.kill()
        self._process.wait()
