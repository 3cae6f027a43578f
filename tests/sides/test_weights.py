"""Parameters by their canonical names: files, and both frameworks' own forms."""

import contextlib

import numpy as np
import pytest
import torch
from flax import nnx
from helpers import as_bytes
from safetensors.numpy import save_file

import jax_mlp.model
import jax_mlp.weights
import reference_torch.model
import reference_torch.weights
from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.run.inputs import initial_weights
from mlp_workload.weights import load_weights, parameter_shapes, save_weights

WIDTHS = (20, 6, 6, 4)
SHAPES = parameter_shapes(WIDTHS)


@pytest.fixture
def parameters():
    return initial_parameters("torch_linear", WIDTHS, seed=1)


def test_shapes():
    assert SHAPES == {
        "layers.0.weight": (6, 20),
        "layers.0.bias": (6,),
        "layers.1.weight": (6, 6),
        "layers.1.bias": (6,),
        "layers.2.weight": (4, 6),
        "layers.2.bias": (4,),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_returns_the_bytes(parameters, dtype, tmp_path):
    parameters = {name: array.astype(dtype) for name, array in parameters.items()}
    save_weights(tmp_path / "w.safetensors", parameters)
    assert as_bytes(load_weights(tmp_path / "w.safetensors", SHAPES)) == as_bytes(parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_transposed_view_is_saved_as_it_looks(parameters, tmp_path):
    """safetensors writes an array's memory, whatever its strides: a view must be made contiguous first."""
    weight = parameters["layers.1.weight"]
    save_weights(tmp_path / "w.safetensors", parameters | {"layers.1.weight": weight.T.copy().T})
    assert (load_weights(tmp_path / "w.safetensors", SHAPES)["layers.1.weight"] == weight).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.1.bias": None}, "layers.1.bias is missing"),
        ({"layers.3.bias": np.zeros(4)}, "layers.3.bias is not a parameter of this model"),
        ({"layers.0.weight": np.zeros((20, 6))}, r"layers.0.weight has shape \(20, 6\), expected \(6, 20\)"),
        ({"layers.0.bias": np.zeros(6, np.int64)}, "layers.0.bias is int64, expected float32 or float64"),
        ({"layers.2.bias": np.array([0, 0, np.nan, 0])}, r"layers.2.bias holds nan at \(2,\)"),
        ({"layers.1.weight": np.full((6, 6), np.inf)}, r"layers.1.weight holds inf at \(0, 0\)"),
    ],
)
def test_a_wrong_file_is_refused_by_the_tensors_name(parameters, change, message, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({name: array for name, array in (parameters | change).items() if array is not None}, path)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        load_weights(path, SHAPES)


def test_a_damaged_or_missing_file_is_refused(parameters, tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, parameters)
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[:50], whole[:-1], whole + b"x", b"\xff" * 100, b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            load_weights(path, SHAPES)
    for other in (tmp_path / "none", tmp_path, tmp_path / (300 * "x")):
        with pytest.raises(UserError, match=str(other)):
            load_weights(other, SHAPES)


def test_bfloat16_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}, tmp_path / "w")
    with pytest.raises(UserError, match="w: "):
        load_weights(tmp_path / "w", SHAPES)


@pytest.mark.parametrize("preset", ["relu", "leaky"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_in_and_out_of_each_framework_returns_the_bytes(parameters, preset, dtype):
    parameters = {name: array.astype(dtype) for name, array in parameters.items()}
    config = Config(preset=preset, dtype=dtype)
    module = jax_mlp.model.build_model(config, WIDTHS)
    jax_mlp.weights.load_canonical(module, parameters)
    assert as_bytes(jax_mlp.weights.to_canonical(nnx.state(module))) == as_bytes(parameters)
    model = reference_torch.model.build_model(config, WIDTHS)
    reference_torch.weights.load_canonical(model, parameters)
    assert as_bytes(reference_torch.weights.to_canonical(model)) == as_bytes(parameters)


@pytest.mark.parametrize("side", [jax_mlp, reference_torch])
def test_what_is_loaded_is_a_copy(side):
    """JAX would take over an array whose memory is aligned, torch any."""
    parameters = {}
    for name, shape in SHAPES.items():
        buffer = np.zeros(np.prod(shape) + 8)
        start = -buffer.ctypes.data % 64 // 8
        parameters[name] = buffer[start : start + np.prod(shape)].reshape(shape)
    model = side.model.build_model(Config(dtype="float64"), WIDTHS)
    side.weights.load_canonical(model, parameters)
    for array in parameters.values():
        array[...] = 1
    loaded = side.weights.to_canonical(nnx.state(model) if side is jax_mlp else model)
    assert all((array == 0).all() for array in loaded.values())


def test_a_number_too_large_for_the_runs_dtype_is_refused(parameters, tmp_path):
    parameters["layers.1.bias"][2] = 1e300
    save_weights(tmp_path / "w.safetensors", parameters)
    assert load_weights(tmp_path / "w.safetensors", SHAPES, "float64")["layers.1.bias"][2] == 1e300
    with pytest.raises(UserError, match=r"w.safetensors in float32: layers.1.bias holds inf at \(2,\)"):
        load_weights(tmp_path / "w.safetensors", SHAPES, "float32")


def test_weights_are_stored_as_in_the_file(parameters):
    module = jax_mlp.model.build_model(Config(dtype="float64"), WIDTHS)
    jax_mlp.weights.load_canonical(module, parameters)
    assert (np.asarray(module.layers[1].weight[...]) == parameters["layers.1.weight"]).all()


def test_a_state_dict_of_the_parameters_has_their_bytes():
    model = reference_torch.model.MLP(Config(), WIDTHS)
    state = model.state_dict()
    parameters = reference_torch.weights.to_canonical(model)
    assert list(parameters) == list(SHAPES)
    returned = reference_torch.weights.to_state_dict(model, parameters)
    assert list(returned) == list(state) == [f"model.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")]
    for key, tensor in returned.items():
        assert tensor.numpy().tobytes() == state[key].numpy().tobytes()
        assert tensor.data_ptr() != state[key].data_ptr()
    model.load_state_dict(returned, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_first_weights_of_a_run_are_of_its_dtype(dtype, digits, tmp_path):
    """And finite in it."""
    config = Config(hidden=(4,), dtype=dtype, initial_weights=tmp_path / "start.safetensors")
    start = initial_parameters("torch_linear", config.widths(digits.pixels, digits.classes), 0)
    save_weights(config.initial_weights, start)
    assert {array.dtype for array in initial_weights(config, digits).values()} == {np.dtype(dtype)}
    save_weights(config.initial_weights, start | {"layers.1.bias": np.full(3, 1e300)})
    with (
        contextlib.nullcontext() if dtype == "float64" else pytest.raises(UserError, match=r"layers\.1\.bias holds inf")
    ):
        initial_weights(config, digits)
