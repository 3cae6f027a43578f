"""Loads what a run starts from: its data set and its first weights."""

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from mlp_workload.config import Config
from mlp_workload.data import Dataset, load
from mlp_workload.errors import UserError
from mlp_workload.files import expand
from mlp_workload.weights import Parameters, load_weights, parameter_shapes


@contextlib.contextmanager
def reading(config: Config, resume: bool = False) -> Iterator[Callable[[], Dataset]]:
    """Yields a function that returns the run's data set, which a thread reads while the framework is imported.

    TFDS imports much itself and is read only when the function is called. The function raises `UserError`.
    """
    if config.dataset.startswith("tfds:"):
        yield partial(load_dataset, config, resume)
    else:
        with ThreadPoolExecutor(1) as reader:
            yield reader.submit(load_dataset, config, resume).result


def load_dataset(config: Config, resume: bool = False) -> Dataset:
    """Loads the run's data set. Raises `UserError`, also if a batch would be larger than the training set.

    The data of a run that is resumed may lie elsewhere: the error then says how to name the folder.
    """
    try:
        dataset = load(config.dataset, config.transpose_images)
    except UserError as error:
        hint = "; if the run's data are elsewhere now, name the folder: --dataset idx:DIR"
        is_folder = config.dataset.startswith("idx:")
        raise UserError(f"--dataset {error}{hint if resume and is_folder else ''}") from error
    check_batch_size(config, dataset)
    return dataset


def check_batch_size(config: Config, dataset: Dataset) -> None:
    """Raises `UserError` if a batch is larger than the training set."""
    if config.batch_size > (examples := len(dataset.train)):
        raise UserError(f"--batch-size must be at most {examples}, the training examples, got {config.batch_size}")


def initial_weights(config: Config, dataset: Dataset) -> Parameters | None:
    """Loads the weights that the run starts from; None if the framework draws them. Raises `UserError`."""
    if config.initial_weights is None:
        return None
    shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
    return load_weights(expand(config.initial_weights), shapes, config.dtype)


def weights_bytes(config: Config, dataset: Dataset) -> int:
    shapes = parameter_shapes(config.widths(dataset.pixels, dataset.classes))
    return np.dtype(config.dtype).itemsize * sum(map(math.prod, shapes.values()))
