"""The command for owners of a GPU, on this machine's CPU: what it tries, what it leaves out, and that it can fail."""

import json
import sys

import pytest
from helpers import write_idx_folder
from warm import python

import mlp_compare.gpu_check.__main__ as gpu_check
from mlp_compare.gpu_check import machine_checks
from mlp_compare.gpu_check.machine_checks import CHECKS, Machine
from mlp_workload.errors import UserError


@pytest.fixture
def machine(tmp_path, digits):
    """On a small set of data, by the same commands."""
    (tmp_path / "check").mkdir()
    dataset = write_idx_folder(tmp_path, digits)
    return Machine(tmp_path / "check", ["--device", "cpu", "--dataset", dataset, "--batch-size", "20"], quick=True)


def test_what_is_quick_on_a_cpu(machine, monkeypatch):
    """Commands are forks here, which start at once."""
    monkeypatch.setattr(sys, "executable", python())
    names = ("devices", "GPU against CPU", "memory", "captured loops")
    found = {name: machine.run(name, CHECKS[name]).outcome for name in names}
    assert machine.device == "cpu"
    assert found == {"devices": "passed"} | dict.fromkeys(names[1:], "left out")


@pytest.mark.long("starts both frameworks a dozen times")
def test_what_a_cpu_can_show_and_what_it_leaves_out(machine, monkeypatch):
    """With one preset, two runs of JAX alone, and not the doctor and the benchmark, which have tests of their own."""
    monkeypatch.setattr(sys, "executable", python())
    monkeypatch.setattr(machine_checks, "PRESETS", {"leaky": machine_checks.PRESETS["leaky"]})
    found = {}
    for name in [name for name in CHECKS if name not in ("doctor", "speed")]:
        with monkeypatch.context() as patch:
            if name == "same bytes":
                patch.setattr(machine_checks, "TRAINERS", {"jax": "jax_mlp.train"})
            found[name] = machine.run(name, CHECKS[name])
    assert machine.device == "cpu"
    assert {name: result.outcome for name, result in found.items()} == {
        "devices": "passed",
        "parity": "passed",
        "GPU against CPU": "left out",
        "same bytes": "passed",
        "memory": "left out",
        "captured loops": "left out",
        "many seeds": "measured",
    }
    assert "needs a GPU, and the trainers are on cpu" in found["memory"].message
    assert "all 300 steps within bounds" in found["parity"].message
    assert len(found["parity"].figures) == 2
    assert found["same bytes"].message == "two runs of each framework have the same bytes"


@pytest.mark.parametrize("quick", [True, False])
def test_commands_have_the_flags_of_the_check(quick, tmp_path, monkeypatch):
    """Each check up to its first command."""
    commands = {}

    def command(module, *arguments, **options):
        commands[name] = " ".join(arguments)
        raise UserError("seen")

    machine = Machine(tmp_path, ["--device", "gpu", "--gpu", "1"], quick)
    machine.device = "gpu"
    monkeypatch.setattr(machine, "command", command)
    for name, check in CHECKS.items():
        machine.run(name, check)
    on_the_gpu = {name for name, arguments in commands.items() if "--device gpu --gpu 1" in arguments}
    assert on_the_gpu == {"devices", "parity", "same bytes", "captured loops", "many seeds", "speed"}
    assert ("--quick" in commands["speed"], "--steps 300" in commands["parity"]) == (quick, quick)


@pytest.mark.parametrize(
    ("differs", "outcome", "message"),
    [
        ("none", "passed", "two runs of each framework have the same bytes"),
        ("jax-default", "passed", "two runs of each framework have the same bytes, but not of jax"),
        ("torch", "failed", "two runs differ: torch --deterministic, torch"),
    ],
)
def test_runs_that_end_otherwise_are_found(differs, outcome, message, machine, monkeypatch):
    def train(framework, name, *flags, **options):
        (machine.folder / name).mkdir()
        content = name if name.startswith(differs) else framework
        (machine.folder / name / "weights.safetensors").write_text(content)

    monkeypatch.setattr(machine, "train", train)
    found = machine.run("same bytes", machine_checks.same_bytes)
    assert (found.outcome, found.message) == (outcome, message)


@pytest.mark.long("starts a broken copy four times")
def test_a_trainer_that_ends_otherwise_each_time_is_found(machine, packages, monkeypatch):
    """With the clock in its first weights."""
    file = packages / "reference_torch/trainer.py"
    source = file.read_text()
    assert "torch.manual_seed(config.seed)" in source
    file.write_text(source.replace("torch.manual_seed(config.seed)", "torch.manual_seed(__import__('time').time_ns())"))
    monkeypatch.setattr(machine_checks, "__file__", str(packages / "mlp_compare/gpu_check/machine_checks.py"))
    monkeypatch.setattr(machine_checks, "TRAINERS", {"torch": "reference_torch.train"})
    found = machine.run("same bytes", machine_checks.same_bytes)
    assert (found.outcome, found.message) == ("failed", "two runs differ: torch --deterministic, torch")


def test_it_writes_one_json_and_one_report_and_says_whether_all_passed(tmp_path, monkeypatch, capsys):
    def fine(machine):
        machine.device = "cpu"
        return "all is well", {"figure": 1}

    def gone(machine):
        machine.command("mlp_workload.export_onnx", "nowhere", "model.onnx")

    checks = {"one": fine, "two": gone, "three": machine_checks.memory}
    monkeypatch.setattr(machine_checks, "CHECKS", checks)
    assert not gpu_check.run(gpu_check.GpuCheck(output=tmp_path / "check"))
    result = json.loads((tmp_path / "check/gpu-check.json").read_text())
    assert [check["outcome"] for check in result["checks"]] == ["passed", "failed", "left out"]
    assert result["checks"][0]["figures"] == {"figure": 1}
    assert "nowhere: no such run folder" in result["checks"][1]["message"]
    report = (tmp_path / "check/report.md").read_text()
    assert report.splitlines()[:3] == ["# Checked on cpu", "", "- passed: one: all is well"]
    assert "failed     two: mlp_workload.export_onnx" in capsys.readouterr().out


def test_wrong_arguments_end_in_one_line(run, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    for arguments, message in {
        "--output taken": "--output taken is not empty",
        "--gpu 1 --device cpu": "--gpu must be left out with --device cpu",
    }.items():
        process = run("mlp_compare.gpu_check", *arguments.split())
        assert process.returncode == 2
        assert len(process.stderr.splitlines()) == 1
        assert message in process.stderr
