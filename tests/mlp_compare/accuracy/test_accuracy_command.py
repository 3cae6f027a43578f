"""`python -m mlp_compare.accuracy` as people type it."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers import ROOT
from in_process import InProcess
from matplotlib.figure import Figure
from warm import python

import mlp_compare.accuracy.__main__ as accuracy
from mlp_compare.accuracy import distributions, equivalence, measurement, runner
from mlp_compare.accuracy.__main__ import Accuracy
from mlp_compare.accuracy.measurement import Cell
from mlp_compare.accuracy.runner import OWN_ORDERS
from mlp_compare.comparable import require_comparable
from mlp_workload.batches import epoch_order
from mlp_workload.config import LARGEST_SEED, PRESETS
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.interface import TITLES, package_of
from mlp_workload.sinks.console import Output

COMMAND = "mlp_compare.accuracy"
SMALL = ("--seeds", "2", "--epochs", "1", "--preset", "relu", "--last-activation", "none")

WRONG = [
    ("--seeds 1", "--seeds must be from 2 to 100000, got 1"),
    ("--seeds 9999999999999", "--seeds must be from 2 to 100000, got 9999999999999"),
    ("--seeds two", "--seeds"),
    ("--epochs 0", "--epochs must be from 1 to 100000, got 0"),
    ("--preset tanh", "--preset: invalid choice: 'tanh'"),
    ("--last-activation no", "--last-activation: invalid choice: 'no'"),
    ("--json taken.svg", "--json taken.svg exists; name a new file"),
    ("--plot taken.svg", "--plot taken.svg exists; name a new file"),
    ("--json new.svg --plot new.svg", "--plot new.svg exists; name a new file"),
    ("--json new.json --plot taken.svg", "--plot taken.svg exists; name a new file"),
    ("--plot picture.png", "--plot must end in .svg, got picture.png"),
    ("--json nowhere/new.json", "cannot write nowhere/new.json: No such file or directory"),
    ("--json ~nosuchuser/new.json", "home directory"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[arguments for arguments, _ in WRONG])
def test_bad_input_ends_in_one_line_and_status_2_before_any_training(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "taken.svg").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["accuracy", *arguments.split()])
    monkeypatch.setattr(measurement, "measure", lambda *_: pytest.fail("trained"))
    with pytest.raises(SystemExit) as stop:
        accuracy.main()
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("python -m mlp_compare.accuracy: error: ")
    assert message in line
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"taken.svg": "mine"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, mnist):
    """A small run on few images: what would be its process, and the folder with its files."""
    folder = tmp_path_factory.mktemp("measured")
    arguments = [*SMALL, "--json", "new.json", "--plot", "new.svg"]
    few = replace(mnist, train=part(mnist.train, 2000), test=part(mnist.test, 1000))
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as output,
        redirect_stderr(StringIO()) as errors,
    ):
        patch.setattr(runner, "load", lambda *_: few)
        patch.setattr(measurement, "WorkerProcess", InProcess)
        patch.setattr(sys, "argv", ["accuracy", *arguments])
        patch.setenv("COLUMNS", "60")
        patch.chdir(folder)
        with pytest.raises(SystemExit) as stop:
            accuracy.main()
    return subprocess.CompletedProcess([], stop.value.code, output.getvalue(), errors.getvalue()), folder


def part(examples, number):
    return replace(examples, images=examples.images[:number], labels=examples.labels[:number])


def test_a_small_run_prints_a_table_and_writes_all_figures(measured):
    process, folder = measured
    assert (process.returncode, process.stderr) == (0, "")
    assert "\x1b" not in process.stdout
    content = json.loads((folder / "new.json").read_text())
    assert (content["margin"], content["epochs"]) == (equivalence.MARGIN, 1)
    assert {framework: "device" in facts for framework, facts in content["sides"].items()} == {
        "jax": True,
        "torch": True,
    }
    assert "jaxlib" in content["sides"]["jax"]["environment"]["versions"]
    paired, unpaired = content["cells"]
    for cell, pairing in ((paired, "paired"), (unpaired, "unpaired")):
        assert (cell["preset"], cell["last_activation"], cell["pairing"], cell["n"]) == ("relu", "none", pairing, 2)
        found = equivalence.equivalence(*cell["correct"].values(), paired=pairing == "paired", two_humps=False)
        assert cell["tost_p"] == found.tost_p
        assert cell["bootstrap_interval"] == list(found.bootstrap_interval)
        means = " ± .*".join(f"{mean:.1f}" for mean in found.means)
        assert re.search(rf"\| relu +\| none +\| {pairing} +\| 2 \| .*{means} ± .*\| {found} +\|", process.stdout)


def test_pairs_end_alike_and_own_starts_do_not(measured):
    _, folder = measured
    paired, unpaired = (cell["correct"] for cell in json.loads((folder / "new.json").read_text())["cells"])
    ends = [correct for counts in (paired, unpaired) for side in counts.values() for correct in side]
    assert all(100 < end < 1000 for end in ends), ends
    assert all(abs(one - other) <= 10 for one, other in zip(paired["jax"], paired["torch"], strict=True))
    assert paired["jax"] not in (unpaired["jax"], unpaired["torch"])
    assert unpaired["jax"] != unpaired["torch"]


def test_the_picture_is_an_svg_with_a_dot_for_each_run(measured):
    _, folder = measured
    text = (folder / "new.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for colour in ("#3f86e0", "#e06c2f"):
        dots = [use for use in re.findall(r"<use [^>]*>", text) if colour in use]
        assert len(dots) == 4, colour
    assert "<dc:date>" not in text


def test_the_picture_is_the_same_whenever_the_counts_are():
    counts = {"jax": [9553, 9556], "torch": [9568, 9539]}
    found = equivalence.equivalence(*counts.values(), paired=True, two_humps=False)
    cells = [
        Cell(config, pairing, counts, found) for config in Accuracy().configs for pairing in ("paired", "unpaired")
    ]
    assert distributions.draw(cells) == distributions.draw(cells)


def test_status_1_says_that_a_cell_is_different(monkeypatch, tmp_path):
    def measure(torch):
        counts = {"jax": [9553, 9554], "torch": torch}
        config = Accuracy(preset="relu", last_activation="none").configs[0]
        found = equivalence.equivalence(*counts.values(), paired=True, two_humps=False)
        facts = {name: {"device": "cpu", "environment": {"versions": {name: "1"}}} for name in counts}
        return measurement.Measurement([measurement.Cell(config, "paired", counts, found)], facts)

    monkeypatch.setattr(sys, "argv", ["accuracy"])
    for torch, status in (([9550, 9551], 0), ([9553, 8000], 0), ([9000, 9001], 1)):
        monkeypatch.setattr(measurement, "measure", lambda *_, torch=torch: measure(torch))
        with pytest.raises(SystemExit) as stop:
            accuracy.main()
        assert stop.value.code == status


class Counts:
    """A side on a CPU, or on the device in `others`. Its runs end as those of every other with their seed."""

    others: ClassVar[dict[str, str]] = {}

    def __init__(self, framework, worker):
        self._framework = framework

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def do(self, method, config, pairing=None):
        if method == "final_correct":
            return 9550 + config.seed
        versions = {"versions": {self._framework: "1"}}
        return {"device": self.others.get(self._framework, "cpu"), "precision": "IEEE float32", "environment": versions}


@pytest.mark.parametrize(
    ("last_activation", "seeds", "result", "said"),
    [
        ("none", 2, "equivalent", False),
        ("same", 2, "too few seeds", True),
        ("same", equivalence.TWO_HUMP_SEEDS, "equivalent", False),
    ],
)
def test_few_seeds_allow_no_result_where_a_run_can_lose_a_class(last_activation, seeds, result, said, monkeypatch):
    monkeypatch.setattr(measurement, "WorkerProcess", Counts)
    configs = Accuracy(preset="relu", last_activation=last_activation).configs
    measured = measurement.measure(configs, seeds, Output(quiet=True))
    assert [cell.equivalence.result for cell in measured.cells] == [result] * 2
    assert [cell.correct["jax"] for cell in measured.cells] == [[9550 + seed for seed in range(seeds)]] * 2
    console = Output(file=StringIO())
    measurement.print_measurement(console, measured)
    assert ("accuracies have two humps" in " ".join(console.file.getvalue().split())) is said


def test_accuracies_on_different_devices_are_not_compared(monkeypatch):
    monkeypatch.setattr(measurement, "WorkerProcess", Counts)
    monkeypatch.setitem(Counts.others, "torch", "gpu (A)")
    with pytest.raises(
        UserError, match=r"their device differs: jax on cpu, torch on gpu \(A\); name one with --device"
    ):
        measurement.measure(Accuracy().configs, 2, Output(quiet=True))


@pytest.mark.parametrize(("setting", "flag"), [("device", "--device"), ("precision", "--matmul-precision")])
def test_what_was_computed_otherwise_is_not_compared(setting, flag):
    same = {"device": "cpu", "precision": "IEEE float32"}
    require_comparable({"one": same, "other": same})
    with pytest.raises(UserError, match=f"their {setting} differs: one .*, other .*; name one with {flag}$"):
        require_comparable({"one": same, "other": same | {setting: "another"}})


def test_the_picture_has_the_margin_around_pytorchs_mean_and_lines_between_pairs():
    counts = {"jax": [9553, 9555], "torch": [9600, 9602]}
    found = equivalence.equivalence(*counts.values(), paired=True, two_humps=False)
    config = Accuracy().configs[0]
    axes = Figure().subplots()
    distributions._draw_group(axes, [Cell(config, pairing, counts, found) for pairing in ("paired", "unpaired")])
    bands, lines = axes.collections[::3], [line for line in axes.lines if line.get_marker() == "None"]
    assert len(bands) == 2
    for band in bands:
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (9601 - equivalence.MARGIN, 9601 + equivalence.MARGIN)
    assert [line.get_ydata().tolist() for line in lines] == [[9553, 9600], [9555, 9602]]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["JAX\npaired", "PyTorch\npaired", "JAX\nunpaired", "PyTorch\nunpaired"]


def test_the_flags_choose_the_cells():
    def cells(**flags):
        return [(config.preset, config.last_activation) for config in Accuracy(**flags).configs]

    assert cells() == [("relu", "same"), ("relu", "none"), ("leaky", "same"), ("leaky", "none")]
    assert cells(preset="leaky") == [("leaky", "same"), ("leaky", "none")]
    assert cells(last_activation="none") == [("relu", "none"), ("leaky", "none")]
    assert {config.epochs for config in Accuracy(epochs=3).configs} == {3}
    with pytest.raises(UserError):
        Accuracy(seeds=1)


@pytest.mark.parametrize("framework", OWN_ORDERS)
def test_own_orders_are_permutations_that_differ_by_epoch_and_seed_and_come_again(framework):
    orders = {seed: [tuple(order) for order in OWN_ORDERS[framework](seed, 2, 50)] for seed in (0, 1, LARGEST_SEED)}
    flat = [order for both in orders.values() for order in both]
    assert all(sorted(order) == list(range(50)) for order in flat)
    assert len({*flat}) == 6
    assert [tuple(order) for order in OWN_ORDERS[framework](0, 2, 50)] == orders[0]


@pytest.mark.parametrize("framework", TITLES)
def test_pairs_start_from_the_shared_weights_and_others_from_the_frameworks_own(framework, digits, monkeypatch):
    monkeypatch.setattr(runner, "load", lambda *_: digits)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    runs = runner.Runs(framework)
    for seed in (3, 4):
        config = replace(PRESETS["relu"], epochs=0, hidden=(5,), seed=seed)
        trainer = importlib.import_module(f"{package_of(framework)}.trainer").Trainer(config, digits, None)
        shared = initial_parameters(config.initialization, config.widths(30, 3), seed)
        for pairing, start in (("paired", shared), ("unpaired", trainer.state())):
            runs.final_correct(config, pairing)
            for name, array in runs._trainer.state().items():
                np.testing.assert_array_equal(array, start[name].astype(np.float32))


@pytest.mark.parametrize("framework", TITLES)
def test_pairs_see_the_batches_of_a_run(framework, digits, monkeypatch):
    monkeypatch.setattr(runner, "load", lambda *_: digits)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    config = replace(PRESETS["relu"], epochs=2, hidden=(5,), batch_size=7, seed=3, device="cpu")
    runs = runner.Runs(framework)
    runs.final_correct(config, "paired")
    shared = initial_parameters(config.initialization, config.widths(30, 3), 3)
    trainer = importlib.import_module(f"{package_of(framework)}.trainer").Trainer(config, digits, shared)
    for epoch in (1, 2):
        trainer.train_steps(epoch_order(3, epoch, len(digits.train)))
    for name, array in runs._trainer.state().items():
        np.testing.assert_array_equal(array, trainer.state()[name])


def test_all_settings_reach_the_runs():
    settings = {"epochs": 3, "device": "gpu", "gpu": 1, "matmul_precision": "tf32"}
    configs = accuracy.Accuracy(**settings).configs
    assert len(configs) == 4
    assert all({name: getattr(config, name) for name in settings} == settings for config in configs)


def has_both_sides(process):
    """Whether it has started them, and multiprocessing's tracker, and answers SIGINT, which it ignores meanwhile."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ignored = int(re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{process}/status").read_text())[1], 16)
    return len(children) == 3 and not ignored >> (signal.SIGINT - 1) & 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's table of processes")
