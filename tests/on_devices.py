"""Runs that `test_devices.py` compares, trained in a process whose CPU counts as eight devices.

Into the folder that it is told go `digits-MESH.npz` of batches that can't be shared evenly, of the meshes in `SOME` if
it is told "some". With "all", of each mesh, and also `split-MESH.npz` of a step whose hidden layers are divided,
`PRESET-DEVICES.npz` of 100 steps of MNIST, and run folders.
"""

import dataclasses
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import jax
import numpy as np

import jax_mlp.train
from jax_mlp.trainer import Trainer
from mlp_workload.batches import epoch_order
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, Examples, load
from mlp_workload.initial import initial_parameters
from mlp_workload.run.output_options import OutputOptions

DEVICES = (1, 2, 4, 8)
MESHES = {"1": (1, 1), "2": (2, 2), "4": (4, 4), "2x2": (4, 2)}
"""Devices, and how many of them share a hidden layer."""
UNEVEN = {"1": (1, 1), "3": (3, 1), "8": (8, 1), "4x2": (8, 2)}
SOME = ("1", "4x2")


BATCH, TRAINED, TESTED = 40, 4_000, 2_001
"""Examples of MNIST that `part_of_mnist` has, which are 100 steps; no number of devices shares the last evenly."""


def part_of_mnist() -> Dataset:
    mnist = load("mnist")
    train = Examples(mnist.train.images[:TRAINED], mnist.train.labels[:TRAINED])
    test = Examples(mnist.test.images[:TESTED], mnist.test.labels[:TESTED])
    return dataclasses.replace(mnist, train=train, test=test)


def start(config: Config, dataset: Dataset) -> dict[str, np.ndarray]:
    return initial_parameters(config.initialization, config.widths(dataset.pixels, dataset.classes), 0)


def evaluated(trainer: Trainer) -> dict[str, np.ndarray]:
    found = trainer.evaluate()
    parts = ("losses", "predictions", "labels", "positive", "margins")
    return {f"test.{name}": np.asarray(getattr(found, name)) for name in parts}


def epochs(config: Config, dataset: Dataset, number: int = 1) -> dict[str, np.ndarray]:
    """Losses, test results, and the state after so many epochs."""
    trainer, n = Trainer(config, dataset, start(config, dataset)), len(dataset.train)
    trainer.compile()
    losses = [trainer.train_steps(epoch_order(0, epoch, n)) for epoch in range(1, number + 1)]
    return {"train.losses": np.concatenate(losses)} | evaluated(trainer) | trainer.state()


def on_mnist(out: Path) -> None:
    mnist = part_of_mnist()
    for preset in PRESETS:
        for devices in DEVICES:
            config = dataclasses.replace(PRESETS[preset], dtype="float64", devices=devices, batch_size=BATCH)
            np.savez(out / f"{preset}-{devices}.npz", **epochs(config, mnist))


def divided(out: Path, small: Dataset) -> None:
    for name, (devices, split) in MESHES.items():
        config = dataclasses.replace(
            PRESETS["relu"], dtype="float64", devices=devices, split_hidden=split, hidden=(8, 4), batch_size=20
        )
        trainer = Trainer(config, small, start(config, small))
        np.savez(out / f"split-{name}.npz", **trainer.trace_step(epoch_order(0, 1, len(small.train))[:20]))


def uneven(out: Path, small: Dataset, meshes: Collection[str]) -> None:
    for name in meshes:
        devices, split = UNEVEN[name]
        config = dataclasses.replace(
            PRESETS["leaky"], dtype="float64", devices=devices, split_hidden=split, pad_batches=True, hidden=(8, 6),
            batch_size=20, momentum=0.9, learning_rate=0.1,
        )  # fmt: skip
        np.savez(out / f"digits-{name}.npz", **epochs(config, small, 3))


def run_folders(out: Path, digits: str) -> None:
    eight = dataclasses.replace(
        PRESETS["leaky"], dataset=digits, dtype="float64", devices=8, hidden=(8, 6), batch_size=16, momentum=0.9,
        learning_rate=0.1, last_activation="none",
    )  # fmt: skip
    for name, number in {"whole": 2, "again": 1}.items():
        train(dataclasses.replace(eight, run_dir=out / name, epochs=number))
    for name in ("on-one", "on-two"):
        shutil.copytree(out / "again", out / name)
    for name, devices in {"again": 8, "on-one": 1}.items():
        train(dataclasses.replace(eight, run_dir=out / name, epochs=2, devices=devices), resume=True)


def train(config: Config, resume: bool = False) -> None:
    jax_mlp.train.train(config, OutputOptions(visdom="off", quiet=True), resume=resume)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    folder, data, amount = Path(sys.argv[1]), *sys.argv[2:]
    digits = load(data)
    uneven(folder, digits, SOME if amount == "some" else UNEVEN)
    if amount == "all":
        divided(folder, digits)
        on_mnist(folder)
        run_folders(folder, data)
