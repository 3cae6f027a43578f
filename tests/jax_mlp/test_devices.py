"""One run on many devices: the numbers of one device, and no example left out or counted twice."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT, assert_one_line, ends, processes
from on_devices import DEVICES, MESHES, SOME, TESTED, UNEVEN
from safetensors.numpy import load_file
from tolerances import DEVICES_FLOAT64, RUN_FLOAT64

import jax_mlp.train
from jax_mlp import sharding
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun

MANY = pytest.mark.long("trains on each number of devices, and 100 steps of MNIST")


def train_on_devices(folder, data, amount):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "8"}
    command = [sys.executable, str(ROOT / "tests/on_devices.py"), str(folder), data, amount]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert (process.returncode, process.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def some(tmp_path_factory, small):
    return train_on_devices(tmp_path_factory.mktemp("some"), small[1], "some")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small):
    """The folder that `on_devices.py` fills: one process for all that is trained on several."""
    return train_on_devices(tmp_path_factory.mktemp("trained"), small[1], "all")


@MANY
@pytest.mark.parametrize("devices", DEVICES[1:])
@pytest.mark.parametrize("preset", PRESETS)
def test_100_steps_end_as_on_one_device(preset, devices, trained):
    one, many = (np.load(trained / f"{preset}-{number}.npz") for number in (1, devices))
    assert one["train.losses"].shape == (100,)
    assert_same(one, many)
    assert np.array_equal(one["test.labels"], many["test.labels"])
    assert np.array_equal(one["test.predictions"], many["test.predictions"])
    assert len(many["test.losses"]) == TESTED


@MANY
@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh != "1"])
def test_divided_hidden_layers_have_the_same_logits_and_gradients(mesh, trained):
    one, split = (np.load(trained / f"split-{name}.npz") for name in ("1", mesh))
    assert {"logits", "layers.0.weight.grad", "layers.1.weight.grad", "layers.2.bias.grad"} <= set(one.files)
    assert_same(one, split)


@pytest.mark.parametrize(
    "mesh", [pytest.param(mesh, marks=() if mesh in SOME else MANY) for mesh in UNEVEN if mesh != "1"]
)
def test_batches_that_cant_be_shared_evenly_have_exact_means(mesh, request):
    """Batches of 20, and of 3 at the end of an epoch; 31 test examples. With momentum, whose state is divided too."""
    folder = request.getfixturevalue("some" if mesh in SOME else "trained")
    one, many = (np.load(folder / f"digits-{name}.npz") for name in ("1", mesh))
    assert one["train.losses"].shape == (18,)
    assert_same(one, many)
    assert len(many["test.losses"]) == 31


def assert_same(expected, actual):
    assert set(expected.files) == set(actual.files)
    for name in expected.files:
        assert actual[name].dtype == expected[name].dtype, name
        if expected[name].dtype.kind == "f":
            DEVICES_FLOAT64.assert_close(actual[name], expected[name], name)
        else:
            np.testing.assert_array_equal(actual[name], expected[name], name)


@MANY
def test_a_run_on_eight_devices_goes_on_with_its_bytes_or_on_one(trained):
    whole, again, on_one = (load_file(trained / name / "weights.safetensors") for name in ("whole", "again", "on-one"))
    for name, array in whole.items():
        assert again[name].tobytes() == array.tobytes(), name
        DEVICES_FLOAT64.assert_close(on_one[name], array, name)
    summary = RecordedRun.load(trained / "on-one").summary
    assert (summary["devices"], summary["steps"], summary["test_examples"]) == (1, 14, 31)
    assert RecordedRun.load(trained / "whole").summary["devices"] == 8


@MANY
@pytest.mark.parametrize(("side", "tolerance"), [("jax", DEVICES_FLOAT64), ("torch", RUN_FLOAT64)])
def test_a_run_on_eight_devices_goes_on_by_two_processes(side, tolerance, trained, tmp_path):
    """In JAX by two that SLURM started, with four devices each, of which two share a hidden layer."""
    shutil.copytree(trained / "on-two", tmp_path / "run")
    mesh = {"jax": ["--devices", "8", "--split-hidden", "2"], "torch": ["--devices", "2"]}[side]
    with processes(side, tmp_path, "--resume", "run", "--epochs", "2", *mesh, slurm=side == "jax") as started:
        (first, _, warned), other = ends(started)
    assert (first, warned, other) == (0, "", (0, "", ""))
    found = load_file(tmp_path / "run/weights.safetensors")
    for name, array in load_file(trained / "whole/weights.safetensors").items():
        tolerance.assert_close(found[name], array, name)
    summary = RecordedRun.load(tmp_path / "run").summary
    assert (summary["framework"], summary["devices"], summary["test_examples"]) == (side, int(mesh[1]), 31)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"devices": 0}, "--devices must be at least 1, got 0"),
        ({"devices": 8, "batch_size": 196}, "--batch-size must be divisible by --devices 8: try 192 or 200, got 196"),
        ({"devices": 8, "batch_size": 5}, "--batch-size must be divisible by --devices 8: try 8, got 5"),
        ({"devices": 8, "split_hidden": 3}, "--devices must be divisible by --split-hidden 3: try 6 or 9, got 8"),
        ({"devices": 8, "split_hidden": 2, "batch_size": 198}, "--devices over --split-hidden, 4: try 196 or 200"),
        (
            {"devices": 8, "split_hidden": 8, "hidden": (200, 36)},
            "--hidden must be divisible by --split-hidden 8: try 32",
        ),
        ({"devices": 2, "split_hidden": 2, "hidden": ()}, "--split-hidden must be 1 without hidden layers, got 2"),
    ],
    ids=str,
)
def test_what_devices_cant_share_is_refused_with_the_nearest_that_they_can(flags, message):
    with pytest.raises(UserError, match=message):
        Config(**flags)


def test_such_a_batch_is_refused_before_the_data_are_read(run):
    flags = "--devices 8 --batch-size 196 --dataset idx:nowhere"
    assert_one_line(
        run("jax_mlp.train", *flags.split()), "--batch-size must be divisible by --devices 8: try 192 or 200"
    )


def test_fewer_devices_than_were_asked_for(tmp_path):
    seen = len(jax.devices("cpu"))
    config = Config(devices=2 * seen, batch_size=2 * seen, device="cpu", run_dir=tmp_path / "run")
    with pytest.raises(UserError, match=rf"--devices {2 * seen}: JAX sees {seen} \(cpu\)"):
        jax_mlp.train.train(config, OutputOptions(visdom="off", quiet=True))
    assert not (tmp_path / "run").exists()


def test_the_devices_of_one_process_share_a_hidden_layer(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(sharding, "find_devices", lambda _: jax.devices("cpu")[:1] * 6)
    config = Config(devices=6, split_hidden=2, batch_size=6)
    with pytest.raises(UserError, match="--split-hidden must divide the 3 devices of a process, got 2"):
        sharding.find_mesh(config)
    assert sharding.find_mesh(dataclasses.replace(config, split_hidden=1)).mesh.shape == {"batch": 6, "hidden": 1}


def test_a_cpu_counts_as_many_devices_unless_their_number_is_set(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: asked.append(setting))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setitem(jax.config.values, "jax_num_cpu_devices", -1)
    with pytest.raises(UserError, match=f"--devices must be at most {sharding.CPU_DEVICES} in a process, got 65"):
        sharding.ask_for_cpu_devices(sharding.CPU_DEVICES + 1)
    sharding.ask_for_cpu_devices(1)
    assert asked == []
    for count in (2, sharding.CPU_DEVICES):
        sharding.ask_for_cpu_devices(count)
        assert asked.pop() == ("jax_num_cpu_devices", count)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    sharding.ask_for_cpu_devices(2)
    assert asked == []


def test_many_devices_are_not_for_many_seeds(run):
    assert_one_line(run("jax_mlp.train", "--devices", "2", "--seeds", "2"), "--devices is for one run, not for --seeds")


def test_a_run_of_before_there_were_devices_is_read():
    values = json.loads(Config().to_json())
    for name in ("devices", "split_hidden", "pad_batches"):
        del values[name]
    assert Config.from_json(json.dumps(values)) == Config()
