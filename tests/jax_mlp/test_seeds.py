"""Many models at once: each must end as it does alone."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import ROOT, in_a_small_file_system, trainers
from safetensors.numpy import load_file
from tolerances import RUN_FLOAT64
from warm import python

import jax_mlp.seeds
import jax_mlp.trainer
import jax_mlp.variants
import reference_torch.trainer
import reference_torch.variants
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS
from mlp_workload.environment.description import usable_cores
from mlp_workload.initial import initial_parameters
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.weights import save_weights


@pytest.mark.parametrize(
    "trainer",
    [pytest.param("jax_mlp.train", marks=pytest.mark.long("starts JAX four times")), "reference_torch.train"],
    ids=["jax", "torch"],
)
def test_each_seed_ends_as_alone(trainer, run, small, tmp_path):
    """Three seeds, in JAX on two devices, so that one trains for nobody in the second group: the same bytes."""
    flags = [*small, "--preset", "relu", "--momentum", "0.9", "--epochs", "2", "--quiet"]
    two = {"JAX_NUM_CPU_DEVICES": "2"} if trainer == "jax_mlp.train" else {}
    result = run(trainer, *flags, "--seed", "4", "--seeds", "3", "--run-dir", "many", env=two)
    assert (result.returncode, result.stdout) == (0, "")
    for line in result.stderr.splitlines():
        assert re.match(r"warning: seed [456]: \d+ (dead logits|lost classes)", line)
    together = json.loads((tmp_path / "many/seeds.json").read_text())
    assert together["at_once"] == (2 if trainer == "jax_mlp.train" else 1)
    groups = [seeds[0] for seeds in ([[4, 5], [6]] if together["at_once"] == 2 else [[4], [5], [6]])]
    seconds = compile_seconds = 0.0
    for seed in groups:
        summary = RecordedRun.load(tmp_path / f"many/seed-{seed}").summary
        assert summary["at_once"] == together["at_once"]
        seconds += summary["train_seconds"] + summary["evaluate_seconds"]
        compile_seconds += summary["compile_seconds"]
    assert together["model_epochs_per_second"] == pytest.approx(6 / seconds)
    assert together["compile_seconds"] == pytest.approx(compile_seconds), "the program is compiled once"
    for seed, said in zip((4, 5, 6), together["seeds"], strict=True):
        alone = ["--seed", str(seed), "--run-dir", f"alone-{seed}", "--visdom", "off"]
        assert run(trainer, *flags, *alone).returncode == 0
        one, other = tmp_path / f"many/seed-{seed}", tmp_path / f"alone-{seed}"
        assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
        runs = [RecordedRun.load(folder) for folder in (one, other)]
        assert np.array_equal(*(each.train_losses for each in runs))
        assert runs[0].evaluations[-1].mistakes == runs[1].evaluations[-1].mistakes
        for name in ("seed", "steps", "test_correct", "test_loss", "lost_classes"):
            assert said[name] == runs[0].summary[name] == runs[1].summary[name]
        assert runs[0].config.seed == seed
        assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()} - {"checkpoints"}


@pytest.mark.long("compiles for two devices in float64")
def test_a_model_for_each_core_and_float64_all_through(run, small, tmp_path):
    """Without a word about devices; from given weights, in groups of one size."""
    if (cores := os.cpu_count() or 1) < 2:
        pytest.skip("needs a second device: another core")
    start = tmp_path / "start.safetensors"
    save_weights(start, initial_parameters("torch_linear", (30, 8, 6, 3), seed=0))
    flags = [*small, "--dtype", "float64", "--epochs", "1", "--initial-weights", str(start), "--quiet"]
    everywhere = {"prefix": ["taskset", "--cpu-list", f"0-{cores - 1}"]}
    assert run("jax_mlp.train", *flags, "--seeds", "3", "--run-dir", "many", **everywhere).returncode == 0
    assert json.loads((tmp_path / "many/seeds.json").read_text())["at_once"] == min(cores, 3 if cores > 2 else 2)
    assert run("jax_mlp.train", *flags, "--visdom", "off", "--seed", "2", "--run-dir", "alone").returncode == 0
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("many/seed-2", "alone"))
    for name, array in other.items():
        assert one[name].dtype == np.float64
        RUN_FLOAT64.assert_close(one[name], array)


def test_warnings_are_told_with_their_seed_and_a_full_output_stops_nothing(run, small, tmp_path):
    flags = [*small, "--seeds", "2", "--epochs", "1", "--learning-rate", "1e30", "--last-activation", "none"]
    quiet = run("reference_torch.train", *flags, "--quiet", "--run-dir", "quiet")
    assert quiet.returncode == 0
    for seed in (0, 1):
        assert f"warning: seed {seed}: the loss is" in quiet.stderr
    loud = run("reference_torch.train", *flags, "--run-dir", "loud")
    assert loud.stdout.count("diverged: try a lower --learning-rate") == 2
    assert json.loads((tmp_path / "loud/seeds.json").read_text())["seeds"][0]["test_loss"] is None
    with open("/dev/full", "w") as output:
        full = subprocess.run(
            [python(), "-m", "reference_torch.train", *small, "--seeds", "2", "--epochs", "1", "--run-dir", "full"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=output, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert full.returncode == 0, full.stderr
    assert full.stderr.splitlines()[0].startswith("warning: cannot print (No space left on device)")
    assert len(json.loads((tmp_path / "full/seeds.json").read_text())["seeds"]) == 2


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long("one more signal"))],
)
def test_a_signal_keeps_the_weights_so_far_of_all_models(number, status, small, tmp_path):
    """Of those that train together: two where there are two cores."""
    flags = [*small, "--epochs", "100000", "--seeds", "2", "--quiet", "--run-dir", "runs"]
    process = subprocess.Popen(
        [python(), "-m", "jax_mlp.train", *flags], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    events = tmp_path / "runs/seed-0/events.jsonl"
    while not (events.exists() and events.read_text().count("evaluated") > 2):  # somewhere among the epochs
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(number)
    noted, stopped = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == status
    assert noted.startswith(f"{number.name}: stops when the running program ends")
    assert re.search(r": stopped after epoch \d+; the weights of then are kept, and --seeds can't be resumed$", stopped)
    begun = list((tmp_path / "runs").glob("seed-*"))
    assert len(begun) == min(2, usable_cores())
    assert len({(folder / "weights.safetensors").read_bytes() for folder in begun}) == len(begun)


def test_a_signal_ends_seeds_of_no_epochs(small, tmp_path):
    flags = [*small, "--epochs", "0", "--seeds", "100000", "--quiet", "--run-dir", "runs"]
    process = subprocess.Popen(
        [python(), "-m", "reference_torch.train", *flags], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "runs/seed-1").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ": stopped after epoch 0; the weights" in process.communicate(timeout=60)[1]
    assert process.returncode == 143


def test_runs_of_many_seeds_are_replayed_and_reported_one_by_one(run, small, tmp_path):
    flags = [*small, "--seeds", "2", "--epochs", "1", "--run-dir", "many", "--quiet"]
    assert run("reference_torch.train", *flags).returncode == 0
    assert [each.config.seed for each in RecordedRun.load_all([tmp_path / "many"])] == [0, 1]
    result = run("mlp_compare.report", "many")
    assert result.returncode == 0, result.stderr


@pytest.mark.long("trains until a disk is full")
def test_a_full_disk_costs_no_models_weights(small, tmp_path):
    """Of two that train together the one fails to write an event; both keep their weights."""
    process = in_a_small_file_system(
        f"""
        export JAX_NUM_CPU_DEVICES=2
        {sys.executable} -m jax_mlp.train {" ".join(small)} --batch-size 1 --seeds 2 --epochs 4000 --quiet --run-dir run
        echo $?; ls run/seed-0 run/seed-1
        """,
        tmp_path,
        "150k",
    )
    status, *left = process.stdout.split()
    assert status == "2", process.stderr
    assert left.count("weights.safetensors") == 2
    assert len(process.stderr.splitlines()[-1:]) == 1
    assert "No space left on device; the weights so far are in" in process.stderr.splitlines()[-1]


@trainers
def test_a_line_for_each_seed_and_one_for_all(trainer, run, small, tmp_path):
    result = run(trainer, *small, "--seeds", "2", "--epochs", "0", "--run-dir", "many")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    seeds = json.loads((tmp_path / "many/seeds.json").read_text())["seeds"]
    correct = [each["test_correct"] for each in seeds]
    assert "seeds 0 to 1" in lines[0]
    for seed in (0, 1):
        assert lines[2 + seed].startswith(f"seed   {seed}  test loss {seeds[seed]['test_loss']:.4f}")
        lost = ", ".join(map(str, seeds[seed]["lost_classes"]))
        assert lines[2 + seed].endswith(
            f"accuracy {correct[seed] / 31:.2%}" + (f"  lost classes {lost}" if lost else "")
        )
    assert any(each["lost_classes"] for each in seeds)
    assert lines[4] == (
        f"2 seeds: {np.mean(correct):.1f} of 31 correct in the mean, standard deviation {np.std(correct, ddof=1):.1f}, "
        f"from {min(correct)} to {max(correct)}"
    )
    assert lines[-1] == "a run folder for each seed, and seeds.json, are in many"


@pytest.mark.long("compiles the vmapped programs and those of single models")
@pytest.mark.parametrize(
    ("preset", "given"),
    [("relu", False), ("leaky", True)],
    ids=["relu-drawn", "leaky-given"],
)
def test_a_vmapped_program_trains_each_model_as_alone(preset, given, digits):
    """In float64, with a smaller last batch, momentum and the framework's initialiser or given weights. One that
    diverges spoils no other."""
    config = dataclasses.replace(
        PRESETS[preset], dtype="float64", hidden=(8, 6), batch_size=20, momentum=0.9, learning_rate=0.1
    )
    initial = initial_parameters("torch_linear", config.widths(30, 3), 7) if given else None
    seeds = (3, 4)
    trainer = jax_mlp.seeds.SeedsTrainer(config, digits, initial, jax.devices("cpu")[:1], at_once=3)
    trainer.compile()
    trainer.start(seeds)
    orders = [np.stack([epoch_order(seed, epoch, 103) for seed in seeds]) for epoch in (1, 2)]
    losses = [trainer.train_steps(each) for each in orders]
    evaluations, parameters = trainer.evaluate(), trainer.parameters()
    assert len(evaluations) == len(parameters) == len(losses[0]) == 2
    for model, seed in enumerate(seeds):
        alone = jax_mlp.trainer.Trainer(dataclasses.replace(config, seed=seed), digits, initial)
        alone.compile()
        for epoch in (0, 1):
            RUN_FLOAT64.assert_close(losses[epoch][model], alone.train_steps(orders[epoch][model]))
        for name, array in alone.parameters().items():
            RUN_FLOAT64.assert_close(parameters[model][name], array)
        expected = alone.evaluate()
        assert evaluations[model].correct == expected.correct
        RUN_FLOAT64.assert_close(evaluations[model].losses, expected.losses)

    def diverged(leaf: jax.Array) -> jax.Array:
        """In the first model."""
        first, *others = np.asarray(leaf)
        return jax.device_put(np.stack([np.full_like(first, np.nan), *others]), leaf.sharding)

    trainer.state = jax.tree.map(diverged, trainer.state)
    spoilt, sound = trainer.train_steps(orders[0])
    assert np.isnan(spoilt).all()
    assert np.isfinite(sound).all()


MANY = {
    "jax-seeds": jax_mlp.variants.Seeds,
    "jax-in-turn": jax_mlp.variants.SeedsInTurn,
    "jax-vmapped": jax_mlp.variants.SeedsVmapped,
    "torch-in-turn": reference_torch.variants.SeedsInTurn,
    "torch-vmapped": reference_torch.variants.SeedsVmapped,
    "torch-processes": pytest.param(
        reference_torch.variants.SeedsInProcesses, marks=pytest.mark.long("starts torch in two processes")
    ),
}


@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_each_way_of_training_many_models_trains_each_of_them(make, digits):
    """The losses of every model, and the first one's parameters, are those of the reference."""
    config = dataclasses.replace(PRESETS["leaky"], dtype="float64", hidden=(8,), batch_size=20, learning_rate=0.1)
    initial = initial_parameters("torch_linear", config.widths(30, 3), 7)
    many = make(config, digits, initial, 3)
    many.compile()
    orders = [np.stack([epoch_order(model, epoch, 103) for model in range(3)]) for epoch in (1, 2)]
    losses = [many.train_steps(each) for each in orders]
    for model in range(3):
        alone = reference_torch.trainer.Trainer(config, digits, initial)
        for epoch in (0, 1):
            RUN_FLOAT64.assert_close(losses[epoch][model], alone.train_steps(orders[epoch][model]))
        if model == 0:
            for name, array in many.parameters().items():
                RUN_FLOAT64.assert_close(array, alone.parameters()[name])
