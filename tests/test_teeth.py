"""Every planted fault is caught where it was planted; one that is switched off or elsewhere is said not to be."""

import json
import subprocess
import sys

import pytest

from mlp_compare.faults import FAULTS
from mlp_compare.side import Side
from mlp_compare.teeth import bite
from mlp_compare.worker import Worker

PARITY = "mlp_compare.parity"


@pytest.fixture(scope="module")
def bites():
    """Every fault, planted once."""
    with Side("jax", Worker) as one, Side("torch", Worker) as other:
        yield {bite.fault.name: bite for bite in bite(FAULTS.values(), (one, other))}


@pytest.mark.timeout(600)  # the first one plants them all
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_caught_where_it_was_planted(name, bites):
    assert bites[name].caught
    assert bites[name].placed, f"planted at step {FAULTS[name].step}, {FAULTS[name].tensor}: {bites[name].departure}"


def test_there_are_faults_of_all_kinds_on_both_sides():
    assert len(FAULTS) >= 40
    for side in ("jax", "torch"):
        assert sum(fault.side == side for fault in FAULTS.values()) >= 20
    assert sum(fault.dtype == "float32" for fault in FAULTS.values()) >= 5
    tensors = {fault.tensor.rpartition(".")[2] for fault in FAULTS.values()}
    assert tensors >= {"images", "labels", "inputs", "pre_activation", "activation", "logits", "loss", "grad",
                       "momentum", "weight", "losses", "predictions"}  # fmt: skip


def test_a_fault_that_is_switched_off_is_not_caught(packages):
    file = packages / "mlp_compare/faults/update.py"
    source = file.read_text()
    assert '"learning_rate": 0.0101' in source
    file.write_text(source.replace('"learning_rate": 0.0101', '"learning_rate": 0.01'))
    command = [sys.executable, "-m", PARITY, "--teeth", "learning rate 1 % off", "velocity is an average"]
    process = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=240)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "not caught  learning rate 1 % off (jax)" in process.stdout
    assert "caught  velocity is an average (jax): step 1, layers.0.weight.momentum" in process.stdout
    assert "2 faults planted, 1 caught, 1 named where they were planted" in process.stdout


def test_a_fault_that_is_caught_elsewhere_is_misplaced(packages):
    file = packages / "mlp_compare/faults/backward.py"
    source = file.read_text()
    changed = source.replace('name="sum for mean", side="jax", step=1, tensor="loss"',
                             'name="sum for mean", side="jax", step=1, tensor="logits.grad"')  # fmt: skip
    assert changed != source
    file.write_text(changed)
    command = [sys.executable, "-m", PARITY, "--teeth", "sum for mean", "--json", "teeth.json"]
    process = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=240)
    assert process.returncode == 1, process.stdout + process.stderr
    assert "misplaced  sum for mean (jax): planted at step 1, logits.grad, named step 1, loss" in process.stdout
    (row,) = json.loads((packages / "teeth.json").read_text())["faults"]
    assert (row["caught"], row["placed"]) == (True, False)