def test_ctrl_c_ends_it_in_one_line_and_leaves_no_file(tmp_path):
    command = [sys.executable, "-m", COMMAND, "--json", "new.json"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "new.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    while not has_both_sides(process.pid):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "python -m mlp_compare.accuracy: interrupted\n")
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["scipy", "matplotlib"])
def test_a_missing_package_is_named_in_one_line(missing, tmp_path):
    script = f"import runpy, sys; sys.modules['{missing}'] = None; runpy.run_module('{COMMAND}', run_name='__main__')"
    process = subprocess.run(
        [python(), "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert re.fullmatch(rf".* error: {missing} is not installed: .*\[compare\].*\n", process.stderr)


def test_help_says_what_the_exit_status_means(run):
    process = run(COMMAND, "--help")
    assert process.returncode == 0
    assert "Exit status 0: measured" in " ".join(process.stdout.split())


@pytest.mark.parametrize(
    ("framework", "variable", "value"), [("jax", "JAX_TRANSFER_GUARD", "disallow"), ("torch", "WORLD_SIZE", "4")]
)
def test_a_variable_in_the_way_is_named(framework, variable, value, monkeypatch):
    """Each trainer's command names it too."""
    for name, number in {"RANK": "2", "LOCAL_RANK": "2", variable: value}.items():
        monkeypatch.setenv(name, number)
    with pytest.raises(UserError, match=variable):
        runner.Runs(framework).compiled(PRESETS["leaky"])
