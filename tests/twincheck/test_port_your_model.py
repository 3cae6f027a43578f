"""The example: the fixed port passes, and each mistake is named."""

import pytest
from flax import nnx

from examples.port_your_model import flax_model
from examples.port_your_model.compare_models import compare

COMPILES = pytest.mark.long("compiles both passes of the port; the command is tried in the other tier")


def found(mistake="none"):
    """Returns the names of the causes."""
    report, training = compare(mistake)
    return [finding.name for finding in report.findings] + (
        [finding.name for finding in training.findings] if training else []
    )


@COMPILES
@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        ("layer-norm-epsilon", "norm-epsilon"),
        ("nhwc-flatten", "nhwc-flatten"),
        ("batch-norm-momentum", "batch-norm-momentum"),
    ],
)
def test_each_mistake_is_named(mistake, cause):
    assert found(mistake) == [cause]


def test_every_mistake_is_in_the_tests_here():
    assert list(flax_model.MISTAKES) == [
        "none", "layer-norm-epsilon", "gelu-tanh", "nhwc-flatten", "batch-norm-momentum",
    ]  # fmt: skip


@COMPILES
def test_flaxs_own_batch_norm_is_named(monkeypatch):
    monkeypatch.setattr(flax_model, "BatchNorm", nnx.BatchNorm)
    assert found() == ["batch-norm-running-variance"]


def test_the_fixed_batch_norm_keeps_its_statistics_in_evaluation():
    layer = flax_model.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
    layer.var.set_value(layer.var.get_value() * 5)
    layer(layer.var.get_value()[None].repeat(4, axis=0))
    assert (layer.var.get_value() == 5).all()


@pytest.mark.long("trains both models")
def test_the_command_passes_the_fixed_pair(run):
    result = run("examples.port_your_model.compare_models", python=("-W", "error"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("the same in all 23 places, forward and backward\n")
    assert "\n5 steps, no mismatch; " in result.stdout


def test_the_command_names_the_cause(run):
    result = run("examples.port_your_model.compare_models", "--mistake", "gelu-tanh")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("not the same model: 1 cause in ")
    assert "\n1. gelu-tanh: " in result.stdout


@pytest.mark.parametrize("arguments", [("--mistake", "nonsense"), ("--other",), ("more",)])
def test_a_bad_flag_is_one_line(run, arguments):
    result = run("examples.port_your_model.compare_models", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("python -m examples.port_your_model.compare_models: error: ")
