"""Many models at once: each must end as it does alone."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_commands import trainer
from tolerances import RUN_FLOAT64

import jax_mlp.ensemble
import jax_mlp.many
import jax_mlp.trainer
import reference_torch.many
import reference_torch.trainer
from mlp_workload.config import PRESETS
from mlp_workload.initial import initial_parameters
from mlp_workload.order import epoch_order
from mlp_workload.recorded_run import RecordedRun


@trainer
def test_each_seed_ends_as_alone(trainer, run, tmp_path):
    """Three seeds, in JAX on two devices, so that one trains for nobody in the second group: the same bytes."""
    flags = ["--preset", "relu", "--momentum", "0.9", "--epochs", "2", "--quiet"]
    two = {"JAX_NUM_CPU_DEVICES": "2"}
    result = run(trainer, *flags, "--seed", "4", "--seeds", "3", "--run-dir", "many", env=two)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    together = json.loads((tmp_path / "many/seeds.json").read_text())
    assert together["at_once"] == (2 if trainer == "jax_mlp.train" else 1)
    assert together["models_epochs_per_second"] > 0
    for seed, said in zip((4, 5, 6), together["seeds"], strict=True):
        alone = ["--seed", str(seed), "--run-dir", f"alone-{seed}", "--visdom", "off"]
        assert run(trainer, *flags, *alone).returncode == 0
        one, other = tmp_path / f"many/seed-{seed}", tmp_path / f"alone-{seed}"
        assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
        runs = [RecordedRun.load(folder) for folder in (one, other)]
        assert np.array_equal(*(each.train_losses for each in runs))
        assert runs[0].evaluations[0].mistakes == runs[1].evaluations[0].mistakes
        for name in ("seed", "steps", "test_correct", "test_loss", "lost_classes"):
            assert said[name] == runs[0].summary[name] == runs[1].summary[name]
        assert runs[0].config.seed == seed
        assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


@trainer
def test_a_line_for_each_seed_and_one_for_all(trainer, run, tmp_path):
    result = run(trainer, "--seeds", "2", "--epochs", "0", "--run-dir", "many")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    correct = [each["test_correct"] for each in json.loads((tmp_path / "many/seeds.json").read_text())["seeds"]]
    assert "seeds 0 to 1" in lines[0]
    for seed in (0, 1):
        assert lines[2 + seed].startswith(f"seed   {seed}  test loss 2.30")
        assert f"accuracy {correct[seed] / 10_000:.2%}" in lines[2 + seed]
    assert f"2 seeds: {np.mean(correct):.1f} of 10000 correct in the mean" in lines[4]
    assert lines[-1] == "a run folder for each seed, and seeds.json, are in many"


def test_a_model_that_diverges_spoils_no_other(digits):
    config = dataclasses.replace(PRESETS["leaky"], hidden=(6,), batch_size=10)
    ensemble = jax_mlp.ensemble.Ensemble(config, digits, None, jax.devices("cpu")[:1], at_once=2)
    ensemble.start([0, 1])
    ensemble.state = jax.tree.map(lambda leaf: leaf.at[0].set(np.nan), ensemble.state)
    losses = ensemble.run_epoch(np.stack([epoch_order(seed, 1, 103) for seed in (0, 1)]))
    assert np.isnan(losses[0]).all()
    assert np.isfinite(losses[1]).all()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("given", [False, True], ids=["drawn", "given"])
def test_a_vmapped_program_trains_each_model_as_alone(preset, given, digits):
    """In float64, with a smaller last batch, momentum and the framework's initialiser or given weights."""
    config = dataclasses.replace(
        PRESETS[preset], dtype="float64", hidden=(8, 6), batch_size=20, momentum=0.9, learning_rate=0.1
    )
    initial = initial_parameters("torch_linear", config.widths(30, 3), 7) if given else None
    seeds = (3, 4, 5)
    ensemble = jax_mlp.ensemble.Ensemble(config, digits, initial, jax.devices("cpu")[:1], at_once=4)
    ensemble.compile()
    ensemble.start(seeds)
    orders = [np.stack([epoch_order(seed, epoch, 103) for seed in seeds]) for epoch in (1, 2)]
    losses = [ensemble.run_epoch(each) for each in orders]
    evaluations, parameters = ensemble.evaluate(), ensemble.parameters()
    assert len(evaluations) == len(parameters) == len(losses[0]) == 3
    for model, seed in enumerate(seeds):
        alone = jax_mlp.trainer.Trainer(dataclasses.replace(config, seed=seed), digits, initial)
        alone.compile()
        for epoch in (0, 1):
            RUN_FLOAT64.assert_close(losses[epoch][model], alone.run_epoch(orders[epoch][model]))
        for name, array in alone.parameters().items():
            RUN_FLOAT64.assert_close(parameters[model][name], array)
        expected = alone.evaluate()
        assert evaluations[model].correct == expected.correct
        RUN_FLOAT64.assert_close(evaluations[model].losses, expected.losses)


MANY = {
    "jax-seeds": jax_mlp.many.Seeds,
    "jax-in-turn": jax_mlp.many.InTurn,
    "jax-vmapped": jax_mlp.many.Vmapped,
    "torch-in-turn": reference_torch.many.InTurn,
    "torch-vmapped": reference_torch.many.Vmapped,
    "torch-processes": reference_torch.many.Processes,
}


@pytest.mark.parametrize("make", MANY.values(), ids=MANY)
def test_each_way_of_training_many_models_trains_each_of_them(make, digits):
    """The losses of every model, and the first one's parameters, are those of the reference."""
    config = dataclasses.replace(PRESETS["leaky"], dtype="float64", hidden=(8,), batch_size=20, learning_rate=0.1)
    initial = initial_parameters("torch_linear", config.widths(30, 3), 7)
    many = make(config, digits, initial, 3)
    many.compile()
    orders = [np.stack([epoch_order(model, epoch, 103) for model in range(3)]) for epoch in (1, 2)]
    losses = [many.run_epoch(each) for each in orders]
    for model in range(3):
        alone = reference_torch.trainer.Trainer(config, digits, initial)
        for epoch in (0, 1):
            RUN_FLOAT64.assert_close(losses[epoch][model], alone.run_epoch(orders[epoch][model]))
        if model == 0:
            for name, array in many.parameters().items():
                RUN_FLOAT64.assert_close(array, alone.parameters()[name])
