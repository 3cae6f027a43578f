"""Which device, with which precision: chosen by one rule in both frameworks, said in every summary, never mixed up."""

import dataclasses
import json
import os
import subprocess

import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from helpers import ROOT, assert_one_line, trainers
from tolerances import PRODUCTS_FLOAT32
from warm import python

import jax_mlp.device
import jax_mlp.model
import reference_torch.device
import reference_torch.model
from mlp_compare.comparable import require_comparable
from mlp_workload.config import PRESETS, Config
from mlp_workload.environment.description import nvidia_driver
from mlp_workload.environment.variables import set_variables
from mlp_workload.errors import UserError

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
FIND = {"jax": jax_mlp.device.find_device, "torch": reference_torch.device.find_device}
each_framework = pytest.mark.parametrize("framework", FIND)


@trainers
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gpu 0", r"error: --gpu 0: (JAX|torch) sees none"),
        ("--gpu -1", r"error: --gpu must be a number from 0 on, got -1"),
        ("--gpu 1 --device cpu", r"error: --gpu must be left out with --device cpu, got 1"),
        ("--matmul-precision tf32", r"error: --matmul-precision tf32 is for GPUs since Ampere, and this is cpu"),
        ("--matmul-precision bf16 --device cpu", r"--matmul-precision must be highest with --device cpu, got bf16"),
        ("--matmul-precision bf16 --dtype float64", r"error: --matmul-precision must be highest for float64, got bf16"),
    ],
)  # fmt: skip
def test_what_the_machine_does_not_have_is_one_line(trainer, flags, message, run, tmp_path):
    if torch.cuda.is_available() and "must" not in message:
        pytest.skip("is about machines without a GPU")
    assert_one_line(run(trainer, *flags.split()), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("framework", ["jax_mlp.train", "reference_torch.train"])
def test_the_device_and_the_precision_are_in_the_summary(framework, run, small, tmp_path):
    flags = [*small, "--epochs", "0", "--device", "cpu", "--visdom", "off", "--quiet", "--run-dir", "run"]
    assert run(framework, *flags).returncode == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["device"], summary["precision"], summary["peak_gpu_bytes"]) == ("cpu", "IEEE float32", None)


@pytest.mark.parametrize("preset", PRESETS)
def test_torchs_bf16_products_round_operands_and_nothing_else(preset):
    """Forward and backward, against products of rounded operands in float64."""
    config = dataclasses.replace(PRESETS[preset], matmul_precision="bf16", hidden=(), last_activation="none")
    model = reference_torch.model.build_model(config, (40, 7))
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradient = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    logits = model(x)
    logits.backward(gradient)
    weight, bias = model.parameters()
    x16, w16, g16 = (tensor.detach().bfloat16().double() for tensor in (x, weight, gradient))
    for found, expected in (
        (logits, x16 @ w16.t() + bias.double()),
        (weight.grad, g16.t() @ x16),
        (x.grad, g16 @ w16),
        (bias.grad, gradient.double().sum(dim=0)),
    ):
        assert found.dtype == torch.float32
        PRODUCTS_FLOAT32.assert_close(found.detach().double(), expected.detach())


PRODUCT = {
    "tf32": ("lhs_precision_type = tf32", "rhs_precision_type = tf32", "accumulation_type = f32"),
    "bf16": ("lhs_precision_type = bf16", "rhs_precision_type = bf16", "accumulation_type = f32"),
}


@pytest.mark.parametrize("precision", PRODUCT)
def test_every_product_of_jax_asks_a_gpu_for_the_precision(precision):
    """Forward and backward, as it is lowered for a GPU, which none needs to be there for."""
    config = Config(matmul_precision=precision, hidden=(6, 6))
    graph, params = nnx.split(jax_mlp.model.build_model(config, (20, 6, 6, 4)))
    gradient = jax.jit(jax.grad(lambda params, x: nnx.merge(graph, params)(x).sum()))
    lowered = gradient.trace(params, jnp.zeros((2, 20), jnp.float32)).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 8
    assert all(part in line for line in products for part in PRODUCT[precision])


class FakeDevice:
    """A GPU as JAX shows it, for what is decided before anything is computed."""

    platform, compute_capability = "cuda", "9.0"

    def __init__(self, number, device_kind):
        self.number, self.device_kind = number, device_kind


@pytest.fixture
def two_gpus(monkeypatch):
    """Seen by both frameworks, the second older than TF32."""
    devices = [FakeDevice(0, "NVIDIA H100"), FakeDevice(1, "Tesla T4")]
    devices[1].compute_capability = "7.5"
    monkeypatch.setattr(jax, "devices", lambda platform=None: devices)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: devices[device.index].device_kind)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability",
        lambda device: tuple(map(int, devices[device.index].compute_capability.split("."))),
    )  # fmt: skip
    chosen = []
    yield chosen
    torch.set_float32_matmul_precision("highest")


def test_the_gpu_that_is_asked_for_is_taken_and_named_alike(two_gpus):
    for gpu, name in ((None, "gpu (NVIDIA H100)"), (0, "gpu (NVIDIA H100)"), (1, "gpu (Tesla T4)")):
        device = jax_mlp.device.find_device(Config(gpu=gpu))
        other = reference_torch.device.find_device(Config(gpu=gpu))
        assert (device.number, other.index) == (gpu or 0, gpu or 0)
        assert jax_mlp.device.device_name(device) == reference_torch.device.device_name(other) == name
    assert two_gpus == [0, 0, 1], "torch makes its streams there"
    for find in FIND.values():
        with pytest.raises(UserError, match=r"--gpu 2: .* sees 2, counted from 0"):
            find(Config(gpu=2))


