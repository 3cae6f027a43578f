"""Joins the processes of a run, and leaves them."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from mlp_workload.errors import PeerLost, UserError
from mlp_workload.run.checkpointing import Finished
from mlp_workload.run.signals import Stopped

JOIN_SECONDS = 60
"""Longest time that a process waits for the others."""


@contextlib.contextmanager
def joined(
    processes: int, join: Callable[[], object], leave: Callable[[], object], needs: str, lost: str
) -> Iterator[None]:
    """Joins the other processes by `join`, and leaves them by `leave` when all are done.

    Raises `UserError` if the others do not come, or names what several processes need, `needs`, if `join` lacks an
    address. Raises `PeerLost` if one of them ends early: the framework's error then has one of the words in `lost`.
    """
    try:
        join_others(processes, join)
    except ValueError as error:
        raise UserError(f"several processes need {needs} ({error})") from error
    try:
        yield
        leave()
    except (Stopped, Finished):
        leave()
        raise
    except (RuntimeError, ValueError) as error:  # ValueError: JAX failed while a result was read
        if re.search(lost, str(error), re.I):
            raise PeerLost(str(error)) from error
        raise


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
