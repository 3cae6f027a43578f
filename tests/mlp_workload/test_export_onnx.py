"""A run as an ONNX model, and what onnxruntime makes of it."""

import dataclasses
import os
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import ROOT, assert_one_line
from safetensors.numpy import save_file
from tolerances import EXPORTED, MODEL_FLOAT64
from warm import python

import jax_mlp.trainer
import reference_torch.train
import reference_torch.trainer
from examples.numpy_side.mlp import forward
from mlp_workload.config import PRESETS
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError
from mlp_workload.export_onnx import Export
from mlp_workload.export_onnx import run as export_run
from mlp_workload.initial import initial_parameters
from mlp_workload.predict import onnx_model
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.weights import load_weights, parameter_shapes, save_weights

WIDTHS = (784, 200, 200, 10)
OTHER = pytest.mark.long("compiles another network")
TRAINERS = {"jax": jax_mlp.trainer.Trainer, "torch": reference_torch.trainer.Trainer}


def export(folder, output):
    export_run(Export(run=folder, output=output))


def outputs(model, images):
    """What onnxruntime computes of images (n, pixels) uint8, by the names of the model's outputs."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def write_run(folder, config, parameters):
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json())
    save_weights(folder / "weights.safetensors", parameters)


@pytest.mark.parametrize(
    ("preset", "last_activation", "dtype"),
    [
        ("leaky", "same", "float32"),
        pytest.param("relu", "same", "float64", marks=OTHER),
        pytest.param("leaky", "same", "float64", marks=OTHER),
        pytest.param("relu", "none", "float32", marks=OTHER),
    ],
)
def test_the_logits_are_those_of_both_trainers(preset, last_activation, dtype, mnist, tmp_path):
    """Of all test images after ten steps; `trace_step` shows a trainer's own logits, of its training set."""
    config = dataclasses.replace(
        PRESETS[preset], last_activation=last_activation, dtype=dtype, epochs=1, batch_size=6000, device="cpu",
        run_dir=tmp_path / "run",
    )  # fmt: skip
    summary = reference_torch.train.train(config, OutputOptions(visdom="off", quiet=True))
    export(tmp_path / "run", tmp_path / "mlp.onnx")
    images = mnist.test.images.reshape(-1, 784)
    (logits,) = outputs(tmp_path / "mlp.onnx", images).values()
    assert logits.shape == (10_000, 10)
    assert logits.dtype == dtype
    assert ((logits < 0).any(), (logits > 0).any()) == (config.logits_activation != "relu", True)

    shown = Dataset("mnist", mnist.test, mnist.test, mnist.class_names)
    parameters = load_weights(tmp_path / "run/weights.safetensors", parameter_shapes(WIDTHS))
    for name, trainer in TRAINERS.items():
        expected = trainer(config, shown, parameters).trace_step(np.arange(10_000, dtype=np.int32))["logits"]
        largest = np.abs(expected).max()
        EXPORTED[dtype].assert_close(logits / largest, expected / largest, name)
    if dtype == "float64":
        assert (logits.argmax(axis=1) == mnist.test.labels).sum() == summary["test_correct"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("hidden", [(), (5,), (3, 4, 5)])
def test_every_tensor_of_any_widths_by_its_name(preset, hidden, digits, tmp_path):
    config = dataclasses.replace(PRESETS[preset], hidden=hidden, dtype="float64", pixel_mean=0.2, pixel_std=0.5)
    parameters = initial_parameters(config.initialization, config.widths(30, 3), seed=2)
    write_run(tmp_path / "run", config, parameters)
    export(tmp_path / "run", tmp_path / "mlp.onnx")
    model = onnx.load(tmp_path / "mlp.onnx")
    images = digits.test.images.reshape(-1, 30)
    inputs = (images / 255 - 0.2) / 0.5
    activations = [config.activation] * len(hidden) + [config.logits_activation]
    expected = forward(parameters, activations, inputs)
    model.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in ("inputs", *expected) if name != "logits"
    )
    computed = outputs(model.SerializeToString(), images)
    for name, array in ({"inputs": inputs} | expected).items():
        MODEL_FLOAT64.assert_close(computed[name], array, name)


