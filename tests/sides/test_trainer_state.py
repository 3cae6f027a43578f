"""A trainer tells all of a step, and goes on from wherever another one stopped."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from tolerances import FORWARD_BACKWARD, MODEL_FLOAT64

import examples.numpy_side.trainer
import jax_mlp.trainer
import reference_torch.trainer
from examples.numpy_side.mlp import forward_backward
from mlp_workload.batches import epoch_order, step_batch
from mlp_workload.config import PRESETS
from mlp_workload.initial import initial_parameters

TRAINER = {
    "jax": jax_mlp.trainer.Trainer,
    "torch": reference_torch.trainer.Trainer,
    "numpy": examples.numpy_side.trainer.Trainer,
}
side = pytest.mark.parametrize("side", ["jax", "torch"])
each_side = pytest.mark.parametrize("side", TRAINER)  # in float64, which is all that NumPy's has
OTHER = pytest.mark.long("compiles programs of other settings")
ADAMW = {"optimizer": "adamw", "weight_decay": 0.01}
NESTEROV = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
preset_and_optimizer = pytest.mark.parametrize(
    ("preset", "optimizer"),
    [("leaky", {}), ("relu", NESTEROV), ("leaky", ADAMW)]
    + [pytest.param("relu", optimizer, marks=OTHER) for optimizer in ({"momentum": 0.9}, {"optimizer": "adam"})],
)


def config_of(preset, optimizer, dtype="float64"):
    small = {"hidden": (8, 8), "batch_size": 20, "dtype": dtype, "learning_rate": 0.1, "label_smoothing": 0.1}
    return dataclasses.replace(PRESETS[preset], **small, **optimizer)


def trainer_of(side, config, digits):
    start = initial_parameters("torch_linear", config.widths(digits.pixels, digits.classes), seed=0)
    return TRAINER[side](config, digits, start)


@side
@pytest.mark.parametrize(
    ("preset", "dtype"),
    [("relu", "float32"), ("leaky", "float64")]
    + [pytest.param(*pair, marks=OTHER) for pair in (("relu", "float64"), ("leaky", "float32"))],
)
def test_a_traced_step_is_what_numpy_says(side, preset, dtype, digits):
    config = config_of(preset, {"momentum": 0.9}, dtype)
    trainer = trainer_of(side, config, digits)
    trainer.trace_step(epoch_order(0, 1, 103)[:20])  # the second step has a velocity to start from
    before = trainer.state()
    batch = epoch_order(0, 1, 103)[20:40]
    trace = trainer.trace_step(batch)

    close = FORWARD_BACKWARD[dtype].assert_close
    images, labels = digits.train.images[batch].reshape(20, -1), digits.train.labels[batch]
    np.testing.assert_array_equal(trace["batch.images"], images, strict=True)
    np.testing.assert_array_equal(trace["batch.labels"], labels, strict=True)
    x = (images / 255 - config.pixel_mean) / config.pixel_std
    close(trace["inputs"], x)
    parameters = {name: array for name, array in before.items() if not name.endswith(".momentum")}
    activations = [config.activation, config.activation, config.logits_activation]
    expected = forward_backward(parameters, activations, x, labels, 0.1)
    for name in parameters:
        expected[f"{name}.momentum"] = 0.9 * before[f"{name}.momentum"] + expected[f"{name}.grad"]
        expected[name] = before[name] - 0.1 * expected[f"{name}.momentum"]
    for name, array in expected.items():
        close(trace[name], array)
    assert trace.keys() == expected.keys() | {"batch.images", "batch.labels", "batch.digest", "inputs"}
    assert {array.dtype.name for array in trace.values() if array.dtype.kind == "f"} == {dtype}


@each_side
@preset_and_optimizer
def test_a_traced_step_is_the_trainers_own(side, preset, optimizer, digits):
    config = config_of(preset, optimizer)
    stepwise, by_epochs = (trainer_of(side, config, digits) for _ in range(2))
    losses = [stepwise.trace_step(step_batch(0, step, 103, 20))["loss"] for step in range(1, 13)]
    by_epoch = [by_epochs.train_steps(epoch_order(0, epoch, 103)) for epoch in (1, 2)]
    MODEL_FLOAT64.assert_close(losses, np.concatenate(by_epoch))
    for name, array in by_epochs.state().items():
        MODEL_FLOAT64.assert_close(stepwise.state()[name], array, name)


@side
@pytest.mark.parametrize("cuts", [(0, 5, 6), (0, 2, 5, 6), (0, 1, 6)])
def test_an_epoch_in_parts_is_the_epoch(side, cuts, digits):
    """Its sixth batch is smaller than the others: it is trained on once, also if a part ends before it."""
    config = config_of("leaky", {}, "float32")
    whole, in_parts = (trainer_of(side, config, digits) for _ in range(2))
    order = epoch_order(0, 1, 103)
    losses = whole.train_steps(order)
    assert np.concatenate([in_parts.train_steps(order, *part) for part in pairwise(cuts)]).tobytes() == losses.tobytes()
    for name, array in in_parts.state().items():
        assert array.tobytes() == whole.state()[name].tobytes(), name


@side
@preset_and_optimizer
def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(side, preset, optimizer, digits):
    config = config_of(preset, optimizer, "float32")
    whole, first, second = (trainer_of(side, config, digits) for _ in range(3))
    orders = [epoch_order(0, epoch, 103) for epoch in (1, 2, 3)]
    losses = [whole.train_steps(order) for order in orders]
    first.train_steps(orders[0])
    state = first.state()
    second.train_steps(orders[2], 0, 4)  # a past of its own, of another length, which must not show
    second.load_state(state)
    for name, array in second.state().items():
        assert array.tobytes() == state[name].tobytes(), name
    for expected, order in zip(losses[1:], orders[1:], strict=True):
        assert second.train_steps(order).tobytes() == expected.tobytes()
    for name, array in second.state().items():
        assert array.tobytes() == whole.state()[name].tobytes(), name


@each_side
def test_a_state_is_a_copy_on_the_way_out_and_on_the_way_in(side, digits):
    trainer = trainer_of(side, config_of("leaky", {"momentum": 0.9}), digits)
    trainer.train_steps(epoch_order(0, 1, 103))
    state = trainer.state()
    assert state.keys() == {f"layers.{i}.{kind}{end}" for i in range(3) for kind in ("weight", "bias")
                            for end in ("", ".momentum")}  # fmt: skip
    kept = {name: array.copy() for name, array in state.items()}

    def still_has_what_was_kept():
        for array in state.values():
            array[:] = 7
        for name, array in trainer.state().items():
            np.testing.assert_array_equal(array, kept[name])

    still_has_what_was_kept()
    state = {name: array.copy() for name, array in kept.items()}
    trainer.load_state(state)
    still_has_what_was_kept()
    trainer.train_steps(epoch_order(0, 2, 103))
    assert all((array == 7).all() for array in state.values())


@pytest.mark.parametrize(("examples", "batch_size"), [(60_000, 200), (103, 20), (5, 5), (5, 1), (7, 4)])
def test_the_batches_of_all_steps_are_the_epochs_in_their_order(examples, batch_size):
    steps = -(-examples // batch_size)
    some = range(1, 2 * steps + 1)
    batches = [step_batch(3, step, examples, batch_size) for step in some]
    np.testing.assert_array_equal(
        np.concatenate(batches), np.concatenate([epoch_order(3, epoch, examples) for epoch in (1, 2)])
    )
    assert {len(batch) for batch in batches[: steps - 1]} <= {batch_size}
