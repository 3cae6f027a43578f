"""The example: the fixed port passes, and each mistake is named at its own layer."""

import pytest
from flax import nnx

from examples.port_your_model import compare_models, flax_model, torch_model
from examples.port_your_model.common import Arguments
from twincheck.trace import Trace

COMPILES = pytest.mark.long("compiles the model operation by operation; the command is tried in the other tier")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    arguments = Arguments(folder / "trace", folder / "weights")
    torch_model.main(arguments)
    return arguments


def first(original, folder, mistake="none"):
    arguments = Arguments(folder / "trace", original.weights, mistake)
    flax_model.main(arguments)
    return compare_models.comparison(Trace.load(original.trace), Trace.load(arguments.trace)).first


@COMPILES
def test_the_fixed_port_passes(original, tmp_path):
    assert first(original, tmp_path) is None


@COMPILES
@pytest.mark.parametrize(
    ("mistake", "tensor"),
    [
        ("layer-norm-epsilon", "layer_norm.output"),
        ("gelu-tanh", "gelu.output"),
        ("nhwc-flatten", "flatten.output"),
        ("batch-norm-momentum", "batch_norm.running_mean"),
    ],
)
def test_each_mistake_is_named_at_its_own_layer(original, tmp_path, mistake, tensor):
    assert first(original, tmp_path, mistake).name == tensor


def test_every_mistake_is_in_the_table_above():
    assert len(flax_model.MISTAKES) == 1 + 4


@COMPILES
def test_flaxs_own_batch_norm_is_named_at_the_running_variance(original, tmp_path, monkeypatch):
    monkeypatch.setattr(flax_model, "BatchNorm", nnx.BatchNorm)
    assert first(original, tmp_path).name == "batch_norm.running_var"


@COMPILES
def test_a_wrong_load_is_named_at_the_parameter(original, tmp_path, monkeypatch):
    monkeypatch.setitem(flax_model.PARAMETERS, "layer_norm.scale", ("layer_norm.bias", (0,)))
    assert first(original, tmp_path).name == "layer_norm.weight"


def test_the_fixed_batch_norm_keeps_its_statistics_in_evaluation():
    layer = flax_model.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
    layer.var.set_value(layer.var.get_value() * 5)
    layer(layer.var.get_value()[None].repeat(4, axis=0))
    assert (layer.var.get_value() == 5).all()


@pytest.mark.long("starts both frameworks")
def test_the_command_passes_the_fixed_pair(run):
    result = run("examples.port_your_model.compare_models", python=("-W", "error"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "torch and Flax agree in all 29 tensors\n"


def test_the_command_names_the_first_mismatch(run):
    result = run("examples.port_your_model.compare_models", "--mistake", "gelu-tanh")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("torch and Flax differ first at gelu.output[")
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--mistake", "nonsense"), ("--other",), ("more",)])
def test_a_bad_flag_is_one_line(run, arguments):
    result = run("examples.port_your_model.compare_models", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("python -m examples.port_your_model.compare_models: error: ")
