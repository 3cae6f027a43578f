"""Which device, with which precision: chosen by one rule in both frameworks, said in every summary, never mixed up."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import ROOT
from flax import nnx
from test_commands import assert_one_line, trainer

import jax_mlp.device
import jax_mlp.model
import reference_torch.device
from mlp_compare.alike import require_alike
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
FIND = {"jax": jax_mlp.device.find_device, "torch": reference_torch.device.find_device}
each_framework = pytest.mark.parametrize("framework", FIND)


@trainer
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gpu 0", r"error: --gpu 0: (JAX|torch) sees none"),
        ("--gpu -1", r"error: --gpu must be a number from 0 on, got -1"),
        ("--gpu 1 --device cpu", r"error: --gpu must be left out with --device cpu, got 1"),
        ("--matmul-precision tf32", r"error: --matmul-precision tf32 is for GPUs, and this is a CPU"),
        ("--matmul-precision bf16 --dtype float64", r"error: --matmul-precision must be highest for float64, got bf16"),
    ],
)  # fmt: skip
def test_what_the_machine_does_not_have_is_one_line(trainer, flags, message, run, tmp_path):
    if torch.cuda.is_available() and "must" not in message:
        pytest.skip("is about machines without a GPU")
    assert_one_line(run(trainer, *flags.split()), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("framework", ["jax_mlp.train", "reference_torch.train"])
def test_the_device_and_the_precision_are_in_every_summary(framework, run, tmp_path):
    ends = {}
    for precision in ("highest", "bf16"):
        flags = ["--epochs", "1", "--device", "cpu", "--matmul-precision", precision, "--visdom", "off", "--quiet"]
        assert run(framework, *flags, "--run-dir", precision).returncode == 0
        ends[precision] = json.loads((tmp_path / precision / "summary.json").read_text())
    assert [end["device"] for end in ends.values()] == ["cpu", "cpu"]
    assert [end["precision"] for end in ends.values()] == ["IEEE float32", "bfloat16"]
    losses = [end["test_loss"] for end in ends.values()]
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.02 * losses[0]


@each_framework
def test_bf16_is_of_the_products_alone(framework, digits):
    """Weights and losses stay float32, and both frameworks round alike: they end nearer to each other than to IEEE."""
    config = dataclasses.replace(PRESETS["leaky"], matmul_precision="bf16", batch_size=20, learning_rate=0.1)
    order = np.arange(103, dtype=np.int32)
    trainers = {name: make_trainer(name, config, digits) for name in FIND}
    exact = make_trainer(framework, dataclasses.replace(config, matmul_precision="highest"), digits)
    start = exact.parameters()
    losses = {}
    for name, one in (trainers | {"exact": exact}).items():
        one.load_state(start)
        losses[name] = one.run_epoch(order)
        assert losses[name].dtype == np.float32
        assert one.evaluate().losses.dtype == np.float32
        assert {array.dtype for array in one.parameters().values()} == {np.dtype(np.float32)}
    between, to_ieee = (
        np.abs(losses["jax"] - losses["torch"]).max(),
        np.abs(losses[framework] - losses["exact"]).max(),
    )
    assert 0 < to_ieee < 0.05
    assert between < 2 * to_ieee


def make_trainer(framework, config, dataset):
    from jax_mlp.trainer import Trainer as Jax
    from reference_torch.trainer import Trainer as Torch

    return {"jax": Jax, "torch": Torch}[framework](config, dataset, None)


def test_every_product_of_jax_asks_a_gpu_for_tf32():
    """Forward and backward, as it is lowered for a GPU, which none needs to be there for."""
    config = Config(matmul_precision="tf32", hidden=(6, 6))
    graph, params = nnx.split(jax_mlp.model.build_model(config, (20, 6, 6, 4)))
    gradient = jax.jit(jax.grad(lambda params, x: nnx.merge(graph, params)(x).sum()))
    lowered = gradient.trace(params, jnp.zeros((2, 20), jnp.float32)).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 8
    assert all("lhs_precision_type = tf32" in line and "accumulation_type = f32" in line for line in products)


def test_torch_is_told_the_precision():
    reference_torch.device.find_device(Config(device="cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    torch.set_float32_matmul_precision("high")
    reference_torch.device.find_device(Config(device="cpu"))
    assert torch.get_float32_matmul_precision() == "highest", "a run does not depend on what the process did before"


BEGIN = """
import json, os, sys
from mlp_workload.config import Config
from {package}.device import find_device

find_device(Config(device="cpu", deterministic={deterministic}))
{more}
print(json.dumps(dict(os.environ)))
"""


def begun(package, deterministic, more="", **variables):
    """The environment of a process whose framework has begun."""
    script = BEGIN.format(package=package, deterministic=deterministic, more=more)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, {"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}),
    ],
)
def test_jax_takes_memory_as_it_needs_it_unless_the_user_says_otherwise(variables, expected):
    process = begun("jax_mlp", False, **variables)
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)
    assert {name: value for name, value in said.items() if name.startswith("XLA_")} == expected


def test_what_makes_jax_deterministic_is_set_before_it_begins():
    process = begun("jax_mlp", True, XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert process.returncode == 0, process.stderr
    flags = json.loads(process.stdout)["XLA_FLAGS"].split()
    assert flags == ["--xla_cpu_enable_fast_math=false", "--xla_gpu_deterministic_ops=true"]
    contradicted = begun("jax_mlp", True, XLA_FLAGS="--xla_gpu_deterministic_ops=false")
    assert "UserError: --deterministic: XLA_FLAGS says --xla_gpu_deterministic_ops=false" in contradicted.stderr


def test_what_makes_torch_deterministic_is_set():
    more = "import torch; assert torch.are_deterministic_algorithms_enabled()"
    process = begun("reference_torch", True, more)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_unlike_rows_are_not_compared():
    """CASES: a CPU's result beside a GPU's, TF32 beside IEEE: refused, with the two settings named."""

    def row(device, precision="IEEE float32"):
        return {"device": device, "precision": precision}

    require_alike({"jax": row("gpu (NVIDIA H200)"), "torch": row("gpu (NVIDIA H200)")})
    with pytest.raises(UserError, match=r"their device differs: jax on cpu, torch on gpu \(NVIDIA H200\); .*--device"):
        require_alike({"jax": row("cpu"), "torch": row("gpu (NVIDIA H200)")})
    with pytest.raises(UserError, match=r"their precision differs: jax by TF32, torch by IEEE float32; .*--matmul-pre"):
        require_alike({"jax": row("cpu", "TF32"), "torch": row("cpu")})


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("mlp_compare.parity", "--matmul-precision bf16", "parity is checked with highest"),
        ("mlp_compare.parity", "--gpu 0 --steps 1", "--gpu 0: (JAX|torch) sees none"),
        ("mlp_compare.accuracy", "--device gpu --seeds 2", "--device gpu: JAX sees none"),
        ("mlp_compare.bench", "--gpu -1", "--gpu must be a number from 0 on, got -1"),
        ("reference_torch.article", "module --gpu 0", "--gpu 0: torch sees none"),
    ],
)
@NO_GPU
def test_commands_beside_the_trainers_have_the_same_rule(module, arguments, message, run):
    assert_one_line(run(module, *arguments.split()), message)
