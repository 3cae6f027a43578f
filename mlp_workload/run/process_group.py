"""Waits until the processes of a run have found each other."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from mlp_workload.errors import UserError

JOIN_SECONDS = 60
"""Longest time that a process waits for the others."""


def join_others(processes: int, join: Callable[[], object]) -> None:
    """Calls `join`, by which a framework waits for the other `processes`, in a thread.

    Without the thread JAX would end the process after its own time limit. Torch would wait twice as long, or for ever
    if another program answers at the address. Neither would react to Ctrl-C. Raises `UserError` if `join` takes longer
    than `JOIN_SECONDS` or raises a `RuntimeError`.
    """
    joined: Future[object] = Future()

    def work() -> None:
        try:
            joined.set_result(join())
        except BaseException as error:
            joined.set_exception(error)

    threading.Thread(target=work, name="join", daemon=True).start()
    try:
        joined.result(JOIN_SECONDS)
    except TimeoutError:
        raise UserError(f"the {processes} processes did not find each other within {JOIN_SECONDS} seconds") from None
    except RuntimeError as error:
        raise UserError(f"the {processes} processes did not find each other: {error}") from error
