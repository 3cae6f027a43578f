"""Whole runs of both trainers, in this process."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from tolerances import FORWARD_BACKWARD, RUN_FLOAT64

import jax_mlp.train
import jax_mlp.trainer
import reference_torch.train
import reference_torch.trainer
from examples.numpy_side.mlp import forward_backward
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, RunFinished, TrainLosses, Warned
from mlp_workload.initial import initial_parameters
from mlp_workload.run import inputs
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.run_events import RunEvents
from mlp_workload.weights import load_weights, parameter_shapes, save_weights

UNWATCHED = OutputOptions(visdom="off")
TRAIN = {
    "jax": partial(jax_mlp.train.train, output=UNWATCHED),
    "torch": partial(reference_torch.train.train, output=UNWATCHED),
}
TRAINER = {"jax": jax_mlp.trainer.Trainer, "torch": reference_torch.trainer.Trainer}
side = pytest.mark.parametrize("side", TRAIN)
OTHER = pytest.mark.long("compiles programs of other settings")
NESTEROV = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
preset = pytest.mark.parametrize("preset", PRESETS)
data = pytest.mark.parametrize("data", ["digits", pytest.param("mnist", marks=pytest.mark.long("epochs of MNIST"))])


@pytest.fixture
def on_data(small) -> Callable[[str, Config], Config]:
    """Makes a configuration one for `digits`, or leaves it one for MNIST."""
    own = {"dataset": small[1], "hidden": (8, 6), "batch_size": 20, "learning_rate": 0.1}
    return lambda data, config: dataclasses.replace(config, **own) if data == "digits" else config


def events_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@preset
@data
def test_the_same_start_and_batches_in_float64_give_the_same_result(preset, data, on_data, tmp_path):
    start = tmp_path / "start.safetensors"
    config = on_data(data, dataclasses.replace(PRESETS[preset], epochs=2, seed=3, dtype="float64"))
    config = dataclasses.replace(config, initial_weights=start)
    widths = config.widths(30, 3) if data == "digits" else config.widths(784, 10)
    save_weights(start, initial_parameters(config.initialization, widths, seed=3))
    one, other = (train(dataclasses.replace(config, run_dir=tmp_path / name)) for name, train in TRAIN.items())
    assert one["test_correct"] == other["test_correct"]
    RUN_FLOAT64.assert_close(one["test_loss"], other["test_loss"])
    RUN_FLOAT64.assert_close(one["article_test_loss"], other["article_test_loss"])

    jax_events, torch_events = (events_of(tmp_path / name) for name in TRAIN)
    assert [event["event"] for event in jax_events] == [event["event"] for event in torch_events]
    for one, other in zip(jax_events, torch_events, strict=True):
        if one["event"] == "train_losses":
            assert one["labels_digest"] == other["labels_digest"]
            RUN_FLOAT64.assert_close(one["losses"], other["losses"])
    for name in TRAIN:
        weights = load_weights(tmp_path / name / "weights.safetensors", parameter_shapes(widths))
        assert {array.dtype.name for array in weights.values()} == {"float64"}


@side
def test_a_run_folder_tells_the_whole_run(side, digits, on_data, tmp_path):
    config = dataclasses.replace(on_data("digits", PRESETS["leaky"]), epochs=2, seed=4, run_dir=tmp_path / "run")
    summary = TRAIN[side](config)
    assert sorted(path.name for path in config.run_dir.iterdir()) == [
        "checkpoints", "config.json", "events.jsonl", "summary.json", "weights.safetensors"
    ]  # fmt: skip
    assert Config.from_json((config.run_dir / "config.json").read_text()) == config
    assert json.loads((config.run_dir / "summary.json").read_text()) == summary
    assert summary.keys() >= {
        "framework", "framework_version", "preset", "dataset", "device", "seed", "steps", "test_correct",
        "test_examples", "test_accuracy", "test_loss", "article_test_loss", "dead_logits", "compile_seconds",
        "train_seconds", "evaluate_seconds", "total_seconds", "environment",
    }  # fmt: skip
    assert (summary["framework"], summary["device"], summary["test_examples"]) == (side, "cpu", 31)
    assert summary["steps"] == 12, "103 examples are 5 batches of 20 and one of 3"

    parts = [summary[f"{part}_seconds"] for part in ("compile", "train", "evaluate")]
    assert all(part > 0 for part in parts)
    assert sum(parts) < summary["total_seconds"]

    events = events_of(config.run_dir)
    assert events[0]["config"] == json.loads(config.to_json())
    losses = [event for event in events if event["event"] == "train_losses"]
    assert [(event["epoch"], event["first_step"], len(event["losses"])) for event in losses] == [(1, 1, 6), (2, 7, 6)]
    for event in losses:
        order = epoch_order(4, event["epoch"], 103)
        assert event["labels_digest"] == hashlib.sha256(digits.train.labels[order].tobytes()).hexdigest()
    assert losses[0]["labels_digest"] != losses[1]["labels_digest"]
    evaluations = [event for event in events if event["event"] == "evaluated"]
    assert [event["step"] for event in evaluations] == [6, 12]
    assert evaluations[-1]["test_correct"] == summary["test_correct"]
    assert events[-1] == {"event": "run_finished", "time": events[-1]["time"], "summary": summary}


@side
@pytest.mark.parametrize(
    ("preset", "optimizer"),
    [("relu", {}), ("leaky", NESTEROV)]
    + [pytest.param(*pair, marks=OTHER) for pair in (("relu", NESTEROV), ("leaky", {}))],
)
def test_an_epoch_is_what_numpy_says(side, preset, optimizer, digits):
    """Batch order, the smaller last batch, normalisation, label smoothing, gradients, updates, evaluation."""
    config = Config(
        **PRESETS[preset].__dict__
        | {"hidden": (8,), "batch_size": 20, "dtype": "float64", "learning_rate": 0.1, "label_smoothing": 0.1}
        | optimizer
    )
    parameters = initial_parameters("torch_linear", config.widths(digits.pixels, digits.classes), seed=0)
    trainer = TRAINER[side](config, digits, parameters)
    trainer.compile()
    orders = [epoch_order(0, epoch, 103) for epoch in (1, 2)]
    losses = np.concatenate([trainer.train_steps(order) for order in orders])
    evaluation = trainer.evaluate()

    def inputs(examples):
        return (examples.images.reshape(len(examples), -1) / 255 - config.pixel_mean) / config.pixel_std

    activations = [config.activation, config.logits_activation]
    expected, velocity = [], {name: np.zeros_like(array) for name, array in parameters.items()}
    for batch in (order[i : i + 20] for order in orders for i in range(0, 103, 20)):
        x, labels = inputs(digits.train)[batch], digits.train.labels[batch]
        tensors = forward_backward(parameters, activations, x, labels, 0.1)
        expected.append(tensors["loss"])
        for name in parameters:
            gradient = tensors[f"{name}.grad"] + config.weight_decay * parameters[name]
            velocity[name] = config.momentum * velocity[name] + gradient
            step = gradient + config.momentum * velocity[name] if config.nesterov else velocity[name]
            parameters[name] = parameters[name] - 0.1 * step
    FORWARD_BACKWARD["float64"].assert_close(losses, expected)
    for name, array in trainer.parameters().items():
        FORWARD_BACKWARD["float64"].assert_close(array, parameters[name])
    tested = forward_backward(parameters, activations, inputs(digits.test), digits.test.labels)
    FORWARD_BACKWARD["float64"].assert_close(evaluation.loss, tested["loss"])
    assert (evaluation.predictions == tested["logits"].argmax(axis=1)).all()
    assert (evaluation.positive == (tested["logits"] > 0).any(axis=0)).all()


@side
def test_evaluation_counts_every_example_once_whatever_the_chunk(side, mnist):
    """10,000 examples go in chunks of 2,000; 4,567 leave a smaller last one."""
    part = Dataset("part", mnist.train, Examples(mnist.test.images[:4567], mnist.test.labels[:4567]), mnist.class_names)
    config = PRESETS["relu"]
    whole, some = (TRAINER[side](config, dataset, None).evaluate() for dataset in (mnist, part))
    assert (whole.examples, some.examples) == (10_000, 4567)
    assert len(whole.losses) == len(whole.predictions) == 10_000
    assert (some.predictions == whole.predictions[:4567]).mean() > 0.999
    FORWARD_BACKWARD["float32"].assert_close(some.losses, whole.losses[:4567])


@side
@preset
@data
def test_two_runs_with_one_seed_are_byte_identical(side, preset, data, on_data, tmp_path):
    runs = []
    for number in (1, 2):
        config = dataclasses.replace(on_data(data, PRESETS[preset]), epochs=1, seed=11, run_dir=tmp_path / str(number))
        TRAIN[side](config)
        losses = [event["losses"] for event in events_of(config.run_dir) if event["event"] == "train_losses"]
        runs.append(((config.run_dir / "weights.safetensors").read_bytes(), losses))
    assert runs[0] == runs[1]


@side
@pytest.mark.parametrize("preset", ["relu", pytest.param("leaky", marks=OTHER)])
def test_float64_is_float64_everywhere(side, preset, digits):
    config = dataclasses.replace(PRESETS[preset], dtype="float64", hidden=(4,), batch_size=10)
    trainer = TRAINER[side](config, digits, None)
    trainer.compile()
    assert trainer.train_steps(epoch_order(0, 1, 103)).dtype == np.float64
    assert trainer.evaluate().losses.dtype == np.float64
    assert {array.dtype.name for array in trainer.parameters().values()} == {"float64"}


def run_events(side: str, config: Config, dataset: Dataset, parameters=None) -> list:
    trainer = TRAINER[side](config, dataset, parameters)
    trainer.compile()
    events = RunEvents(config, dataset, trainer, 0.0, 0.0)
    emitted = [*events.started()]
    for epoch in range(1, config.epochs + 1):
        order = epoch_order(config.seed, epoch, len(dataset.train))
        emitted += [*events.trained(order, trainer.train_steps(order), 0.0), events.evaluated(trainer.evaluate(), 0.0)]
    if config.epochs == 0:
        emitted.append(events.evaluated(trainer.evaluate(), 0.0))
    return [*emitted, *events.finished()]


@pytest.fixture
def part(mnist) -> Dataset:
    """MNIST with 2,000 training examples."""
    return dataclasses.replace(mnist, train=Examples(mnist.train.images[:2000], mnist.train.labels[:2000]))


@side
def test_dead_logits_are_named_with_the_cure(side, part):
    config = dataclasses.replace(PRESETS["relu"], epochs=1)
    parameters = initial_parameters(config.initialization, (784, 200, 200, 10), seed=0)
    parameters["layers.2.bias"] -= 100
    events = run_events(side, config, part, parameters)
    (losses,) = [event.losses for event in events if isinstance(event, TrainLosses)]
    assert np.round(losses, 6).tolist() == [np.float32(2.302585)] * 10
    messages = [event.message for event in events if isinstance(event, Warned)]
    assert messages[0].startswith("10 dead logits (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)")
    assert messages[1].startswith("9 lost classes (1, 2, 3, 4, 5, 6, 7, 8, 9)")
    assert all("--last-activation none" in message for message in messages)
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert round(evaluated.article_test_loss, 6) == 0.011513
    assert isinstance(events[-1], RunFinished)
    assert events[-1].summary["dead_logits"] == list(range(10))


@side
@pytest.mark.parametrize("last_activation", ["same", "none"])
def test_a_lost_class_is_named(side, last_activation, digits):
    """Equal logits but for b's low bias, so all is taken for a; a leaky logit is not dead, but lost all the same."""
    config = Config(hidden=(), epochs=1, learning_rate=0.0, last_activation=last_activation)
    config = dataclasses.replace(config, batch_size=10)
    parameters = {"layers.0.weight": np.zeros((3, 30)), "layers.0.bias": np.array([0.0, -1e4, 0.0])}
    events = run_events(side, config, digits, parameters)
    (message,) = [event.message for event in events if isinstance(event, Warned)]
    assert message.startswith("2 lost classes (b, c)")
    assert ("--last-activation none" in message) == (last_activation == "same")
    assert events[-1].summary["dead_logits"] == []
    assert events[-1].summary["lost_classes"] == [1, 2]


