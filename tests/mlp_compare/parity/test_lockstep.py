"""The lockstep's judgement in the cases that the command can't be brought to at will: both sides in this process."""

import contextlib
import dataclasses

import numpy as np
import pytest
from helpers import write_idx_folder
from in_process import InProcess

import reference_torch.trainer
from mlp_compare.parity import bound_table
from mlp_compare.parity.faults import FAULTS
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.result import MismatchFound
from mlp_compare.parity.worker import Evaluated, FreeRun, Worker
from mlp_workload.config import PRESETS
from mlp_workload.errors import UserError


def check(digits, folder, steps, **settings):
    """The report of a run on small data in which no step is traced unless something is wrong."""
    source = write_idx_folder(folder, digits)
    small = {"dataset": source, "hidden": (8, 8), "batch_size": 20, "device": "cpu"}
    config = dataclasses.replace(PRESETS["leaky"], **small | settings)
    with InProcess("jax") as one, InProcess("torch") as other:
        lockstep = Lockstep(config, digits, [one, other], steps)
        assert list(lockstep.run((), evaluate=False, free_runs=False))
    return lockstep.report


def test_a_fault_that_does_not_come_back_in_a_repetition_is_named(digits, tmp_path, monkeypatch):
    """From common parameters the repeated step is clean: what is left is to look at the step as it was."""
    original, calls = reference_torch.trainer.Trainer.trace_step, []

    def trace_step(trainer, batch):
        calls.append(batch)
        with FAULTS["one entry of a gradient dropped"].plant() if len(calls) == 3 else monkeypatch.context():
            return original(trainer, batch)

    monkeypatch.setattr(reference_torch.trainer.Trainer, "trace_step", trace_step)
    mismatch = check(digits, tmp_path, 5, dtype="float64").mismatch
    assert mismatch is not None
    assert (mismatch.step, mismatch.difference.name) == (3, "layers.1.bias.grad")


def test_without_a_fault_there_is_no_mismatch(digits, tmp_path):
    report = check(digits, tmp_path, 5, dtype="float64")
    assert report.mismatch is None
    assert report.steps_compared == 5
    assert not report.drifts


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_large_update_widens_the_bound_of_what_it_changes(sign):
    """An update is as wrong as the gradient it comes from, however small the parameters are."""
    table = bound_table.table("float32", 784)
    before = {"layers.0.weight": np.zeros((2, 3), np.float32), "layers.0.weight.momentum": np.zeros(1, np.float32)}
    after = np.full((2, 3), sign * 10, np.float32)
    bound = Lockstep._bound(table, "layers.0.weight", after, before)
    assert bound.absolute == pytest.approx(10 * table["gradients"].relative)
    assert bound.relative == table["parameters"].relative
    assert Lockstep._bound(table, "layers.0.weight", before["layers.0.weight"], before) == table["parameters"]
    assert Lockstep._bound(table, "layers.0.weight.momentum", after, before) == table["momentums"]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.long("compiles all again"))])
def test_adam_agrees(dtype, mnist):
    """In float32 only if what the rule makes of rounding in the moments is taken off."""
    config = dataclasses.replace(PRESETS["leaky"], device="cpu", dtype=dtype, optimizer="adam", learning_rate=0.001)
    with InProcess("jax") as one, InProcess("torch") as other:
        lockstep = Lockstep(config, mnist, [one, other], 2)
        assert list(lockstep.run((), evaluate=False, free_runs=False))
    report = lockstep.report
    assert report.mismatch is None, str(report.mismatch)
    assert not report.drifts
    assert {"first_moments", "second_moments", "optimizer"} <= report.worst.keys()


@pytest.mark.parametrize(
    ("settings", "terms"),
    [({"batch_size": 800}, 800), ({"hidden": (900,)}, 900), ({"hidden": (), "batch_size": 1}, 784)],
)
def test_the_longest_sum_makes_the_bounds(settings, terms, mnist):
    lockstep = Lockstep(dataclasses.replace(PRESETS["leaky"], **settings), mnist, [], 4)
    assert lockstep.table() == bound_table.table("float32", terms)


class Other(Worker):
    """A worker of torch on another device, or that starts from other weights."""

    device, apart = "cpu", 0.0

    def start(self, config, fault):
        return {name: array + self.apart for name, array in super().start(config, fault).items()}

    def facts(self):
        return super().facts() | {"device": self.device}


def begin(digits, folder):
    """A run of one step whose second side is `Other`; the report."""
    config = dataclasses.replace(PRESETS["leaky"], dataset=write_idx_folder(folder, digits), hidden=(8,), device="cpu")
    config = dataclasses.replace(config, batch_size=20)
    with InProcess("jax") as one, InProcess("torch", Other) as other:
        lockstep = Lockstep(config, digits, [one, other], 1)
        assert not list(lockstep.run((), evaluate=False, free_runs=False))
    return lockstep.report


