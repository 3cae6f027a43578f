"""Faults of the data: examples, labels, normalisation, order."""

from dataclasses import replace
from typing import Any

import numpy as np

from mlp_compare.parity.faults.fault import LARGE_BATCHES, Fault, wrapped
from mlp_workload.batches import epoch_order
from mlp_workload.data import Dataset
from mlp_workload.data.shipped import TRAIN_EXAMPLES

_FIRST_EPOCH = epoch_order(0, 1, TRAIN_EXAMPLES)


def _order(edit: Any) -> Any:
    """Returns a plant for `edit` of the batch order, which takes the original and its arguments."""
    return wrapped("mlp_workload.batches:epoch_order", edit)


def _epoch_losses(edit: Any) -> Any:
    """Returns a plant for `edit` of JAX's compiled epochs, which takes the original, a trainer and an order."""
    return wrapped("jax_mlp.trainer:Trainer.train_steps", edit)


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
    Fault(name="two examples swapped between batches", side="torch", step=4, tensor="batch.images",
          plant=_order(_swap_examples)),
    Fault(name="one label off by one", side="jax", step=2, tensor="batch.labels", plant=_edited(_off_by_one)),
    Fault(name="lowest bit of one pixel flipped", side="torch", step=3, tensor="batch.images",
          plant=_edited(_flip_bit)),
    Fault(name="images transposed", side="jax", step=1, tensor="batch.images",
          plant=_images(lambda images: images.transpose(0, 2, 1))),
    Fault(name="black and white inverted", side="torch", step=1, tensor="batch.images",
          plant=_images(lambda images: 255 - images)),
    Fault(name="mean of the pixels off in the 5th digit", side="torch", step=1, tensor="inputs",
          preset="relu", flags={"pixel_mean": 0.13071}),
    Fault(name="deviation of the pixels off in the 5th digit", side="jax", step=1, tensor="inputs",
          preset="relu", flags={"pixel_std": 0.30811}, dtype="float32"),
    Fault(name="pixels divided by 256", side="jax", step=1, tensor="inputs",
          plant=wrapped("jax_mlp.step:normalize", lambda right, config, images: right(config, images) * 255 / 256)),
    Fault(name="another order from the second epoch on", side="jax", step=10, tensor="batch.images",
          config=LARGE_BATCHES, plant=_order(lambda right, seed, epoch, n: right(seed + (epoch > 1), epoch, n))),
    Fault(name="the same order every epoch", side="torch", step=10, tensor="batch.images", config=LARGE_BATCHES,
          plant=_order(lambda right, seed, epoch, n: right(seed, 1, n))),
    Fault(name="epochs counted from 0", side="torch", step=1, tensor="batch.images",
          plant=_order(lambda right, seed, epoch, n: right(seed, epoch - 1, n))),
    Fault(name="last, smaller batch dropped", side="jax", step=9, tensor="batch.images", config=LARGE_BATCHES,
          plant=wrapped("mlp_workload.batches:steps_per_epoch", lambda right, examples, size: examples // size)),
    Fault(name="last, smaller batch dropped by the compiled epoch alone", side="jax", step=9,
          tensor="epochs.loss", config=LARGE_BATCHES, runs_freely=True,
          plant=_epoch_losses(lambda right, trainer, order: right(trainer, order[: len(order) // 7000 * 7000]))),
    Fault(name="losses of the compiled epoch nan in float32", side="jax", step=2, tensor="epochs.loss",
          dtype="float32", runs_freely=True,
          plant=_epoch_losses(lambda right, trainer, order: right(trainer, order) * np.float32("nan"))),
]  # fmt: skip
