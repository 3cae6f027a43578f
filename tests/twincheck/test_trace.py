"""The file that a trace is: nothing lost, nothing foreign taken for one."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlp_workload.errors import UserError
from mlp_workload.interface import batch_digest, step_tensors
from twincheck.trace import FORMAT, Trace

TENSORS = {
    "batch.images": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "inputs": np.linspace(0, 1, 6).reshape(2, 3),
    "a.weight": np.float32([[1, 2], [3, 4]]).T,
    "loss": np.array(2.5),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trace.safetensors"
    Trace(TENSORS, {"framework": "jax", "step": "7"}).save(path)
    return path


def test_a_trace_comes_back_as_it_was(file):
    trace = Trace.load(file)
    assert list(trace.tensors) == list(TENSORS), "causal order, which safetensors does not keep"
    assert trace.facts == {"framework": "jax", "step": "7"}
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(trace.tensors[name], array, strict=True)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "0"}, f"a trace of format 0; this version reads format {FORMAT}"),
        ({"format": "2"}, f"a trace of format 2; this version reads format {FORMAT}"),
        (None, "not a trace"),
        ({"order": "[]"}, "do not fit its tensors"),
        ({"order": json.dumps([*TENSORS, "more"])}, "do not fit its tensors"),
        ({"order": json.dumps([*TENSORS, "loss"])}, "do not fit its tensors"),
        ({"order": "["}, "damaged"),
        ({"facts": "[]"}, "damaged"),
        ({"facts": '{"step": 1}'}, "do not fit its tensors"),
    ],
)
def test_other_versions_and_foreign_files_are_refused(metadata, message, file):
    whole = {"format": FORMAT, "order": json.dumps(list(TENSORS)), "facts": "{}"}
    save_file(load_file(file), file, None if metadata is None else whole | metadata)
    with pytest.raises(UserError, match=message) as error:
        Trace.load(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff" * 100, b'{"a": 1}'])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable trace"):
        Trace.load(path)
    with pytest.raises(UserError, match="no such file"):
        Trace.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="not a file"):
        Trace.load(tmp_path)


def test_a_trace_that_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        Trace(TENSORS).save(tmp_path / "no such folder" / "trace")


def test_the_digest_tells_pixels_labels_and_their_order():
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 4), np.array([3, 5], np.int32)
    digests = [
        batch_digest(images, labels),
        batch_digest(images[::-1], labels[::-1]),
        batch_digest(images, labels[::-1]),
        batch_digest(images ^ 1, labels),
    ]
    assert len({digest.tobytes() for digest in digests}) == 4
    np.testing.assert_array_equal(batch_digest(images.copy(), labels.astype(np.int64)), digests[0], strict=True)


def test_an_mlps_trace_is_in_causal_order():
    names = [
        "batch.images", "batch.labels", "inputs", "layers.0.pre_activation", "layers.0.activation",
        "layers.1.pre_activation", "logits", "loss", "logits.grad", "layers.1.weight.grad", "layers.1.bias.grad",
        "layers.0.weight.grad", "layers.0.bias.grad",
    ]  # fmt: skip
    state = ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]
    momentum = [f"{name}.momentum" for name in state]
    tensors = {name: np.zeros(1) for name in [*state, *reversed(names), *momentum]}
    expected = [*names[:2], "batch.digest", *names[2:], *momentum, *state]
    assert list(step_tensors(tensors)) == expected
    del tensors["logits.grad"]
    with pytest.raises(KeyError, match=r"logits\.grad"):
        step_tensors(tensors)
