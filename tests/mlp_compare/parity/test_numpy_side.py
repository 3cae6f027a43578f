"""The third side holds with both others, a mistake in it is named, and what is no side is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import ROOT, write_idx_folder
from in_process import InProcess

from examples.numpy_side.trainer import Trainer
from mlp_compare.parity.lockstep import Lockstep
from mlp_compare.parity.worker import Worker
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.errors import UserError

NUMPY = "examples.numpy_side"
FLOAT64 = {name: dataclasses.replace(config, dtype="float64", device="cpu") for name, config in PRESETS.items()}


ALL = pytest.mark.long("takes all 300 steps")


@pytest.mark.parametrize(
    ("preset", "other", "steps", "least"),
    [("relu", "jax", 10, 800), ("leaky", "torch", 10, 800)]
    + [pytest.param(*pair, 300, 3000, marks=ALL) for pair in (("relu", "jax"), ("leaky", "torch"))],
)
def test_steps_agree_with_both_frameworks(preset, other, steps, least, mnist):
    """Each preset with one; the parity check holds the two frameworks together."""
    with InProcess(other) as one, InProcess(NUMPY) as numpy:
        check = Lockstep(FLOAT64[preset], mnist, [one, numpy], steps)
        # NumPy's own epochs are the same beside JAX.
        assert len(list(check.run((1, 2, 100, steps), free_runs=other == "torch"))) == steps
    report = check.report
    assert report.mismatch is None, str(report.mismatch)
    assert report.steps_compared == steps
    assert (report.sign_flips, report.drifts) == ([], [])
    assert report.worst["parameters"].difference.bound == 1e-13
    ends = report.correct[steps]
    assert ends[0] == ends[1] > least
    assert (report.free_runs is not None) == (other == "torch")


def small(digits, folder, **settings):
    source = {"dataset": write_idx_folder(folder, digits), "hidden": (8, 8), "batch_size": 20, "learning_rate": 0.1}
    return dataclasses.replace(FLOAT64["leaky"], **source | settings)


OPTIMIZER = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "label_smoothing": 0.1}


ADAMW = {"optimizer": "adamw", "weight_decay": 0.01, "learning_rate": 0.001}


@pytest.mark.parametrize(
    ("settings", "slot"),
    [
        ({"momentum": 0.9}, "momentums"),
        (OPTIMIZER | {"activation": "relu", "last_activation": "none"}, "momentums"),
        (ADAMW, "second_moments"),
        (ADAMW | {"optimizer": "adam"}, "second_moments"),
    ],
)
def test_the_optimizer_agrees_and_the_smaller_last_batch(settings, slot, digits, tmp_path):
    config = small(digits, tmp_path, **settings)
    with InProcess("torch") as one, InProcess(NUMPY) as numpy:
        check = Lockstep(config, digits, [one, numpy], 14)
        assert len(list(check.run((1, 2, 6, 14)))) == 14
    assert check.report.mismatch is None, str(check.report.mismatch)
    assert slot in check.report.worst
    assert not check.report.drifts


MISTAKES = {
    "layers.2.bias.grad": ("gradient.sum(axis=0)", "0 * gradient.sum(axis=0)"),
    "layers.1.weight.grad": (
        "gradient = gradient @ parameters",
        "gradient = gradient * (tensors[pre_activation(i)] > 0) @ parameters",
    ),
    "logits.grad": ("(softmax - targets) / len(x)", "(softmax - targets) / (len(x) - 1)"),
    "layers.0.activation": ("np.where(z > 0, z, SLOPE[name] * z)", "np.where(z > 0, z, 0.0101 * z)"),
}


@pytest.mark.parametrize("tensor", MISTAKES)
def test_a_mistake_in_a_copy_is_named(tensor, digits, tmp_path, monkeypatch):
    right, wrong = MISTAKES[tensor]
    copy = tmp_path / f"mistaken_{tensor.replace('.', '_')}"
    shutil.copytree(ROOT / "examples/numpy_side", copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file in copy.glob("*.py"):
        file.write_text(file.read_text().replace(NUMPY, copy.name))
    source = (copy / "mlp.py").read_text()
    assert source.count(right) == 1
    (copy / "mlp.py").write_text(source.replace(right, wrong))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data").mkdir()
    with InProcess("torch") as one, InProcess(copy.name) as mistaken:
        check = Lockstep(small(digits, tmp_path / "data"), digits, [one, mistaken], 3)
        list(check.run((1,), evaluate=False, free_runs=False))
    mismatch = check.report.mismatch
    assert mismatch is not None
    assert (mismatch.step, mismatch.difference.name) == (1, tensor)


def test_it_trains_by_itself_and_torch_goes_on(digits, run, tmp_path):
    flags = ["--dataset", write_idx_folder(tmp_path, digits), "--batch-size", "20", "--visdom", "off"]
    process = run(
        f"{NUMPY}.train", "--dtype", "float64", "--epochs", "2", "--run-dir", "run", "--momentum", "0.9", *flags
    )
    assert process.returncode == 0, process.stdout + process.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["framework"], summary["steps"], summary["test_examples"]) == ("numpy", 12, 31)
    assert summary["framework_version"] == np.__version__
    process = run("reference_torch.train", "--resume", "run", "--epochs", "3", "--visdom", "off", "--quiet")
    assert process.returncode == 0, process.stdout + process.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["framework"], summary["steps"]) == ("torch", 18)
    assert summary["before"] == [{"framework": "numpy", "device": "cpu", "from_step": 0}]


def test_an_epoch_in_parts_goes_on_from_a_state_with_the_bytes_of_the_whole(digits):
    config = dataclasses.replace(FLOAT64["leaky"], hidden=(8,), batch_size=20, **OPTIMIZER)
    whole, first, second = (Trainer(config, digits, None) for _ in range(3))
    order = epoch_order(0, 1, 103)
    losses = [first.train_steps(order, *part) for part in ((0, 2), (2, 5))]
    second.train_steps(order)  # a past of its own, which must not show
    second.load_state(first.state())
    np.testing.assert_array_equal(whole.train_steps(order), np.concatenate([*losses, second.train_steps(order, 5, 6)]))
    for name, array in whole.state().items():
        np.testing.assert_array_equal(second.state()[name], array)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float32"}, "--dtype must be float64 in NumPy, got float32"),
        ({"device": "gpu"}, "--device must be cpu in NumPy, got a GPU"),
        ({"device": "auto", "gpu": 1}, "--device must be cpu in NumPy, got a GPU"),
        ({"devices": 2}, "--devices must be 1 in NumPy, got 2"),
    ],
)
def test_what_it_cannot_do_it_refuses(settings, message, digits):
    with pytest.raises(UserError, match=message):
        Trainer(dataclasses.replace(FLOAT64["leaky"], **settings), digits, None)


PACKAGES = {
    "without_framework": "",
    "without_its_library": "import no_such_library",
    "lacking": """
