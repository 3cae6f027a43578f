"""Pins: a JAX model is held to torch's values in a process without torch."""

import io
import json
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import small_port
from flax import nnx
from helpers import ROOT

import twincheck
from mlp_workload.errors import UserError
from twincheck import pins

WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("blocked by the test", name=name)

sys.meta_path.insert(0, Blocker())
import small_port, twincheck

twincheck.check_pin(sys.argv[1], small_port.jax_side())
assert "torch" not in sys.modules
try:
    twincheck.check_pin(sys.argv[1], small_port.jax_side(epsilon=1.1e-5))
except AssertionError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def report():
    return twincheck.assert_same(*small_port.right())


@pytest.fixture(scope="module")
def pin(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("pin") / "port.npz"
    report.pin(path)
    return path


def test_a_process_without_torch_tells_a_right_port_from_one_with_another_epsilon(pin):
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, pin], capture_output=True, text=True, cwd=ROOT / "tests",
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("4 of 7 tensors differ from torch's; the first: n, output 0 by ")


def test_the_inputs_and_weights_are_those_of_the_pin(pin):
    twincheck.check_pin(pin, twincheck.nnx(small_port.Port(), np.zeros_like(small_port.INPUT)))


def test_the_side_keeps_its_own_inputs_and_weights(pin):
    side = twincheck.nnx(small_port.Port(), np.zeros_like(small_port.INPUT))
    before = side.parameters
    twincheck.check_pin(pin, side)
    assert not side.inputs.any()
    assert all(np.array_equal(before[name], array) for name, array in side.parameters.items())


def test_a_pin_of_large_weights_takes_the_models_own(report, tmp_path, monkeypatch):
    monkeypatch.setattr(pins, "LARGEST_STORED", 50)  # neither weights nor inputs fit
    path = tmp_path / "port.npz"
    report.pin(path)
    assert not [name for name in np.load(path) if not name.startswith("tensor:")][1:]
    twincheck.check_pin(path, report.pair.jax)
    with pytest.raises(UserError, match=r"other weights than those pinned: load the file of twincheck\.convert"):
        twincheck.check_pin(path, small_port.jax_side())
    side = twincheck.nnx(small_port.Port(), small_port.INPUT + 1)
    side.load(report.pair.jax.parameters)
    with pytest.raises(UserError, match="inputs are not those that were pinned"):
        twincheck.check_pin(path, side)


def test_a_port_that_differs_cannot_be_pinned(tmp_path):
    with pytest.raises(UserError, match="cannot pin a port that differs from torch: not the same model: "):
        twincheck.pair(*small_port.wrong()).check().pin(tmp_path / "port.npz")
    assert not list(tmp_path.iterdir())


def test_a_pin_of_another_model_is_one_clear_error(pin):
    with pytest.raises(UserError, match=r"parameters of another model: a\.bias is \(8,\) in the pin, missing here"):
        twincheck.check_pin(pin, small_port.jax_side(bias=False))
    with pytest.raises(UserError, match=r"inputs of another model: 0 is \(5, 4\) in the pin, \(2, 4\) here"):
        twincheck.check_pin(pin, twincheck.nnx(small_port.Port(), np.zeros((2, 4), np.float32)))


def test_modules_that_are_not_called_any_more_are_named(pin):
    class Renamed(small_port.Port):
        def __call__(self, x):
            return self.b(nnx.gelu(self.n(x @ self.a.kernel[...] + self.a.bias[None]), approximate=False))

    with pytest.raises(AssertionError, match=r"2 of 7 .*: a, input 0 is not computed any more \(after a change"):
        twincheck.check_pin(pin, twincheck.nnx(Renamed(), small_port.INPUT))


def test_each_tensor_has_its_own_bound(tmp_path):
    class Rounded(small_port.Port):
        def __call__(self, x):
            return super().__call__(x).astype(jnp.float32).astype(x.dtype)

    class Shifted(Rounded):
        def __call__(self, x):
            self.b.bias[...] += 1e-7  # which is seen before the rounding alone
            return super().__call__(x)

    path = tmp_path / "port.npz"
    twincheck.assert_same(small_port.torch_side(), twincheck.nnx(Rounded(), small_port.INPUT)).pin(path)
    twincheck.check_pin(path, twincheck.nnx(Rounded(), small_port.INPUT))
    with pytest.raises(AssertionError, match="1 of 7 tensors differ from torch's; the first: b, output 0 by "):
        twincheck.check_pin(path, twincheck.nnx(Shifted(), small_port.INPUT))


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


VALUES = np.ones(3)


def changed(values=VALUES, about=(), other=None, **facts):
    """Returns a pin of one tensor, valid unless something is changed."""
    tensor = {"shape": [2], "scale": 1.0, "bound": 1e-9} | facts
    about = {"input": "", "weight": "", "tensors": {"a": tensor}} | dict(about)
    return npz(**{"about": np.array(json.dumps(about)), "tensor:a": values} | (other or {}))