def test_what_other_programs_read_of_it(tmp_path):
    config = dataclasses.replace(PRESETS["relu"], dtype="float32")
    parameters = {n: a.astype(np.float32) for n, a in initial_parameters("kaiming_normal", WIDTHS, seed=2).items()}
    write_run(tmp_path / "run", config, parameters)
    export(tmp_path / "run", tmp_path / "mlp.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "mlp.onnx", providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 784])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    model = onnx.load(tmp_path / "mlp.onnx")
    weights = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    for name, array in parameters.items():
        assert weights[name].tobytes() == array.tobytes()
    for batch in (1, 3):
        assert outputs(tmp_path / "mlp.onnx", np.zeros((batch, 784), np.uint8))["logits"].shape == (batch, 10)


@pytest.fixture
def things(tmp_path):
    """Runs, good and bad, and a file that is there."""
    config = dataclasses.replace(PRESETS["leaky"], hidden=(6,), dtype="float64")
    parameters = initial_parameters("torch_linear", (20, 6, 4), seed=1)
    write_run(tmp_path / "good", config, parameters)
    write_run(tmp_path / "wider", dataclasses.replace(config, hidden=(7,)), parameters)
    write_run(tmp_path / "deeper", dataclasses.replace(config, hidden=(6, 6)), parameters)
    write_run(tmp_path / "single", dataclasses.replace(config, dtype="float32"), parameters)
    write_run(tmp_path / "transposed", config, parameters)
    save_file({name: array.T.copy() for name, array in parameters.items()}, tmp_path / "transposed/weights.safetensors")
    for name, content in {"damaged": "{", "other": "[]", "unlike": '{"preset": "relu"}'}.items():
        write_run(tmp_path / name, config, parameters)
        (tmp_path / name / "config.json").write_text(content)
    write_run(tmp_path / "unfinished", config, parameters)
    (tmp_path / "unfinished/weights.safetensors").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.onnx").write_text("mine")
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


WRONG = [
    ("nowhere b.onnx", "nowhere: no such run folder"),
    ("empty b.onnx", "empty: no run there"),
    ("there.onnx b.onnx", "there.onnx: no such run folder"),
    ("damaged b.onnx", "damaged: config.json is damaged"),
    ("other b.onnx", "other: config.json is damaged"),
    ("unlike b.onnx", "unlike: config.json is damaged"),
    ("unfinished b.onnx", "unfinished: the run is not finished; --resume unfinished goes on"),
    ("wider b.onnx", r"layers.0.weight has shape \(6, 20\), expected \(7, 20\)"),
    ("deeper b.onnx", r"layers.2.\w+ is missing"),
    ("transposed b.onnx", r"layers.0.bias has shape \(6,\), but layers.0.weight has \(20, 6\)"),
    ("single b.onnx", "layers.0.weight is float64, but the run's config.json says float32"),
    ("good there.onnx", "OUT there.onnx exists; name a new file"),
    ("good empty", "OUT empty exists; name a new file"),
    ("good nowhere/b.onnx", "cannot write nowhere/b.onnx: No such file"),
    ("good", "required"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments for arguments, _ in WRONG])
def test_bad_input_ends_in_one_line_and_status_2(arguments, message, run, things, tmp_path):
    assert_one_line(run("mlp_workload.export_onnx", *arguments.split()), message)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == things


def test_the_command_says_what_it_wrote(run, things, tmp_path):
    process = run("mlp_workload.export_onnx", "good", "b.onnx")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "b.onnx: images (batch, 20) uint8 to logits (batch, 4) float64\n"
    assert outputs(tmp_path / "b.onnx", np.zeros((2, 20), np.uint8))["logits"].shape == (2, 4)


def test_weights_that_no_such_file_can_hold_are_refused(things, tmp_path, monkeypatch):
    assert onnx_model._LARGEST < 2**31, "a protocol buffer is smaller than 2 GiB"
    monkeypatch.setattr(onnx_model, "_LARGEST", 1000)
    with pytest.raises(UserError, match="GiB of weights are more than an ONNX file can hold"):
        export(tmp_path / "good", tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_without_onnx_one_line_says_how_to_install_it(things, tmp_path):
    script = """
import runpy, sys
sys.modules["onnx"] = None
sys.argv = ["export_onnx", "good", "b.onnx"]
runpy.run_module("mlp_workload.export_onnx", run_name="__main__")
"""
    process = subprocess.run(
        [python(), "-c", script], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    assert_one_line(process, r"onnx is not installed: make setup, or pip install '.\[export\]'")
