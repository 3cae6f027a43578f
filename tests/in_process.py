"""Runs the workers of the lockstep in this process, which saves the seconds that two processes take to start."""

import sys

import pytest

import mlp_compare.parity.__main__ as parity
from mlp_compare.parity.worker import Worker


class InProcess:
    """`WorkerProcess` without the process."""

    def __init__(self, name, worker=Worker):
        self.name, self._worker, self._answers = name, worker(name), []

    def ask(self, method, *arguments):
        self._answers.append(getattr(self._worker, method)(*arguments))

    def answer(self):
        return self._answers.pop(0)

    def do(self, method, *arguments):
        self.ask(method, *arguments)
        return self.answer()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._worker._around.close()


def run_parity(monkeypatch, *arguments):
    """Runs `python -m mlp_compare.parity` in this process and returns its exit status."""
    monkeypatch.setattr(parity, "WorkerProcess", InProcess)
    monkeypatch.setattr(sys, "argv", ["parity", *arguments])
    with pytest.raises(SystemExit) as stop:
        parity.main()
    return stop.value.code