import contextlib
class Trainer:
    def __init__(self, *_): pass
    framework, packages, device = "lacking", ("numpy",), "cpu"
    gpu_versions, threads, peak_gpu_bytes = {}, None, None
    compile = evaluate = parameters = state = load_state = max_over_processes = None
framework = contextlib.contextmanager(lambda config: (yield Trainer))
""",
}


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("nonsense", "--sides nonsense: there is no module nonsense"),
        ("examples", "--sides examples: there is no module examples.train"),
        ("os", "--sides os: there is no module os.train"),
        ("without_framework", "--sides without_framework: without_framework.train has no `framework`"),
        ("without_its_library", "--sides without_its_library: there is no module no_such_library"),
        ("lacking", "--sides lacking: its trainer lacks profile, trace_step, train_steps of mlp_workload/interface.py"),
    ],
)
def test_what_is_no_side_is_named(side, message, digits, tmp_path, monkeypatch):
    for name, source in PACKAGES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError) as raised:
        Worker(side).start(small(digits, tmp_path / "data"), None)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jax", "jax"], "--sides must be two different ones of jax, torch and packages to import, got"),
        (["jax", "../torch"], "--sides must be two different ones of"),
        (["torch", NUMPY, "--self-test"], "--self-test takes no flag of a run"),
        ([NUMPY, "nonsense", "--dtype", "float64"], "--sides nonsense: there is no module nonsense"),
        ([NUMPY, "torch"], "--dtype must be float64 in NumPy, got float32"),
    ],
)
def test_a_wrong_pair_ends_in_one_line_and_status_2(arguments, message, run):
    process = run("mlp_compare.parity", "--sides", *arguments)
    assert process.returncode == 2, process.stdout + process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("python -m mlp_compare.parity: error: ")
    assert message in process.stderr
