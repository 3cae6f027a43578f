"""The processes of a run, as they find each other."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from mlp_workload.errors import UserError

JOIN_SECONDS = 60
"""How long a process waits for the others."""


def join_others(processes: int, join: Callable[[], object]) -> None:
    """Returns when the framework's `join` does, which waits for the other `processes`.

    Raises `UserError` where that takes longer than `JOIN_SECONDS`, or fails by a `RuntimeError`. In a thread of its
    own: left to itself JAX ends the process when it has waited enough, torch waits for as long again or, where another
    program answers at that place, for ever, and neither listens to Ctrl-C.
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
        raise UserError(f"the {processes} processes did not find together within {JOIN_SECONDS} seconds") from None
    except RuntimeError as error:
        raise UserError(f"the {processes} processes did not find together: {error}") from error