@side
def test_a_healthy_run_does_not_warn(side, digits):
    config = Config(hidden=(16,), epochs=20, batch_size=10, learning_rate=0.1, last_activation="none")
    events = run_events(side, config, digits)
    assert not [event for event in events if isinstance(event, Warned)]
    assert events[-1].summary["test_accuracy"] == 1


@side
@pytest.mark.parametrize("last_activation", ["same", pytest.param("none", marks=OTHER)])
def test_a_diverging_run_says_where_and_nothing_else(side, last_activation, part, tmp_path, monkeypatch):
    """Its logits are nan: neither dead, nor would another last activation cure it."""
    monkeypatch.setattr(inputs, "load", lambda *_: part)
    config = dataclasses.replace(
        PRESETS["relu"], epochs=1, learning_rate=1e6, last_activation=last_activation, run_dir=tmp_path / "run"
    )
    TRAIN[side](config)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (config.run_dir / "events.jsonl").read_text().splitlines()
    events = [json.loads(line, parse_constant=no_constant) for line in lines]
    json.loads((config.run_dir / "summary.json").read_text(), parse_constant=no_constant)
    losses = next(event["losses"] for event in events if event["event"] == "train_losses")
    (warning,) = [event["message"] for event in events if event["event"] == "warned"]
    assert events[-1]["summary"]["dead_logits"] == []
    assert f"from step {losses.index(None) + 1} of epoch 1: try a lower --learning-rate" in warning


