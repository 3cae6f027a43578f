"""One side in a process of its own: the handle here, and what runs there."""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mlp_workload.errors import UserError, clear_memory_errors


class Side:
    """The handle on a process where `worker(name)` does what it is asked.

    `ask` names one of the worker's methods, `answer` waits for what it returns; answers come in the order of the
    questions. Use it as a context manager; the process ends with it.
    """

    def __init__(self, name: str, worker: Callable[[str], Any]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker, name, there), daemon=True)
        # The child inherits it: Ctrl-C ends the parent alone, whose end ends the child.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        there.close()

    def ask(self, method: str, *arguments: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self._connection.send((method, arguments))

    def answer(self) -> Any:
        """Raises `UserError` as the worker did, or where its process was ended; `RuntimeError` where it failed."""
        try:
            error, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            ended = self._process.exitcode
            why = "; -9 is a kill, which is also how the system frees memory" if ended == -9 else ""
            raise UserError(f"the {self.name} process ended with {ended}{why}") from None
        if error is not None:
            raise error
        return value

    def do(self, method: str, *arguments: Any) -> Any:
        self.ask(method, *arguments)
        return self.answer()

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join(timeout=1)
        self._process.kill()
        self._process.join()


def both(sides: Sequence[Side], method: str, *arguments: Any) -> tuple[Any, ...]:
    """Asks all sides, then waits for each."""
    for side in sides:
        side.ask(method, *arguments)
    return tuple([side.answer() for side in sides])


def _serve(make_worker: Callable[[str], Any], name: str, connection: Connection) -> None:
    # Torch's threads wait by spinning, which costs several times the time where the other side wants their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    worker = make_worker(name)
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: tuple[Exception | None, Any]
        try:
            with clear_memory_errors():
                answer = (None, getattr(worker, method)(*arguments))
        except (UserError, ModuleNotFoundError) as error:
            answer = (error, None)
        except Exception:
            answer = (RuntimeError(f"in the {name} process: {traceback.format_exc()}"), None)
        with contextlib.suppress(BrokenPipeError):  # the parent is gone, as the next turn finds
            connection.send(answer)
