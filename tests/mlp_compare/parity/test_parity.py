"""`python -m mlp_compare.parity` as its users run it: real processes, real MNIST."""

import dataclasses
import io
import json
import re
import subprocess
import sys

import numpy as np
import optax
import pytest
from helpers import ROOT, write_idx_folder
from in_process import InProcess, run_parity
from warm import python

from mlp_compare.parity import bound_table
from mlp_compare.parity.__main__ import TRACED, Parity
from mlp_compare.parity.faults.start import near_zero
from mlp_compare.parity.lockstep import Lockstep, near_ties
from mlp_compare.parity.output import as_json, print_report
from mlp_compare.parity.result import Mismatch, Report, Worst
from mlp_compare.parity.sign_flips import SignFlip
from mlp_compare.parity.worker import Evaluated, FreeRun, Worker
from mlp_workload.config import PRESETS
from mlp_workload.data import load
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.sinks.console import Output
from mlp_workload.weights import save_weights
from twincheck.comparison import Difference
from twincheck.pipe import WorkerProcess
from twincheck.trace import Trace

PARITY = "mlp_compare.parity"
COMPILES = pytest.mark.long("compiles a network of another shape")


def check(steps, preset="leaky", **settings):
    """What the command finds of so many steps."""
    config = dataclasses.replace(PRESETS[preset], device="cpu", **settings)
    with InProcess("jax") as one, InProcess("torch") as other:
        lockstep = Lockstep(config, load(config.dataset), (one, other), steps)
        for _ in lockstep.run({*TRACED, steps}):
            pass
    return lockstep.report


def figures(folder):
    return json.loads((folder / "parity.json").read_text())


@pytest.mark.parametrize(
    ("steps", "least"), [(20, 100), pytest.param(3000, 7000, marks=pytest.mark.long("takes two minutes"))]
)
def test_float64_agrees(steps, least, run, tmp_path):
    """Leaky's; relu's first 300 are one of the README's commands. A fault of the step shows in its first."""
    process = run(
        PARITY, "--preset", "leaky", "--dtype", "float64", "--steps", str(steps), "--json", "parity.json", timeout=280
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stderr == ""
    assert f"parity holds: {steps} steps within bounds" in process.stdout
    found = figures(tmp_path)
    assert found["within_bounds"]
    assert found["first_mismatch"] is None
    assert found["steps_compared"] == steps
    assert found["sign_flips"] == []
    for kind in ("parameters", "epochs.parameters"):
        assert found["quantities"][kind]["bound"] == 1e-13
        assert 0 < found["quantities"][kind]["absolute"] < 1e-13
    assert set(found["test_correct"]) == {*map(str, range(0, steps, 300)), str(steps)}
    for correct in found["test_correct"].values():
        assert correct["jax"] == correct["torch"]
    ends = {side: run["test_correct"] for side, run in found["free_runs"].items()}
    assert ends == found["test_correct"][str(steps)]
    assert ends["jax"] > least


def test_the_optimizers_of_both_agree(digits, tmp_path):
    """Over more than two epochs, whose last batches are smaller."""
    rule = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "label_smoothing": 0.1}
    dataset = write_idx_folder(tmp_path, digits)
    report = check(14, dtype="float64", seed=5, dataset=dataset, batch_size=20, **rule)
    assert report.mismatch is None, str(report.mismatch)
    assert "momentums" in report.worst


def test_float32_explains_forced_sign_flips(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / "start.safetensors", near_zero(initial_parameters("torch_linear", (784, 200, 200, 10), 0)))
    flags = ["--initial-weights", "start.safetensors", "--json", "parity.json", "--traces", "traces"]
    assert run_parity(monkeypatch, "--steps", "20", *flags) == 0
    found = figures(tmp_path)
    sign_flips = [flip for flip in found["sign_flips"] if flip["step"] == 1]
    assert len(sign_flips) >= 20
    for flip in sign_flips:
        assert flip["layer"] == 0
        assert flip["example"] == flip["unit"]
        assert (flip["a"] > 0) != (flip["b"] > 0)
        assert 0 < max(abs(flip["a"]), abs(flip["b"])) <= flip["rounding"] < 1e-5
    assert re.search(
        r"ReLU sign flips: \d+, all within rounding of 0 .*after step 1 each step began", capsys.readouterr().out
    )

    names = {f"step-{step:06d}-{side}.safetensors" for step in (1, 2, 10, 20) for side in ("jax", "torch")}
    assert {path.name for path in (tmp_path / "traces").iterdir()} == names
    one, other = (Trace.load(tmp_path / f"traces/step-000001-{side}.safetensors") for side in ("jax", "torch"))
    assert list(one.tensors) == list(other.tensors)
    signs = [trace.tensors["layers.0.pre_activation"] > 0 for trace in (one, other)]
    assert (signs[0] != signs[1]).sum() == len(sign_flips)


