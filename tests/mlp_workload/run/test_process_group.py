"""When the processes of a run leave each other, and what an error means."""

import signal

import pytest

from mlp_workload.errors import PeerLost, UserError
from mlp_workload.run.checkpointing import Finished
from mlp_workload.run.process_group import joined
from mlp_workload.run.signals import Stopped


def end(error=None, join=lambda: None):
    """Joins, raises `error` in the run, and returns what was raised and whether the others were left."""
    left = []
    try:
        with joined(2, join, lambda: left.append(True), "torchrun", "peer|timed out"):
            if error is not None:
                raise error
    except (Exception, Stopped) as raised:
        return raised, bool(left)
    return None, bool(left)


@pytest.mark.parametrize("error", [None, Stopped("stopped after step 3", signal.SIGTERM), Finished("it is done", 2)])
def test_all_leave_together_at_the_end_and_after_a_signal(error):
    assert end(error) == (error, True)


@pytest.mark.parametrize("error", [UserError("no such file"), RuntimeError("out of memory"), ValueError("not a shape")])
def test_an_error_of_one_process_passes_through_and_is_not_waited_for(error):
    assert end(error) == (error, False)


@pytest.mark.parametrize("error", [RuntimeError("Connection closed by peer"), ValueError("Barrier timed out")])
def test_the_end_of_another_process_is_told_apart(error):
    raised, left = end(error)
    assert isinstance(raised, PeerLost)
    assert (str(raised), left) == (f"another process of this run ended, or can't be reached ({error})", False)


def test_what_several_processes_need_is_named():
    def join():
        raise ValueError("no address")

    raised, left = end(join=join)
    assert (str(raised), left) == ("several processes need torchrun (no address)", False)
