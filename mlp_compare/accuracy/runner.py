"""Training runs of one framework by seed, in its process: one trainer, compiled once, for all seeds of a configuration.

JAX's seeds are not one vmapped program: on two CPU cores an epoch of 4 or 8 seeds took 0.98 times as long as one after
another (medians of five interleaved pairs; 0.97 and 1.04 on a busier machine), which compiling it longer eats up.
"""

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
"""paired: `mlp_workload`'s initial weights and batches, the same for both. unpaired: each framework's own."""


class Runs:
    """What a `Side` does here: trains with one framework, seed after seed."""

    def __init__(self, framework: str) -> None:
        self._framework = framework
        self._compiled: Config | None = None
        self._around = contextlib.ExitStack()
        self._make: MakeTrainer
        self._trainer: Trainer

    def final_correct(self, config: Config, pairing: Pairing) -> int:
        """Of the test set, after the run that `config` and its seed describe."""
        self._compile(replace(config, seed=0))
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
        """Makes its trainer ready; the facts of it."""
        self._compile(replace(config, seed=0))
        assert self._compiled is not None
        return facts(self._trainer, self._compiled)

    def _compile(self, config: Config) -> None:
        if config != self._compiled:
            self._compiled, self._dataset = config, load(config.dataset, config.transpose_images)
            self._around.close()
            self._make = self._around.enter_context(framework_of(self._framework)(config))
            self._trainer = self._make(config, self._dataset, None)
            self._trainer.compile()


def torch_orders(seed: int, epochs: int, examples: int) -> Iterator[npt.NDArray[np.int32]]:
    """By `torch.randperm`, as `DataLoader(shuffle=True)` does.

    Seeded from the other end, here and for JAX: from the run's own seed come the bits that the weights are made of.
    """
    import torch

    generator = torch.Generator().manual_seed(LARGEST_SEED - seed)
    for _ in range(epochs):
        yield torch.randperm(examples, generator=generator).numpy().astype(np.int32)


def jax_orders(seed: int, epochs: int, examples: int) -> Iterator[npt.NDArray[np.int32]]:
    import jax

    for key in jax.random.split(jax.random.key(LARGEST_SEED - seed), epochs):
        yield np.asarray(jax.random.permutation(key, examples), np.int32)


OWN_ORDERS = {"jax": jax_orders, "torch": torch_orders}