def archive(content, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as written:
        written.writestr("about.npy", content)
    return file.getvalue()


def header(shape):
    return b"\x93NUMPY\x01\x00v\x00" + f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(
        118
    )


def test_the_pin_that_the_others_change_is_valid(tmp_path):
    (tmp_path / "port.npz").write_bytes(changed())
    assert pins._read(tmp_path / "port.npz")[0]["tensors"]["a"]["scale"] == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""), (b"text", ""), (b"PK\x03\x04", ""), (npz(a=np.ones(3)), "'about.*' is missing"),
        (npz(about=np.array("{")), ""), (npz(about=np.array("[]")), "wrong form"),
        (npz(about=np.array('{"tensors": {"a": {}}}')), "'input' is missing"),
        (npz(about=np.array(None, object)), "pickle"), (npz(about=np.array("[" * 100_000)), "nested too deeply"),
        (changed(about={"weight": None}), "part is missing"), (changed(about={"tensors": {}}), "part is missing"),
        (changed(about={"tensors": [1]}), "wrong form"),
        (changed(about={"tensors": {"b": {}}}), "'tensor:b' is missing"),
        (changed(bound=float("inf")), "a has no valid"), (changed(bound=float("nan")), "a has no valid"),
        (changed(scale="1"), "a has no valid"), (changed(scale=10**400), "a has no valid"),
        (changed(scale=-1.0), "a has no valid"), (changed(shape=[-2]), "a has no valid"),
        (changed(shape=["2"]), "a has no valid"), (changed(shape=2), "wrong form"),
        (changed(np.ones(4)), "a has no valid"), (changed(np.ones((3, 1))), "a has no valid"),
        (changed(np.ones(0)), "a has no valid"), (changed(np.ones(3, int)), "a has no valid"),
        (changed(other={"weight:a": np.array("a")}), "weight:a has the type <U1"),
        (archive(b"x", compression=zipfile.ZIP_LZMA), "packed in another way"),
        (archive(header("(2**60,)")), ""), (archive(header(f"({2**60},)")), ""), (archive(header(f"({10**30},)")), ""),
    ],
)  # fmt: skip
def test_other_files_are_one_clear_error(content, reason, tmp_path):
    path = tmp_path / "port.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"port\.npz is not a pin that report\.pin wrote \(.*{reason}"):
        twincheck.check_pin(path, None)


def test_a_pin_with_flipped_bytes_is_one_clear_error(tmp_path):
    file = io.BytesIO()
    np.savez_compressed(file, about=np.array("{}"), a=np.arange(1000))
    content = bytearray(file.getvalue())
    for start in range(30, len(content), 97):
        damaged = content.copy()
        damaged[start : start + 8] = b"\xff" * 8
        (tmp_path / "port.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="is not a pin"):
            twincheck.check_pin(tmp_path / "port.npz", None)


def test_a_pin_that_unpacks_to_much_more_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "load", None)
    path = tmp_path / "port.npz"
    path.write_bytes(archive(bytes(2**28 + 1), compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="unpacks to more than 256 MiB"):
        twincheck.check_pin(path, None)


def test_a_cut_pin_is_one_clear_error(pin, tmp_path):
    (tmp_path / "port.npz").write_bytes(pin.read_bytes()[:-100])
    with pytest.raises(UserError, match="is not a pin"):
        twincheck.check_pin(tmp_path / "port.npz", None)


def test_a_missing_pin_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"port\.npz: no such file"):
        twincheck.check_pin(tmp_path / "port.npz", None)


def test_a_sample_sees_a_value_between_its_own_and_values_that_trade_places():
    tensor = np.random.default_rng(0).standard_normal((50, 40))
    sample = pins.Sample.of(tensor, 16)
    assert sample.distance(tensor) == 0
    changed = tensor.copy()
    changed[7, 7] += 1e-3
    assert sample.distance(changed) > 1e-6
    changed = tensor.copy()
    changed[[3, 4]] = changed[[4, 3]]
    assert sample.distance(changed) > 1e-3
    assert sample.distance(tensor.T) == np.inf
    assert pins.Sample.of(np.zeros((0, 3)), 16).distance(np.zeros((0, 3))) == 0


def test_a_sample_of_a_mask_with_infinities_sees_the_other_values():
    mask = np.where(np.tri(6) > 0, 0.5, -np.inf)
    sample = pins.Sample.of(mask, 36)
    assert (sample.scale, sample.distance(mask)) == (0.5, 0)
    assert sample.distance(np.where(np.tri(6) > 0, 0.6, -np.inf)) > 0.1
    assert sample.distance(np.where(np.tri(6) > 0, 0.5, -1e9)) == np.inf


def test_a_pin_of_many_large_tensors_is_about_a_megabyte():
    tensors = [np.random.default_rng(i).standard_normal(100_000) for i in range(10)]
    samples = [pins.Sample.of(tensor, pins._SAMPLES // len(tensors)) for tensor in tensors]
    assert sum(sample.values.nbytes for sample in samples) < 2**20 / 2
