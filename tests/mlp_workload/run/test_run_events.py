"""The events of a run, from what a trainer computes."""

import time

import numpy as np
import pytest

from examples.numpy_side.trainer import Trainer
from mlp_workload.config import Config
from mlp_workload.events import RunFinished, Warned
from mlp_workload.metrics import Evaluation
from mlp_workload.run.run_events import RunEvents

CONFIG = Config(hidden=(), batch_size=20, dtype="float64")
STEPS = 6


def run_events(dataset):
    return RunEvents(CONFIG, dataset, Trainer(CONFIG, dataset, None), time.perf_counter(), 0.0)


def evaluation(dataset, predictions):
    ones = np.ones(len(predictions))
    return Evaluation(ones, predictions, dataset.test.labels, np.ones(3, bool), ones)


def an_epoch(events, dataset, losses=(1.0,) * STEPS):
    """An epoch of 1,000 seconds, and its test of 100."""
    yield from events.trained(np.arange(103, dtype=np.int32), np.array(losses), 1000.0)
    yield events.evaluated(evaluation(dataset, dataset.test.labels), 100.0)


def summary(events):
    return next(event.summary for event in events.finished() if isinstance(event, RunFinished))


def test_a_resumed_run_counts_the_time_before_and_says_where_it_was_resumed(digits):
    events = run_events(digits)
    first = [*events.started(), *an_epoch(events, digits)]
    again = run_events(digits)
    second = [*again.resumed(STEPS, first), *an_epoch(again, digits)]
    last = run_events(digits)
    for _ in (*last.resumed(2 * STEPS, [*first, *second]), *an_epoch(last, digits)):
        pass
    found = summary(last)
    assert (found["steps"], found["train_seconds"], found["evaluate_seconds"]) == (3 * STEPS, 3000, 300)
    assert found["total_seconds"] > 2200, "of the two epochs before"
    by = {"framework": "numpy", "device": "cpu"}
    assert found["before"] == [by | {"from_step": 0}, by | {"from_step": STEPS}]


@pytest.mark.parametrize(("epoch", "step"), [(1, 4), (2, 10)])
def test_the_step_of_the_first_loss_that_is_not_finite_is_counted_from_the_start(epoch, step, digits):
    events = run_events(digits)
    if epoch == 2:
        list(an_epoch(events, digits))
    losses = (1.0, 1.0, 1.0, np.inf, np.nan, np.nan)
    (warned,) = [event for event in an_epoch(events, digits, losses) if isinstance(event, Warned)]
    assert warned.message.startswith(f"the loss is inf from step {step} of epoch {epoch}: ")


@pytest.mark.parametrize("trained", [False, True])
def test_a_class_is_lost_only_by_training(trained, digits):
    events = run_events(digits)
    if trained:
        list(an_epoch(events, digits))
    events.evaluated(evaluation(digits, np.zeros_like(digits.test.labels)), 1.0)
    assert any(isinstance(event, Warned) for event in events.finished()) is trained