@side
def test_no_epochs_saves_the_start(side, tmp_path):
    start = tmp_path / "start.safetensors"
    parameters = initial_parameters("torch_linear", (784, 200, 200, 10), seed=3)
    save_weights(start, {name: array.astype(np.float32) for name, array in parameters.items()})
    summary = TRAIN[side](Config(epochs=0, initial_weights=start, run_dir=tmp_path / "run"))
    assert (tmp_path / "run/weights.safetensors").read_bytes() == start.read_bytes()
    assert (summary["steps"], summary["train_seconds"]) == (0, 0)


def test_one_torch_step_never_changes_jax_arrays(digits):
    """JAX hands NumPy a view of its memory; torch, which updates in place, must have copied it. 50 steps."""
    import jax.numpy as jnp

    config = Config(hidden=(8,), batch_size=10, dtype="float64", learning_rate=0.5)
    parameters = initial_parameters("torch_linear", config.widths(digits.pixels, digits.classes), seed=0)
    shared = {name: jnp.array(array) for name, array in parameters.items()}
    before = {name: np.asarray(array).tobytes() for name, array in shared.items()}
    views = {name: np.asarray(array) for name, array in shared.items()}
    jax_trainer = TRAINER["jax"](config, digits, views)
    torch_trainer = TRAINER["torch"](config, digits, views)
    for _ in range(50):
        torch_trainer.train_steps(np.arange(10, dtype=np.int32))
        assert {name: np.asarray(array).tobytes() for name, array in shared.items()} == before
    assert torch_trainer.parameters()["layers.0.weight"].tobytes() != before["layers.0.weight"]
    for name, array in jax_trainer.parameters().items():
        assert array.tobytes() == before[name]


