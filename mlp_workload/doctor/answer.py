"""Runs a probe in a child process, and reads its answer or how it ended."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO

from mlp_workload.doctor.probe import Facts

SECONDS = 120.0
"""Time limit of a probe; importing a framework from a slow disk takes long."""


@dataclass(frozen=True)
class Answer:
    """The `facts` that a probe printed, its exit status and the last line of its standard error.

    `status` is None if it took longer than `seconds`.
    """

    facts: Facts
    status: int | None
    seconds: float
    last_line: str

    @classmethod
    def of(cls, module: str, seconds: float = SECONDS) -> "Answer":
        """Runs `python -m module`, which calls `probe.tell`."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            try:
                status: int | None = subprocess.run(
                    [sys.executable, "-m", module], stdin=subprocess.DEVNULL, stdout=out, stderr=errors, timeout=seconds
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
            facts: Facts = {}
            for line in _lines(out):
                with contextlib.suppress(ValueError):  # a line that was cut off
                    facts |= json.loads(line)
            return cls(facts, status, seconds, next(reversed(_lines(errors)), ""))

    @property
    def missing(self) -> str | None:
        """The module that was not found, if any."""
        missing: str | None = self.facts.get("error", {}).get("missing")
        return missing

    @property
    def failure(self) -> str | None:
        """Why the answer is incomplete, in a line; None if it is complete."""
        doing = self.facts.get("doing", "start")
        if self.status is None:
            return f"{doing} hangs, no answer within {self.seconds:g} s"
        if error := self.facts.get("error"):
            return f"{doing} fails: {error['said']} ({error['type']})"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            hint = ", which is also how the system frees memory" if name == "SIGKILL" else ""
            return f"{doing} ends the process by {name}{hint}"
        if self.status:
            return f"{doing} ends the process with status {self.status}: {self.last_line or 'it says nothing'}"
        return None


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
