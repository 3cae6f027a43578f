"""The description of a run, and the command line that makes it."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import PRESETS, Config
from mlp_workload.errors import UserError


def test_presets_are_the_articles_two_programs():
    relu, leaky = PRESETS["relu"], PRESETS["leaky"]
    for config in (relu, leaky):
        assert (config.hidden, config.batch_size, config.learning_rate, config.epochs) == ((200, 200), 200, 0.01, 10)
        assert (config.momentum, config.weight_decay, config.last_activation) == (0, 0, "same")
    assert (relu.activation, relu.initialization) == ("relu", "kaiming_normal")
    assert (relu.pixel_mean, relu.pixel_std) == (0.1307, 0.3081)
    assert (leaky.activation, leaky.initialization) == ("leaky_relu", "torch_linear")
    assert (leaky.pixel_mean, leaky.pixel_std) == (0, 1)
    assert leaky == Config()


@pytest.mark.parametrize("arguments", [["--preset", "relu"], ["--preset=relu"], ["--epochs", "10", "--preset", "relu"]])
def test_the_preset_sets_defaults(arguments):
    assert parse_config(arguments, Config) == PRESETS["relu"]


def test_a_resumed_run_keeps_its_settings_but_for_its_folder_and_gpu(tmp_path):
    begun = dataclasses.replace(PRESETS["relu"], gpu=1, momentum=0.9, run_dir=tmp_path / "elsewhere")
    (tmp_path / "config.json").write_text(begun.to_json())
    resumed = parse_config(["--resume", str(tmp_path)], TrainingOptions)
    assert resumed.config == dataclasses.replace(begun, gpu=None, run_dir=tmp_path)


def test_a_flag_beats_the_preset_wherever_it_stands():
    config = parse_config(["--pixel-std", "1", "--preset", "relu", "--activation", "leaky_relu"], Config)
    assert config == dataclasses.replace(PRESETS["relu"], pixel_std=1.0, activation="leaky_relu")


def test_every_field_has_a_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_config(["--help"], Config, prog="python -m jax_mlp.train")
    assert not stop.value.code
    text = capsys.readouterr().out
    assert "usage: python -m jax_mlp.train" in text
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text


WRONG = [
    (["--preset", "tanh"], "--preset"),
    (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    (["--batch-size", "-1"], "--batch-size must be at least 1, got -1"),
    (["--batch-size", "2.5"], "--batch-size"),
    (["--batch-size", "many"], "--batch-size"),
    (["--batch-size"], "--batch-size"),
    (["--epochs", "-1"], "--epochs must be at least 0, got -1"),
    (["--learning-rate", "nan"], "--learning-rate must be from 0 to 3.4e+38, the largest float32"),
    (["--learning-rate", "inf"], "--learning-rate must be from 0 to 3.4e+38, the largest float32"),
    (["--learning-rate", "-0.1"], "--learning-rate must be from 0 to 3.4e+38, the largest float32"),
    (["--momentum", "nan"], "--momentum"),
    (["--momentum", "-1"], "--momentum"),
    (["--nesterov"], "--momentum must be above 0 for --nesterov"),
    (["--optimizer", "rmsprop"], "--optimizer"),
    (["--optimizer", "adam", "--momentum", "0.9"], "--momentum must be left out with --optimizer adam, got 0.9"),
    (["--optimizer", "adamw", "--nesterov"], "--nesterov must be left out with --optimizer adamw, got True"),
    (["--beta1", "0.8"], "--beta1 must be left out with --optimizer sgd, got 0.8"),
    (["--epsilon", "1e-7"], "--epsilon must be left out with --optimizer sgd, got 1e-07"),
    (["--optimizer", "adam", "--beta1", "1"], "--beta1 must be from 0 to below 1, got 1"),
    (["--optimizer", "adam", "--beta2", "nan"], "--beta2 must be from 0 to below 1, got nan"),
    (["--optimizer", "adam", "--epsilon", "0"], "--epsilon must be above 0 and finite in float32, got 0"),
    (["--optimizer", "adam", "--epsilon", "1e-40"], "--epsilon must be above 0 and finite in float32, got 1e-40"),
    (["--weight-decay", "-1"], "--weight-decay"),
    (["--label-smoothing", "1.1"], "--label-smoothing must be from 0 to 1"),
    (["--seed", "-1"], "--seed must be from 0"),
    (["--seed", "4294967296"], "--seed must be from 0"),
    (["--hidden", "200", "0"], "--hidden"),
    (["--pixel-std", "0"], "--pixel-std"),
    (["--pixel-mean", "nan"], "--pixel-mean"),
    (["--dtype", "float16"], "--dtype"),
    (["--device", "tpu"], "--device"),
    (["--dataset", "cifar"], "--dataset: expected mnist, idx:DIR or tfds:NAME"),
    (["--dataset", "idx:"], "--dataset"),
    (["--last-activation", "relu"], "--last-activation"),
    (["--bogus", "1"], "--bogus"),
    (["stray"], "stray"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_wrong_value_is_refused_in_one_line_that_names_it(arguments, message, capfd):
    with pytest.raises(UserError) as error:
        parse_config(arguments, Config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "│" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_choices_are_checked_without_the_command_line_too():
    with pytest.raises(UserError, match="--dtype must be one of float32, float64, got int8"):
        Config(dtype="int8")


configs = st.builds(
    Config,
    preset=st.sampled_from(["relu", "leaky"]),
    epochs=st.integers(0, 10**6),
    learning_rate=st.floats(0, 3e38),
    momentum=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    hidden=st.lists(st.integers(1, 10**6)).map(tuple),
    initial_weights=st.none() | st.just(Path("a b/c.safetensors")),
    run_dir=st.none() | st.just(Path("runs/x")),
    dataset=st.sampled_from(["mnist", "idx:/a:b", "tfds:emnist/letters"]),
)


@given(configs)
def test_json_returns_the_same_config(config):
    assert Config.from_json(config.to_json()) == config
