"""The state of Adam: its names in a checkpoint, and runs that go on from it in either framework."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import write_idx_folder
from safetensors.numpy import load_file, save_file
from tolerances import RUN_FLOAT64

import jax_mlp.train
import reference_torch.train
from mlp_workload.config import PRESETS
from mlp_workload.files import read_safetensors
from mlp_workload.run import checkpoint
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.weights import parameter_shapes

TRAIN = {"jax": jax_mlp.train.train, "torch": reference_torch.train.train}
UNWATCHED = OutputOptions(visdom="off", quiet=True)
LATER = ("optimizer", "beta1", "beta2", "epsilon")
"""Settings that the first version's config.json lacks."""


@pytest.fixture
def config(digits, tmp_path):
    (tmp_path / "digits").mkdir()
    source = write_idx_folder(tmp_path / "digits", digits)
    small = {"hidden": (8, 6), "batch_size": 20, "dtype": "float64", "run_dir": tmp_path / "run"}
    return dataclasses.replace(PRESETS["leaky"], dataset=source, epochs=1, **small)


@pytest.mark.parametrize(
    ("first", "second", "optimizer"),
    [("torch", "jax", "adam"), ("torch", "torch", "adamw")]
    + [
        pytest.param(*case, marks=pytest.mark.long("compiles all again"))
        for case in (("jax", "torch", "adamw"), ("jax", "jax", "adam"))
    ],
)
def test_a_run_by_adam_is_handed_over(first, second, optimizer, config, tmp_path):
    """The second epoch by another trainer: to the byte by the same framework, to rounding by the other one."""
    config = dataclasses.replace(config, optimizer=optimizer, weight_decay=0.01, learning_rate=0.001)
    TRAIN[first](dataclasses.replace(config, epochs=2, run_dir=tmp_path / "whole"), UNWATCHED)
    TRAIN[first](config, UNWATCHED)
    TRAIN[second](dataclasses.replace(config, epochs=2), UNWATCHED, resume=True)
    handed, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("run", "whole"))
    for name, array in whole.items():
        if first == second:
            assert handed[name].tobytes() == array.tobytes(), name
        else:
            RUN_FLOAT64.assert_close(handed[name], array, name)


@pytest.mark.parametrize("side", TRAIN)
def test_a_checkpoint_names_the_moments_and_the_steps(side, config, digits):
    TRAIN[side](dataclasses.replace(config, optimizer="adam"), UNWATCHED)
    (path,) = (config.run_dir / "checkpoints").glob("step-*6.safetensors")
    state = checkpoint.load(path).state
    parameters = parameter_shapes(config.widths(digits.pixels, digits.classes))
    ends = ("", ".first_moment", ".second_moment")
    assert state.keys() == {f"{name}{end}" for name in parameters for end in ends} | {"optimizer.steps"}
    assert state["optimizer.steps"] == 6
    assert checkpoint.load(path).parameters.keys() == parameters.keys()


def test_a_run_from_before_adam_goes_on(config, tmp_path):
    """Neither its config.json nor its checkpoints have the settings of Adam."""
    config = dataclasses.replace(config, momentum=0.9)
    TRAIN["torch"](dataclasses.replace(config, epochs=2, run_dir=tmp_path / "whole"), UNWATCHED)
    TRAIN["torch"](config, UNWATCHED)
    text = json.loads((config.run_dir / "config.json").read_text())
    (config.run_dir / "config.json").write_text(json.dumps(without_later(text)))
    for path in (config.run_dir / "checkpoints").iterdir():
        tensors, metadata = read_safetensors(path, "checkpoint")
        about = json.loads(metadata["checkpoint"])
        about = json.dumps(about | {"config": without_later(about["config"])})
        save_file(tensors, path, {"checkpoint": about, "digest": checkpoint._digest(about, tensors)})
    TRAIN["torch"](dataclasses.replace(config, epochs=2), UNWATCHED, resume=True)
    handed, whole = (load_file(tmp_path / name / "weights.safetensors") for name in ("run", "whole"))
    np.testing.assert_equal(handed, whole)


def without_later(settings):
    return {name: value for name, value in settings.items() if name not in LATER}
