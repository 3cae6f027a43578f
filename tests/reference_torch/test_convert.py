"""Weights between safetensors and torch's own files."""

import os
import random
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers import as_bytes, assert_one_line
from safetensors.numpy import load_file, save_file
from torch import nn

from mlp_workload.config import Config
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.weights import save_weights
from reference_torch.convert import Conversion
from reference_torch.convert import run as convert_files
from reference_torch.model import MLP

WIDTHS = (20, 7, 6, 4)


def convert(source, target):
    convert_files(Conversion(source=source, target=target))


def parameters(dtype="float32"):
    return {name: array.astype(dtype) for name, array in initial_parameters("torch_linear", WIDTHS, seed=1).items()}


def state():
    """What `torch.save(model.state_dict(), ...)` of a model like `MLP` would hold."""
    pairs = zip(("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"), parameters().values(), strict=True)
    return OrderedDict((f"model.{key}", torch.tensor(array)) for key, array in pairs)


class Code:
    """What a pickle can do to whoever reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_there_and_back_returns_the_bytes(dtype, suffix, tmp_path):
    start, there, back = (tmp_path / name for name in ("a.safetensors", f"b{suffix}", "c.safetensors"))
    save_weights(start, parameters(dtype))
    convert(start, there)
    convert(there, back)
    assert as_bytes(load_file(back)) == as_bytes(parameters(dtype))
    assert sorted(tmp_path.iterdir()) == [start, there, back]


def test_the_tutorials_module_loads_the_file(tmp_path):
    save_weights(tmp_path / "a.safetensors", parameters())
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    model = MLP(Config(), WIDTHS)
    model.load_state_dict(torch.load(tmp_path / "b.pt", weights_only=True), strict=True)
    for tensor, array in zip(model.parameters(), parameters().values(), strict=True):
        assert tensor.detach().numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("prefix", ["", "0.", "model.", "module.encoder.layers."])
@pytest.mark.parametrize("numbers", [(0, 1, 2), (0, 2, 4), (1, 9, 10)])
@pytest.mark.parametrize("as_zip", [True, False])
def test_any_linear_layers_one_after_the_other(prefix, numbers, as_zip, tmp_path):
    """Behind any prefix, in the order of the numbers and not of the file, also as torch wrote files before 1.6."""
    keys = [f"{prefix}{number}.{kind}" for number in numbers for kind in ("weight", "bias")]
    tensors = {key: torch.tensor(array) for key, array in zip(keys, parameters().values(), strict=True)}
    tensors[keys[2]] = tensors[keys[2]].T.contiguous().T  # lies in memory the other way round
    torch.save(dict(reversed(tensors.items())), tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert as_bytes(load_file(tmp_path / "b.safetensors")) == as_bytes(parameters())


ORDERED = [
    ("fc1", "fc2", "fc3"),
    ("fc8", "fc9", "fc10"),
    ("linear1", "linear2", "linear3"),
    ("net.layer1", "net.layer2", "net.layer3"),
    ("layers.0.linear", "layers.1.linear", "layers.2.linear"),
    ("blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1"),
    ("mlp2.0", "mlp2.3", "mlp2.11"),
]


def saved(paths, path, backwards=False, dtype=torch.float32):
    keys = [f"{layer}.{kind}" for layer in paths for kind in ("weight", "bias")]
    tensors = {key: torch.tensor(array).to(dtype) for key, array in zip(keys, parameters().values(), strict=True)}
    torch.save(dict(reversed(tensors.items())) if backwards else tensors, path)


@pytest.mark.parametrize("paths", ORDERED, ids=str)
def test_the_numbers_in_the_names_tell_the_order(paths, tmp_path):
    saved(paths, tmp_path / "a.pt", backwards=True)
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert as_bytes(load_file(tmp_path / "b.safetensors")) == as_bytes(parameters())


@pytest.mark.parametrize(
    "paths", [("first", "second", "out"), ("fc1", "fc2", "out"), ("encoder.0", "encoder.2", "head")]
)
def test_other_names_are_in_the_order_of_the_file_if_their_shapes_fit(paths, tmp_path):
    saved(paths, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert as_bytes(load_file(tmp_path / "b.safetensors")) == as_bytes(parameters())
    saved(paths, tmp_path / "a.pt", backwards=True)
    with pytest.raises(UserError, match=rf"{paths[1]}.weight has shape \(6, 7\), but {paths[2]}.weight before it"):
        convert(tmp_path / "a.pt", tmp_path / "c.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_and_said(dtype, tmp_path, capsys):
    saved(("0", "1", "2"), tmp_path / "a.pt", dtype=dtype)
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    expected = {name: torch.tensor(array).to(dtype).float().numpy() for name, array in parameters().items()}
    assert as_bytes(load_file(tmp_path / "b.safetensors")) == as_bytes(expected)
    name = str(dtype).removeprefix("torch.")
    assert capsys.readouterr().err == f"warning: {tmp_path / 'a.pt'}: {name} widened to float32\n"


def test_parameters_that_ask_for_gradients(tmp_path):
    torch.save(dict(nn.Sequential(nn.Linear(3, 2)).named_parameters()), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert list(load_file(tmp_path / "b.safetensors")) == ["layers.0.bias", "layers.0.weight"]


WRONG_STATES = [
    ({"model.2.bias": None}, "model.2.bias is missing"),
    ({"model.0.weight": None}, "model.0.weight is missing"),
    ({"other.0.bias": torch.zeros(4)}, "other.0.bias is none of model.N.weight and model.N.bias"),
    ({"model.1.running_mean": torch.zeros(6)}, "model.1.running_mean is none of model.N.weight and model.N.bias"),
    ({"model.00.weight": torch.zeros(6)}, "model.00.weight is none of model.N.weight and model.N.bias"),
    ({"model.2.weight": None, "model.2.bias": None}, r"model.4.weight .*\(4, 6\), .* model.0.weight .*\(7, 20\)"),
    ({"model.2.weight": torch.zeros(6, 5)}, r"model.2.weight has shape \(6, 5\), but model.0.weight .* \(7, 20\)"),
    ({"model.2.weight": torch.zeros(6, 6, 1, 1)}, r"model.2.weight has shape \(6, 6, 1, 1\), expected \(fan_out"),
    ({"model.2.weight": torch.zeros(6)}, r"model.2.weight has shape \(6,\), expected \(fan_out, fan_in\)"),
    ({"model.2.weight": torch.zeros(0, 6)}, r"model.2.weight has shape \(0, 6\), expected \(fan_out, fan_in\)"),
    ({"model.0.weight": torch.zeros(20, 7)}, r"model.0.bias has shape \(7,\), but model.0.weight has \(20, 7\)"),
    ({"model.0.bias": torch.zeros(1, 7)}, r"model.0.bias has shape \(1, 7\), but model.0.weight has \(7, 20\)"),
    ({"model.0.bias": torch.full((7,), torch.nan)}, r"model.0.bias holds nan at \(0,\)"),
    ({"model.4.weight": torch.full((4, 6), torch.inf)}, r"model.4.weight holds inf at \(0, 0\)"),
    ({"model.0.bias": torch.zeros(7, dtype=torch.int64)}, "model.0.bias is int64, expected float32 or float64"),
    ({"model.0.bias": torch.zeros(7, device="meta")}, "model.0.bias has no plain numbers"),
    ({"model.0.bias": torch.zeros(7).to_sparse()}, "model.0.bias has no plain numbers"),
    ({"epoch": 3}, "epoch is of type int, not a tensor; save model.state_dict"),
    ({"optimizer": {"lr": 0.1}}, "optimizer is of type dict, not a tensor"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_STATES, ids=[message for _, message in WRONG_STATES])
def test_a_wrong_state_dict_is_refused_by_the_keys_name(change, message, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({key: value for key, value in (state() | change).items() if value is not None}, path)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        convert(path, tmp_path / "b.safetensors")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no tensor's name ends in N.weight or N.bias"),
        ({"weight": torch.zeros(4, 3), "bias": torch.zeros(4)}, "no tensor's name ends in N.weight or N.bias"),
        ({3: torch.zeros(4)}, "no tensor's name"),
        (torch.zeros(4), "holds a Tensor, expected a state_dict"),
        ([torch.zeros(4)], "holds a list, expected a state_dict"),
        (nn.Sequential(nn.Linear(3, 2)), "holds torch.nn.modules.[a-zA-Z.]+, which is code and not run"),
    ],
)
def test_what_is_no_state_dict_is_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_not_run(as_zip, run, tmp_path):
    planted = state() | {"model.6.bias": Code(tmp_path / "planted")}
    torch.save(planted, tmp_path / "a.pt", _use_new_zipfile_serialization=as_zip)
    process = run("reference_torch.convert", "a.pt", "b.safetensors")
    assert_one_line(process, r"a.pt: holds \w+.mkdir, which is code and not run; save model.state_dict\(\) alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]


def test_a_torchscript_archive_is_refused_in_one_line(run, tmp_path):
    with warnings.catch_warnings(action="ignore"):  # torch calls it deprecated
        torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), tmp_path / "a.pt")
    process = run("reference_torch.convert", "a.pt", "b.safetensors")
    assert_one_line(process, r"a.pt: not a readable state_dict \([^.]*TorchScript archives passed to ``torch.load``\)$")


@pytest.mark.parametrize("content", [b"hello\n", 100 * b"\xff", b"\x80\x02I1\n."])
def test_torchs_advice_to_run_the_code_in_a_file_is_not_passed_on(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged or of something else than tensors$"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("stride", "flips"), [(149, 60), pytest.param(37, 200, marks=pytest.mark.long("damages a file in many places"))]
)
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_damaged_file_is_refused(as_zip, stride, flips, tmp_path):
    """Cut off anywhere, and with any byte wrong, which can leave it readable but must not raise anything else."""
    source, target = tmp_path / "a.pt", tmp_path / "b.safetensors"
    torch.save(state(), source, _use_new_zipfile_serialization=as_zip)
    whole = source.read_bytes()
    for length in [*range(0, len(whole), stride), len(whole) - 1]:
        source.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"^{source}: (not a readable state_dict|holds )"):
            convert(source, target)
    draw = random.Random(0)
    refused = 0
    for _ in range(flips):
        position = draw.randrange(len(whole))
        source.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << draw.randrange(8)]) + whole[position + 1 :])
        try:
            convert(source, target)
            target.unlink()
        except UserError:
            refused += 1
    assert refused > flips / 10
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.weight": None, "layers.0.bias": None}, "layers.0.(weight|bias) is missing"),
        ({"layers.2.bias": None}, "layers.2.bias is missing"),
        ({"layers.3.bias": np.zeros(4)}, "layers.3.weight is missing"),
        ({"layer.3.bias": np.zeros(4)}, "layer.3.bias is none of layers.N.weight"),
        ({"layers.0.weight": np.zeros((7, 20), np.float16)}, "layers.0.weight is float16, expected float32"),
    ],
)
def test_a_wrong_safetensors_file_is_refused(change, message, tmp_path):
    source = tmp_path / "a.safetensors"
    save_file({name: array for name, array in (parameters() | change).items() if array is not None}, source)
    with pytest.raises(UserError, match=f"^{source}: {message}"):
        convert(source, tmp_path / "b.pt")
    assert list(tmp_path.iterdir()) == [source]


def test_names_of_another_origin_in_a_safetensors_file_are_refused(tmp_path):
    save_file({key: tensor.numpy() for key, tensor in state().items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"model.\d.\w+ is not a parameter of this model|layers.\d.\w+ is missing"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.pt")


WRONG_COMMANDS = [
    ("a.pt b.pt", "a.pt, b.pt: expected a .safetensors file and a .pt or .pth file"),
    ("a.pth b.pt", "a.pth, b.pt: expected a .safetensors file"),
    ("a.safetensors b.safetensors", "expected a .safetensors file and a .pt or .pth file"),
    ("a.safetensors b.bin", "b.bin: expected a name that ends in .safetensors, .pt or .pth"),
    ("folder b.pt", "folder: expected a name that ends in"),
    ("folder.pt b.safetensors", "folder.pt: not a file"),
    ("folder.safetensors b.pt", "folder.safetensors: not a file"),
    ("nothing.pt b.safetensors", "nothing.pt: no such file"),
    ("a.pt", "required"),
    ("a.pt there.safetensors", "OUT there.safetensors exists; name a new file"),
    ("a.safetensors folder.pt", "OUT folder.pt exists; name a new file"),
    ("a.safetensors nowhere/b.pt", "cannot write nowhere/b.pt: No such file"),
    ("empty.pt b.safetensors", r"empty.pt: not a readable state_dict"),
    ("misnamed.pt b.safetensors", r"misnamed.pt: not a readable state_dict"),
    ("misnamed.safetensors b.pt", "misnamed.safetensors: not a readable safetensors file"),
]


@pytest.fixture
def files(tmp_path):
    """What the wrong command lines point at."""
    save_weights(tmp_path / "a.safetensors", parameters())
    torch.save(state(), tmp_path / "a.pt")
    (tmp_path / "misnamed.pt").write_bytes((tmp_path / "a.safetensors").read_bytes())
    (tmp_path / "misnamed.safetensors").write_bytes((tmp_path / "a.pt").read_bytes())
    (tmp_path / "empty.pt").touch()
    (tmp_path / "there.safetensors").write_text("mine")
    for folder in ("folder", "folder.pt", "folder.safetensors"):
        (tmp_path / folder).mkdir()
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "message"), WRONG_COMMANDS, ids=[arguments for arguments, _ in WRONG_COMMANDS])
def test_bad_input_ends_in_one_line_and_status_2(arguments, message, run, files, tmp_path):
    assert_one_line(run("reference_torch.convert", *arguments.split()), message)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_the_command_says_what_it_wrote(run, files, tmp_path):
    process = run("reference_torch.convert", "a.pt", "b.safetensors")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == "b.safetensors: the weights of 20-7-6-4\n"
    assert as_bytes(load_file(tmp_path / "b.safetensors")) == as_bytes(parameters())
