"""Every planted fault is caught where it was planted; a fault that is switched off or found elsewhere is reported."""

import dataclasses
import json
import multiprocessing.spawn

import pytest
import torch
from in_process import run_parity
from warm import python

from mlp_compare.parity import self_test
from mlp_compare.parity.faults import FAULTS
from mlp_compare.parity.faults.fault import replaced, wrapped
from mlp_compare.parity.result import Mismatch
from mlp_compare.parity.worker import Worker
from twincheck.comparison import Difference
from twincheck.pipe import WorkerProcess

FIRST = (
    "one label off by one", "lowest bit of one pixel flipped", "losses of the compiled epoch nan in float32",
    "square weight transposed, in and out",
    "slope 0.011", "a bias left out",
    "sum for mean", "one entry of a gradient dropped",
    "one gradient 1.1 of itself after ReLU sign flips",
    "learning rate 0.01 % off", "momentum 0.90001",
    "Adam's epsilon inside the root", "decay coupled in AdamW",
    "one sure prediction wrong", "last test examples dropped",
)  # fmt: skip
"""Faults planted by `make test`: some of each kind and side."""


@pytest.fixture(scope="module")
def sides():
    interpreter = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(python())
    with WorkerProcess("jax", Worker) as jax, WorkerProcess("torch", Worker) as torch:
        multiprocessing.set_executable(interpreter)
        yield jax, torch


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FIRST else pytest.mark.long("plants four dozen more")) for name in FAULTS],
)
def test_each_fault_is_caught_where_it_was_planted(name, sides, mnist, monkeypatch):
    monkeypatch.setattr(self_test, "load", lambda _: mnist)
    (result,) = self_test.self_test([FAULTS[name]], sides)
    assert result.caught
    assert result.located, f"planted at step {result.fault.step}, {result.fault.tensor}: {result.mismatch}"


def test_the_first_are_among_them():
    assert set(FIRST) <= set(FAULTS)
    assert {FAULTS[name].side for name in FIRST} == {"jax", "torch"}


def test_there_are_faults_of_all_kinds_on_both_sides():
    assert len(FAULTS) >= 40
    for side in ("jax", "torch"):
        assert sum(fault.side == side for fault in FAULTS.values()) >= 20
    assert sum(fault.dtype == "float32" for fault in FAULTS.values()) >= 5
    tensors = {fault.tensor.rpartition(".")[2] for fault in FAULTS.values()}
    assert tensors >= {"images", "labels", "inputs", "pre_activation", "activation", "logits", "loss", "grad",
                       "momentum", "weight", "losses", "predictions"}  # fmt: skip


def test_a_fault_that_is_switched_off_is_not_caught(monkeypatch, capsys):
    right = dataclasses.replace(FAULTS["learning rate 0.01 % off"], flags={"learning_rate": 0.01})
    monkeypatch.setitem(FAULTS, right.name, right)
    assert run_parity(monkeypatch, "--self-test", right.name, "one gradient transposed") == 1
    output = capsys.readouterr().out
    assert "not caught  learning rate 0.01 % off (torch)" in output
    assert "caught  one gradient transposed (torch): step 1, layers.1.weight.grad" in output
    assert "2 faults planted, 1 caught, 1 located where they were planted" in output


def test_a_fault_that_is_caught_elsewhere_is_not_located(tmp_path, monkeypatch, capsys):
    fault = dataclasses.replace(FAULTS["sum for mean"], tensor="logits.grad")
    monkeypatch.setitem(FAULTS, fault.name, fault)
    assert run_parity(monkeypatch, "--self-test", fault.name, "--json", str(tmp_path / "faults.json")) == 1
    line = "caught elsewhere  sum for mean (jax): planted at step 1, logits.grad, named step 1, loss"
    assert line in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "faults.json").read_text())["faults"]
    assert (row["caught"], row["located"]) == (True, False)


@pytest.mark.parametrize(
    ("later", "tensor", "located"), [(0, "loss", True), (1, "loss", False), (-1, "loss", False), (0, "logits", False)]
)
def test_a_fault_is_located_by_its_step_and_its_tensor(later, tensor, located):
    fault = dataclasses.replace(FAULTS["sum for mean"], step=2, tensor="loss")
    mismatch = Mismatch(2 + later, Difference(tensor, (), 0.0, 1.0, 1.0, 1.0, 1.0, 0.0))
    assert self_test.FaultResult(fault, mismatch).located == located


@pytest.mark.parametrize("name", ["argmax", "__repr__"], ids=["inherited", "own"])
def test_a_method_that_a_fault_replaced_is_itself_again(name):
    before = dict(vars(torch.Tensor))
    with replaced(f"torch:Tensor.{name}", lambda original: (name, original))():
        assert getattr(torch.Tensor, name)[0] == name
    assert dict(vars(torch.Tensor)) == before


def test_a_wrapper_gets_the_original_and_all_arguments():
    x = torch.tensor([[3.0, 1.0, 2.0]])
    with wrapped("torch:Tensor.argmax", lambda right, x, dim: right(-x, dim=dim))():
        assert x.argmax(dim=-1).tolist() == [1]
    assert x.argmax(dim=-1).tolist() == [0]
