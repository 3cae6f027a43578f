"""Training runs of one framework, seed after seed, by one trainer that is compiled once per configuration."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlp_compare.parity.worker import facts, load
from mlp_workload.batches import epoch_order
from mlp_workload.config import LARGEST_SEED, Config
from mlp_workload.initial import initial_parameters
from mlp_workload.interface import MakeTrainer, Trainer, framework_of

Pairing = Literal["paired", "unpaired"]
"""paired: initial weights and batches of `mlp_workload`, the same for both. unpaired: each framework's own."""


class Runs:
    """Worker of a `WorkerProcess`: trains with one framework, seed after seed."""

    def __init__(self, framework: str) -> None:
        self._framework = framework
        self._compiled: Config | None = None
        self._around = contextlib.ExitStack()
        self._make: MakeTrainer
        self._trainer: Trainer

    def final_correct(self, config: Config, pairing: Pairing) -> int:
        """Trains the run that `config` describes, and returns how many test examples are correct."""
        self._compile(config)
        examples = len(self._dataset.train)
        orders: Iterable[npt.NDArray[np.int32]]
        if pairing == "paired":
            widths = config.widths(self._dataset.pixels, self._dataset.classes)
            start = initial_parameters(config.initialization, widths, config.seed)
            orders = (epoch_order(config.seed, epoch, examples) for epoch in range(1, config.epochs + 1))
        else:
            start = self._make(config, self._dataset, None).state()  # the framework's own initialiser
            orders = OWN_ORDERS[self._framework](config.seed, config.epochs, examples)
        self._trainer.load_state(start)
        for order in orders:
            self._trainer.train_steps(order)
        return self._trainer.evaluate().correct

    def compiled(self, config: Config) -> dict[str, Any]:
        """Makes the trainer ready and returns its facts."""
        self._compile(config)
        return facts(self._trainer, config)

    def _compile(self, config: Config) -> None:
        config = replace(config, seed=0)
        if config != self._compiled:
            self._compiled, self._dataset = config, load(config.dataset, config.transpose_images)
            self._around.close()
            self._make = self._around.enter_context(framework_of(self._framework)(config))
            self._trainer = self._make(config, self._dataset, None)
            self._trainer.compile()


def torch_orders(seed: int, epochs: int, examples: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yields the order of each epoch by `torch.randperm`, as `DataLoader(shuffle=True)` does.

    The generator's seed counts down from the largest, because the run's own seed already gives the initial weights.
    """
    import torch

    generator = torch.Generator().manual_seed(LARGEST_SEED - seed)
    for _ in range(epochs):
        yield torch.randperm(examples, generator=generator).numpy().astype(np.int32)


def jax_orders(seed: int, epochs: int, examples: int) -> Iterator[npt.NDArray[np.int32]]:
    """Yields the order of each epoch by `jax.random.permutation`, seeded as `torch_orders` is."""
    import jax

    for key in jax.random.split(jax.random.key(LARGEST_SEED - seed), epochs):
        yield np.asarray(jax.random.permutation(key, examples), np.int32)


OWN_ORDERS = {"jax": jax_orders, "torch": torch_orders}