LARGE_STEPS = {"preset": "relu", "last_activation": "none", "batch_size": 32, "learning_rate": 0.1, "momentum": 0.9}


@pytest.mark.long("80 steps")
def test_float64_tells_amplified_rounding_from_a_fault(tmp_path, monkeypatch, capsys):
    """Steps this large amplify rounding by orders of magnitude; each of them still agrees from common parameters."""
    flags = [word for name, value in LARGE_STEPS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    json_file = str(tmp_path / "parity.json")
    assert run_parity(monkeypatch, *flags, "--steps", "80", "--dtype", "float64", "--json", json_file) == 0
    drifts = figures(tmp_path)["drifts"]
    assert drifts
    assert re.search(r"drift: step \d+, .*; from common parameters the step agrees", capsys.readouterr().out)


@pytest.mark.long("the words alone differ from those of float64")
def test_float32_says_that_a_difference_has_built_up():
    report = check(80, **LARGE_STEPS)
    if report.mismatch is None:  # a sign flip can come first
        assert report.sign_flips
    else:
        assert "the difference has built up over the steps before" in report.mismatch.note


@pytest.mark.long("400 steps")
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("float32", {"momentum": 0.9, "learning_rate": 0.1}),
        ("float64", {"label_smoothing": 1.0}),
    ],
)
def test_what_is_learned_by_heart_agrees(dtype, settings, digits, tmp_path):
    """Gradients next to nothing, of which rounding is all that is left."""
    source = {"dataset": write_idx_folder(tmp_path, digits), "hidden": (8, 8), "batch_size": 20}
    report = check(400, dtype=dtype, last_activation="none", **source, **settings)
    assert report.mismatch is None, str(report.mismatch)
    assert report.steps_compared == 400


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": ()},
        pytest.param({"hidden": (8, 8), "batch_size": 1}, marks=COMPILES),
        pytest.param({"hidden": (8, 8), "batch_size": 7001}, marks=COMPILES),
    ],
)
def test_other_shapes_agree(settings):
    report = check(3, last_activation="none", **settings)
    assert report.mismatch is None, str(report.mismatch)
    assert report.steps_compared == 3


def test_near_ties_are_settled_and_wide_margins_are_not():
    def evaluated(predictions, margins):
        tensors = {"evaluation.predictions": np.array(predictions), "evaluation.losses": np.ones(4)}
        return Evaluated(tensors, np.array(margins))

    table = bound_table.table("float32", 784)
    reach = 2 * table["evaluation.losses"].relative
    a = evaluated([0, 1, 2, 3], [0.0, 0.9 * reach, 1.1 * reach, 5.0])
    b = evaluated([9, 9, 9, 3], [0.0, 0.0, 0.0, 5.0])
    assert list(near_ties(a, b, table)) == [1], "0 is an exact tie, which has a rule; 2 is too far; 3 agrees"


def test_a_nan_on_both_sides_fails(monkeypatch, capsys):
    assert run_parity(monkeypatch, "--learning-rate", "1e30", "--steps", "10", "--dtype", "float32") == 1
    said = capsys.readouterr().out
    assert re.search(r"first mismatch: step \d", said)
    assert "parity holds" not in said


