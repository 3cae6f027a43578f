"""Faults of the data: examples, labels, normalisation, order."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mlp_compare.parity.faults.fault import LARGE_BATCHES, Fault, wrapped
from mlp_workload.batches import epoch_order
from mlp_workload.data import Dataset
from mlp_workload.data.shipped import TRAIN_EXAMPLES

_FIRST_EPOCH = epoch_order(0, 1, TRAIN_EXAMPLES)
_order = partial(wrapped, "mlp_workload.batches:epoch_order")
_epoch_losses = partial(wrapped, "jax_mlp.trainer:Trainer.train_steps")
"""Return a plant for an edit of the batch order, or of a compiled epoch in JAX. The edit takes the original first."""


def _edited(edit: Any) -> Any:
    """Returns a plant that passes copies of the training set through `edit(images, labels)`, which works in place."""

    def loaded(original: Any, *arguments: Any) -> Dataset:
        dataset: Dataset = original(*arguments)
        images, labels = dataset.train.images.copy(), dataset.train.labels.copy()
        edit(images, labels)
        return replace(dataset, train=replace(dataset.train, images=images, labels=labels))

    return wrapped("mlp_compare.parity.worker:load", loaded)


def _images(change: Any) -> Any:
    """Returns a plant that passes the training images through `change`."""
    return _edited(lambda images, labels: np.copyto(images, change(images.copy())))


def _swap_examples(original: Any, seed: int, epoch: int, examples: int) -> Any:
    indices = original(seed, epoch, examples)
    if epoch == 1:
        indices[[605, 2005]] = indices[[2005, 605]]
    return indices


def _off_by_one(images: Any, labels: Any) -> None:
    labels[_FIRST_EPOCH[207]] = (labels[_FIRST_EPOCH[207]] + 1) % 10


def _flip_bit(images: Any, labels: Any) -> None:
    images[_FIRST_EPOCH[411], 14, 14] ^= 1


FAULTS = [
    Fault("two examples swapped between batches", "torch", 4, "batch.images", plant=_order(_swap_examples)),
    Fault("one label off by one", "jax", 2, "batch.labels", plant=_edited(_off_by_one)),
    Fault("lowest bit of one pixel flipped", "torch", 3, "batch.images", plant=_edited(_flip_bit)),
    Fault("images transposed", "jax", 1, "batch.images", plant=_images(lambda images: images.transpose(0, 2, 1))),
    Fault("black and white inverted", "torch", 1, "batch.images", plant=_images(lambda images: 255 - images)),
    Fault("mean of the pixels off in the 5th digit", "torch", 1, "inputs", preset="relu",
          flags={"pixel_mean": 0.13071}),
    Fault("deviation of the pixels off in the 5th digit", "jax", 1, "inputs", preset="relu",
          flags={"pixel_std": 0.30811}, dtype="float32"),
    Fault("pixels divided by 256", "jax", 1, "inputs",
          plant=wrapped("jax_mlp.step:normalize", lambda right, config, images: right(config, images) * 255 / 256)),
    Fault("another order from the second epoch on", "jax", 10, "batch.images", config=LARGE_BATCHES,
          plant=_order(lambda right, seed, epoch, n: right(seed + (epoch > 1), epoch, n))),
    Fault("the same order every epoch", "torch", 10, "batch.images", config=LARGE_BATCHES,
          plant=_order(lambda right, seed, epoch, n: right(seed, 1, n))),
    Fault("epochs counted from 0", "torch", 1, "batch.images",
          plant=_order(lambda right, seed, epoch, n: right(seed, epoch - 1, n))),
    Fault("last, smaller batch dropped", "jax", 9, "batch.images", config=LARGE_BATCHES,
          plant=wrapped("mlp_workload.batches:steps_per_epoch", lambda right, examples, size: examples // size)),
    Fault("last, smaller batch dropped by the compiled epoch alone", "jax", 9, "epochs.loss", config=LARGE_BATCHES,
          runs_freely=True,
          plant=_epoch_losses(lambda right, trainer, order: right(trainer, order[: len(order) // 7000 * 7000]))),
    Fault("losses of the compiled epoch nan in float32", "jax", 2, "epochs.loss", dtype="float32", runs_freely=True,
          plant=_epoch_losses(lambda right, trainer, order: right(trainer, order) * np.float32("nan"))),
]  # fmt: skip