@side
def test_what_a_trainer_hands_out_does_not_change_any_more(side, digits):
    trainer = TRAINER[side](Config(hidden=(8,), batch_size=10, learning_rate=0.5), digits, None)
    handed_out = trainer.parameters()
    before = {name: array.tobytes() for name, array in handed_out.items()}
    trainer.train_steps(epoch_order(0, 1, 103))
    assert {name: array.tobytes() for name, array in handed_out.items()} == before


@side
def test_the_seed_alone_decides_the_start(side, digits):
    """Whatever torch's global generator was left at by the caller, as it is by a process's start."""

    def start(seed: int, elsewhere: int) -> bytes:
        torch.manual_seed(elsewhere)
        parameters = TRAINER[side](Config(hidden=(8,), seed=seed), digits, None).parameters()
        return b"".join(array.tobytes() for array in parameters.values())

    assert start(5, elsewhere=1) == start(5, elsewhere=2)
    assert start(5, elsewhere=1) != start(6, elsewhere=1)


@pytest.mark.parametrize(
    "batch_size",
    [pytest.param(103, id="batches that fill the set", marks=OTHER), pytest.param(10, id="and that do not")],
)
def test_a_run_is_compiled_once(digits, batch_size):
    """The time of training is free of the time of compiling, from the first epoch on, whatever the last batch."""
    trainer = TRAINER["jax"](Config(hidden=(8,), batch_size=batch_size), digits, None)
    compilations: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compilations.append(name))
    try:
        trainer.compile()
        assert sum("backend_compile" in name for name in compilations) == 3, "initial weights, epoch, evaluation"
        compilations.clear()
        for epoch in (1, 2):
            trainer.train_steps(epoch_order(0, epoch, 103))
            trainer.evaluate()
        assert not [name for name in compilations if "compile" in name]
    finally:
        jax.monitoring.clear_event_listeners()


def test_an_epoch_is_read_back_in_two_pieces(digits, monkeypatch):
    """Its losses and its evaluation, once each: whatever else is read makes the device wait for the host."""
    trainer = TRAINER["jax"](Config(hidden=(8,), batch_size=10), digits, None)
    trainer.compile()
    order = epoch_order(0, 1, 103)
    kind, reads = type(jax.numpy.zeros(())), []
    fetch = kind._value.fget
    monkeypatch.setattr(kind, "_value", property(lambda array: (reads.append(array.shape), fetch(array))[1]))

    def counted(convert):
        def wrapper(value, *arguments, **options):
            if isinstance(value, jax.Array):
                reads.append(value.shape)
            return convert(value, *arguments, **options)

        return wrapper

    for name in ("array", "asarray"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    trainer.train_steps(order)
    trainer.evaluate()
    assert len(reads) == 2, reads


@side
def test_a_model_larger_than_the_memory_is_refused_before_the_folder_is_made(side, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "load", lambda *_: digits)
    config = Config(hidden=(1_000_000, 1_000_000), batch_size=10, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match="not enough memory: try smaller --hidden"):
        TRAIN[side](config)
    assert not (tmp_path / "run").exists()


@side
def test_a_batch_larger_than_the_training_set_is_refused(side, tmp_path):
    with pytest.raises(UserError, match="--batch-size must be at most 60000, the training examples, got 70000"):
        TRAIN[side](Config(batch_size=70_000, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