def test_a_real_mismatch_ends_with_status_1_and_names_it(tmp_path, monkeypatch, capsys):
    """A port that forgot torch's rule of weight decay: the trainer itself is wrong, no fault is planted."""
    decayed = optax.add_decayed_weights
    monkeypatch.setattr(optax, "add_decayed_weights", lambda weight_decay: decayed(2 * weight_decay))
    json_file = str(tmp_path / "parity.json")
    assert run_parity(monkeypatch, "--steps", "5", "--weight-decay", "1e-3", "--json", json_file) == 1
    assert "first mismatch: step 1, update, layers.0.weight[" in capsys.readouterr().out
    mismatch = figures(tmp_path)["first_mismatch"]
    assert (mismatch["step"], mismatch["phase"], mismatch["tensor"]) == (1, "update", "layers.0.weight")
    one, other = mismatch["values"]
    assert mismatch["absolute"] == pytest.approx(abs(one - other))
    assert mismatch["absolute"] > mismatch["bound"] > 0
    assert mismatch["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be from 1 to 10000000, got 0"),
        (["--steps", "100000000000000000000000"], "--steps must be from 1 to 10000000, got 1000000000"),
        (["--self-test", "another seed", "--hidden", "3"], "--self-test takes no flag of a run"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
        (["--self-test", "learning rate"], "there is no fault 'learning rate'; the nearest is 'learning rate 1 % off'"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json: No such file or directory"),
        (["--json", "taken.json"], "--json taken.json exists; name a new file"),
        (["--traces", "taken"], "--traces taken is not empty; name a new or empty folder"),
        (["--traces", "taken.json"], "--traces taken.json is not a folder"),
        (["--traces", "new", "--json", "taken.json"], "--json taken.json exists; name a new file"),
        (["--device", "gpu"], "--device gpu: "),
        (["--batch-size", "60001"], "--batch-size must be at most 60000, the training examples, got 60001"),
        (["--initial-weights", "nothing"], "nothing: no such file"),
        (["--dataset", "idx:nowhere"], "nowhere"),
        (["--preset", "gelu"], "preset"),
        (["--sides", "torch", "nonsense"], "--sides nonsense: there is no module nonsense.train"),
    ],
)
def test_bad_arguments_end_in_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text("kept")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("kept")
    assert run_parity(monkeypatch, *([] if "--self-test" in arguments else ["--steps", "2"]), *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("python -m mlp_compare.parity: error: ")
    assert message in said.err
    assert (tmp_path / "taken.json").read_text() == (tmp_path / "taken/file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "taken.json"]


@pytest.mark.long("starts both frameworks")
def test_too_little_memory_on_a_side_is_one_line(run):
    process = run(PARITY, "--hidden", "1000000", "1000000", "--steps", "2")
    assert (process.returncode, process.stdout) == (2, "")
    assert re.fullmatch(r"python -m mlp_compare.parity: error: .*not enough memory.*\n", process.stderr)


@pytest.mark.long("starts both frameworks")
def test_an_output_that_cannot_be_written_costs_no_figures(run, tmp_path):
    with open("/dev/full", "w") as full:
        command = [python(), "-m", PARITY, "--steps", "2", "--json", str(tmp_path / "parity.json")]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=240)
    assert process.returncode == 2
    assert process.stderr == "python -m mlp_compare.parity: error: No space left on device\n"
    assert figures(tmp_path)["within_bounds"]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_table_is_whole_at_any_width(columns):
    console = Output(width=int(columns), file=io.StringIO())
    found = Difference("layers.0.pre_activation", (199, 199), 1.0, 1.1, 1.234e-16, 2.345e-16, 4321.0, 1e-13)
    report = Report(worst={"pre_activations": Worst(3000, found)}, steps_compared=3000)
    facts = {side: {"framework": f"{side} 1", "device": "cpu"} for side in ("jax", "torch")}
    print_report(console, PRESETS["leaky"], 3000, report, facts, bound_table.table("float64", 784))
    text = console.file.getvalue()
    assert "…" not in text
    for figure in ("1.2e-16", "1.0e-13", "3000", "810x", *(["2.3e-16", "4321"] if columns == "200" else [])):
        assert figure in text
    assert max(map(len, text.splitlines()[2:-2])) <= int(columns)


@pytest.mark.parametrize(("optimizer", "dtype"), [("sgd", "float32"), ("adamw", "float64"), ("adamw", "float32")])
def test_adam_in_float32_says_that_each_step_began_from_common_parameters(optimizer, dtype):
    console = Output(width=120, file=io.StringIO())
    config = dataclasses.replace(PRESETS["leaky"], optimizer=optimizer, dtype=dtype)
    facts = {side: {"framework": f"{side} 1", "device": "cpu"} for side in ("jax", "torch")}
    print_report(console, config, 10, Report(steps_compared=10), facts, bound_table.table(dtype, 784))
    line = "adamw in float32 amplifies rounding: each step began from common parameters"
    assert (line in console.file.getvalue()) == ((optimizer, dtype) == ("adamw", "float32"))


def said(report, steps=20):
    console = Output(width=120, file=io.StringIO())
    facts = {side: {"framework": f"{side} 1", "device": "cpu"} for side in ("jax", "torch")}
    print_report(console, PRESETS["leaky"], steps, report, facts, bound_table.table("float64", 784))
    return console.file.getvalue()


@pytest.mark.parametrize(("bound", "said_of_it"), [(1e-13, "1.0e-13"), (0.0, "equal")])
def test_the_bound_of_what_is_equal_is_shown_too(bound, said_of_it):
    found = Difference("loss", (), 1.0, 1.0, 0.0, 0.0, 0.0, bound)
    assert re.search(rf"^ *loss +equal +{said_of_it} *$", said(Report(worst={"loss": Worst(3, found)})), re.M)


@pytest.mark.parametrize("flips", [10, 12])
def test_ten_sign_flips_are_printed_and_how_many_more_there_are(flips):
    text = said(Report(sign_flips=[SignFlip(4, 0, number, 0, 1e-9, -1e-9, 1e-7) for number in range(flips)]))
    assert f"ReLU sign flips: {flips}, " in text
    assert "after step 4 each step began" in text
    assert len(re.findall(r"^  step 4, layers\.0\.pre_activation", text, re.M)) == 10
    assert ("and 2 more (--json has them all)" in text) == (flips == 12)
    assert ("more" in text) == (flips == 12)


def test_each_near_tie_is_printed_and_what_is_right_at_the_end():
    def free_run(correct):
        return FreeRun(np.ones(1), {}, Evaluated({"evaluation.correct": np.array(correct)}, np.ones(1)))

    report = Report(near_ties=["step 20, test example 3", "step 20, test example 5"], steps_compared=20)
    report.correct = {0: (1, 2), 20: (8000, 8001)}
    report.free_runs = free_run(7000), free_run(7001)
    text = said(report)
    for example in (3, 5):
        assert f"near tie: step 20, test example {example}: rounding chooses" in text
    assert "correct on the test set after step 20: jax 8000, torch 8001" in text
    assert "after 20 steps by the trainers' own epochs: jax 7000, torch 7001" in text


def test_a_mismatch_is_printed_with_both_values_its_bound_and_its_note():
    found = Difference("layers.0.weight", (3, 4), 0.5, 0.25, 0.25, 0.5, 10.0, 1e-13)
    text = said(Report(mismatch=Mismatch(7, found, "it has built up")))
    assert "first mismatch: step 7, update, layers.0.weight[3, 4]" in text
    for words in ("  jax    0.5", "  torch  0.25", "  2.50e-01 apart, allowed 1.00e-13 (", "  it has built up"):
        assert words in text
    assert "parity holds" not in text
    shapes = dataclasses.replace(found, index=(), note="(2, 3) and (3, 2)")
    assert "first mismatch: step 7, update, layers.0.weight\n  (2, 3) and (3, 2)\n" in said(
        Report(mismatch=Mismatch(7, shapes))
    )


def test_the_file_has_the_note_of_a_mismatch_or_of_its_difference():
    found = Difference("layers.0.weight", (), 0.5, 0.25, 0.25, 0.5, 10.0, 1e-13, note="other shapes")
    for note, expected in (("built up", "built up"), ("", "other shapes")):
        report = Report(mismatch=Mismatch(7, found, note))
        content = as_json(PRESETS["leaky"], 9, report, {}, bound_table.table("float64", 784))
        assert content["first_mismatch"]["note"] == expected
        assert content["within_bounds"] is False


@pytest.mark.parametrize(
    ("step", "name", "phase"),
    [
        (0, "layers.0.weight", "start"),
        (1, "layers.0.weight", "update"),
        (1, "layers.0.weight.momentum", "update"),
        (1, "optimizer.step", "update"),
        (1, "batch.digest", "batch"),
        (1, "inputs", "batch"),
        (1, "layers.0.pre_activation", "forward"),
        (1, "logits", "forward"),
        (1, "loss", "loss"),
        (1, "logits.grad", "backward"),
        (1, "layers.0.weight.grad", "backward"),
        (1, "evaluation.loss", "evaluation"),
        (1, "epochs.loss", "whole epochs"),
    ],
)
def test_a_mismatch_names_the_part_of_the_step(step, name, phase):
    assert Mismatch(step, Difference(name, (), 0.5, 0.25, 0.25, 0.5, 10.0, 1e-13)).phase == phase


def test_the_worst_of_a_quantity_is_the_one_nearest_its_bound():
    report = Report()
    for step, bound in ((1, 3.0), (2, 2.0), (3, 4.0)):
        report.take("loss", step, Difference("loss", (), 0.0, 1.0, 1.0, 1.0, 1.0, bound))
    assert report.worst["loss"].step == 2


def test_products_of_another_precision_have_no_bounds():
    with pytest.raises(UserError, match="--matmul-precision: parity is checked with highest"):
        Parity(config=dataclasses.replace(PRESETS["leaky"], matmul_precision="tf32"))


def test_the_command_itself_loads_neither_framework():
    check = "import sys, mlp_compare.parity; sys.exit(bool({'jax', 'torch', 'flax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_a_side_that_dies_is_an_error_and_no_hang():
    with WorkerProcess("torch", Worker) as side:
        side._process.kill()
        with pytest.raises(UserError, match="the torch process ended with -9"):
            side.do("facts")
        np.testing.assert_equal(side._process.exitcode, -9)


@pytest.mark.parametrize(
    "side", ["nonsense", "mlp_workload.nonsense", "json", "mlp_workload.config", "xml.dom.minidom"]
)
def test_a_side_that_is_not_there_is_refused_before_any_is_started(side):
    with pytest.raises(UserError, match=rf"--sides {side}: there is no module {side}\.train"):
        Parity(sides=("torch", side))


@pytest.mark.parametrize("side", ["jax_mlp", "examples.numpy_side"])
def test_a_side_that_is_there_is_not_imported_to_see_that(side):
    check = f"from mlp_workload.interface import check_is_there; check_is_there({side!r})"
    script = f"import sys; {check}; print({side!r} in sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout == "False\n", process.stderr
