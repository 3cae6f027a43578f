"""A worker process that answers questions: the handle in this process, and the loop in the other."""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mlp_workload.errors import UserError, clear_memory_errors


class WorkerProcess:
    """Handle on a process that runs `worker(name)` and calls its methods.

    `ask` calls a method of the worker, and `answer` waits for its result. Results come in the order of the calls. Used
    as a context manager, it ends the process on leaving.
    """

    def __init__(self, name: str, worker: Callable[[str], Any]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(worker, name, child_connection), daemon=True)
        # The child inherits the ignored signal: Ctrl-C ends the parent alone, and the end of the parent ends the child.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        child_connection.close()

    def ask(self, method: str, *arguments: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # `answer` says why
            self._connection.send((method, arguments))

    def answer(self) -> Any:
        """Returns the next result.

        Raises `UserError` if the worker did or if the process has ended, and `RuntimeError` for any other exception.
        """
        try:
            error, value = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            why = "; -9 is a kill, which is also how the system frees memory" if code == -9 else ""
            raise UserError(f"the {self.name} process ended with {code}{why}") from None
        if error is not None:
            raise error
        return value

    def do(self, method: str, *arguments: Any) -> Any:
        self.ask(method, *arguments)
        return self.answer()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join(timeout=1)
        self._process.kill()
        self._process.join()


def ask_all(workers: Sequence[WorkerProcess], method: str, *arguments: Any) -> tuple[Any, ...]:
    """Asks all workers at once, then waits for each answer."""
    for worker in workers:
        worker.ask(method, *arguments)
    return tuple([worker.answer() for worker in workers])


def _serve(make_worker: Callable[[str], Any], name: str, connection: Connection) -> None:
    # Torch's threads wait by spinning, which takes cores from the other process.
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
        with contextlib.suppress(BrokenPipeError):  # the parent has ended; the next `recv` returns
            connection.send(answer)