@pytest.mark.parametrize(("precision", "in_torch"), [("highest", "highest"), ("tf32", "high"), ("bf16", "high")])
def test_torch_is_told_the_precision(precision, in_torch, two_gpus):
    """Whatever the process computed with before."""
    torch.set_float32_matmul_precision("medium")
    reference_torch.device.find_device(Config(matmul_precision=precision))
    assert torch.get_float32_matmul_precision() == in_torch


@each_framework
def test_a_gpu_without_tf32_is_refused_by_name(framework, two_gpus):
    FIND[framework](Config(gpu=0, matmul_precision="tf32"))
    with pytest.raises(UserError, match=r"tf32 is for GPUs since Ampere, and this is gpu \(Tesla T4\)"):
        FIND[framework](Config(gpu=1, matmul_precision="tf32"))
    FIND[framework](Config(gpu=1))


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
        [python(), "-c", script], env=environment | {"PYTHONPATH": str(ROOT)} | variables,
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


def test_it_is_said_before_jax_begins(monkeypatch):
    """Its backend reads them once."""
    began_with = {}
    monkeypatch.setattr(
        jax, "devices", lambda platform=None: began_with.update(os.environ) or [FakeDevice(0, "NVIDIA H100")]
    )
    monkeypatch.setattr(jax_mlp.device, "backend_has_begun", lambda: False)
    for name in ("XLA_FLAGS", *set_variables("memory")):
        monkeypatch.delenv(name, raising=False)
    jax_mlp.device.find_device(Config(deterministic=True))
    assert began_with["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert began_with["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"
    monkeypatch.setattr(jax_mlp.device, "backend_has_begun", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delenv("XLA_FLAGS")
    with pytest.raises(UserError, match="JAX has started without XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        jax_mlp.device.find_device(Config(deterministic=True))


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
        ("--xla_gpu_deterministic_ops --xla_gpu_deterministic_ops=0", "--xla_gpu_deterministic_ops=0"),
        ("flags.txt", "flags.txt"),
        ("--xla_gpu_deterministic_ops=false --xla_gpu_deterministic_ops=true", None),
        ("--xla_gpu_deterministic_ops", None),
    ],
)
def test_what_the_user_says_of_determinism_is_kept_or_refused(flags, refused, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    if refused is None:
        jax_mlp.device.find_device(Config(device="cpu", deterministic=True))
    else:
        with pytest.raises(UserError, match=f"--deterministic: XLA_FLAGS says {refused}$"):
            jax_mlp.device.find_device(Config(device="cpu", deterministic=True))
    assert os.environ["XLA_FLAGS"] == flags
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG is :0:0, not :4096:8 or :16:8"):
        reference_torch.device.find_device(Config(device="cpu", deterministic=True))


def test_the_driver_is_named_for_both_kinds_of_module(tmp_path):
    file = tmp_path / "version"
    for text in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (user@host)\n",
    ):
        file.write_text(text)
        assert nvidia_driver(file) == "550.54.15"
    assert nvidia_driver(tmp_path / "nowhere") is None


def test_what_makes_torch_deterministic_is_set():
    more = "import torch; assert torch.are_deterministic_algorithms_enabled()"
    process = begun("reference_torch", True, more)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@NO_GPU
def test_a_platform_that_is_not_installed_is_one_line(run):
    assert_one_line(run("jax_mlp.train", env={"JAX_PLATFORMS": "cuda"}), r"error: --device auto: JAX sees none \(")


def test_unlike_rows_are_not_compared():
    """CASES: a CPU's result beside a GPU's, TF32 beside IEEE: refused, with the two settings named."""

    def row(device, precision="IEEE float32"):
        return {"device": device, "precision": precision}

    require_comparable({"jax": row("gpu (NVIDIA H200)"), "torch": row("gpu (NVIDIA H200)")})
    with pytest.raises(UserError, match=r"their device differs: jax on cpu, torch on gpu \(NVIDIA H200\); .*--device"):
        require_comparable({"jax": row("cpu"), "torch": row("gpu (NVIDIA H200)")})
    with pytest.raises(UserError, match=r"their precision differs: jax by TF32, torch by IEEE float32; .*--matmul-pre"):
        require_comparable({"jax": row("cpu", "TF32"), "torch": row("cpu")})


STARTS = pytest.mark.long("starts the frameworks in processes of their own first")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("mlp_compare.parity", "--matmul-precision bf16", "parity is checked with highest"),
        pytest.param("mlp_compare.parity", "--gpu 0 --steps 1", "--gpu 0: (JAX|torch) sees none", marks=STARTS),
        pytest.param("mlp_compare.accuracy", "--device gpu --seeds 2", "--device gpu: JAX sees none", marks=STARTS),
        ("mlp_compare.bench", "--gpu -1", "--gpu must be a number from 0 on, got -1"),
        ("reference_torch.tutorial", "module --gpu 0", "--gpu 0: torch sees none"),
    ],
)
@NO_GPU
def test_commands_beside_the_trainers_have_the_same_rule(module, arguments, message, run):
    assert_one_line(run(module, *arguments.split()), message)
