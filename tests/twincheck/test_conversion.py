"""The weights of a pair as a file and as code."""

import runpy

import numpy as np
import pytest
import small_port
from helpers import as_bytes
from safetensors.numpy import load_file

import twincheck
from mlp_workload.errors import UserError
from twincheck import conversion
from twincheck.layouts import Layout
from twincheck.weights import Source, Weight


@pytest.fixture(scope="module")
def pair():
    return small_port.paired()


def run_code(code, state, folder):
    (folder / "convert.py").write_text(code)
    return runpy.run_path(str(folder / "convert.py"))["convert"](state)


def test_file_and_code_have_what_the_pair_loaded(pair, tmp_path):
    code = twincheck.convert(pair, tmp_path / "port.safetensors")
    loaded = as_bytes(pair.jax.parameters)
    assert len(loaded) == 6
    assert as_bytes(load_file(tmp_path / "port.safetensors")) == loaded
    state = {name: tensor.numpy() for name, tensor in pair.torch.original.state_dict().items()}
    assert as_bytes(run_code(code, state, tmp_path)) == loaded
    assert "numpy" not in code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["convert.py", "port.safetensors"]


def test_parameters_are_put_together_flipped_and_split(tmp_path):
    state = {
        'a"b\\': np.arange(6.0).reshape(2, 3),
        "b": np.ones((2, 3)),
        "conv": np.arange(24.0).reshape(2, 3, 2, 2),
        "scalar": np.float32(3),
    }
    weights = [
        Weight("below", (Source('a"b\\'), Source("b", (0, 1))), Layout((3, 3), (1, 0))),
        Weight("sum\n", (Source('a"b\\'), Source("b")), Layout((2, 3), (0, 1)), added=True),
        Weight("kernel", (Source("conv"),), Layout((2, 2, 3, 2), (2, 3, 1, 0), reverse=(0, 1))),
        Weight("heads", (Source("b"),), Layout((3, 2, 1), (1, 0), split=(2, 3))),
        Weight("scale", (Source("scalar"),), Layout(())),
    ]
    code = conversion.code(weights, state)
    assert code.startswith("import numpy as np\n")
    expected = {weight.jax: weight(state) for weight in weights}
    computed = run_code(code, state, tmp_path)
    assert computed.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(computed[name], array, name)


def test_a_missing_folder_is_one_clear_error(pair, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*missing/port.safetensors: No such file"):
        twincheck.convert(pair, tmp_path / "missing/port.safetensors")