def test_sides_that_start_apart_are_a_mismatch_before_the_first_step(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Other, "apart", 1e-3)
    mismatch = begin(digits, tmp_path).mismatch
    assert (mismatch.step, mismatch.phase) == (0, "start")


def test_sides_on_different_devices_are_not_compared(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Other, "device", "gpu (A)")
    with pytest.raises(UserError, match="their device differs: jax on cpu, torch on gpu"):
        begin(digits, tmp_path)


def evaluated(predictions, margins):
    labels = np.array([0, 1, 2, 3])
    tensors = {"evaluation.labels": labels, "evaluation.losses": np.ones(4)}
    correct = np.array((np.array(predictions) == labels).sum())
    tensors |= {"evaluation.predictions": np.array(predictions), "evaluation.correct": correct}
    return Evaluated(tensors, np.array(margins))


def test_a_near_tie_counts_for_neither_side(digits):
    lockstep = Lockstep(PRESETS["leaky"], digits, [], 4)
    table = lockstep.table()
    near = table["evaluation.losses"].relative
    one = evaluated([0, 1, 2, 3], [5.0, near, 5.0, 5.0])
    lockstep._compare_evaluations(3, one, evaluated([0, 2, 2, 3], [5.0, near, 5.0, 5.0]), table)
    assert lockstep.report.near_ties == ["step 3, test example 1"]
    assert lockstep.report.correct == {3: (4, 3)}
    with pytest.raises(MismatchFound, match=r"evaluation\.predictions"):
        lockstep._compare_evaluations(3, one, evaluated([0, 2, 2, 3], [5.0] * 4), table)


class FreeSide:
    """A side whose own epochs had these losses and so many steps."""

    def __init__(self, losses, count):
        self.name = "side"
        right = evaluated([0, 1, 2, 3], [5.0] * 4)
        self._run = FreeRun(np.array(losses, np.float32), {"optimizer.step": np.array(count)}, right)

    def do(self, method, steps):
        return self._run


@pytest.mark.parametrize(
    ("losses", "count", "named"),
    [
        ([3.0, 2.0, 7.0], 3, None),
        ([3.0, 4.0, 1.0], 3, "epochs.loss"),
        ([3.0, 2.0, np.nan], 3, "epochs.loss"),
        ([3.0, 2.0, 1.0], 2, "epochs.optimizer.step"),
    ],
    ids=["apart after the flip", "apart before it", "nan", "other counts"],
)
def test_own_epochs_must_agree_up_to_the_first_sign_flip_and_in_their_counts(losses, count, named, digits):
    lockstep = Lockstep(PRESETS["leaky"], digits, [FreeSide([3.0, 2.0, 1.0], 3), FreeSide(losses, count)], 3)
    lockstep._rebased_at = 2
    lockstep.report.losses = [(3.0, 3.0), (2.0, 2.0), (1.0, 1.0)]
    with pytest.raises(MismatchFound, match=named) if named else contextlib.nullcontext():
        lockstep._run_freely({"optimizer.step": np.array(3)})


@pytest.mark.parametrize(("rebased_at", "apart"), [(None, [1, 2, 3, 4]), (3, [1, 2, 3, 1]), (1, [1, 1, 1, 1])])
def test_the_steps_apart_are_counted_up_to_the_first_from_which_both_go_on_as_one(rebased_at, apart, digits):
    lockstep = Lockstep(PRESETS["leaky"], digits, [], 4)
    lockstep._rebased_at = rebased_at
    assert [lockstep._steps_apart(step) for step in (1, 2, 3, 4)] == apart


def test_only_adam_drifts_further_in_float64():
    row = "parameters"
    assert bound_table.table("float64", 784, 100)[row].absolute == bound_table.DRIFT_FLOAT64
    common = bound_table.table("float64", 784, 1, adaptive_rate=1e5)
    assert common[row].absolute == bound_table.DRIFT_FLOAT64
    assert common["second_moments"].absolute < 1e-300, "a small second moment makes as large an update as a large one"
    adaptive = bound_table.table("float64", 784, 3000, adaptive_rate=1e5)
    assert 9e-13 < adaptive[row].absolute < 1e-12
    assert bound_table.table("float64", 784, 3000, adaptive_rate=1e6)[row].absolute == 10 * adaptive[row].absolute


def test_the_error_of_a_square_is_twice_that_of_the_gradient():
    table = bound_table.table("float32", 784)
    assert table["first_moments"].relative == table["gradients"].relative
    assert table["second_moments"].relative == 2 * table["gradients"].relative
