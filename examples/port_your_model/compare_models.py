"""Checks the port against the original, forward and backward, and then over five steps of training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optax
import torch

import twincheck as tc
from examples.port_your_model import flax_model, torch_model
from examples.port_your_model.flax_model import MISTAKES, Mistake
from mlp_workload.cli.parse import run_command
from mlp_workload.data import load


@dataclass(frozen=True)
class Arguments:
    mistake: Mistake = "none"
    """Plants this mistake in the port."""


def sides(mistake: Mistake = "none") -> tuple[Any, Any]:
    """Returns both models, each with the same 64 images, as they train."""
    images = load("mnist").train.images[:64, :, :, None] / np.float32(255)
    torch.manual_seed(0)
    return (
        tc.torch(torch_model.Network(), inputs=images.transpose(0, 3, 1, 2), train=True),
        tc.nnx(flax_model.Network(**MISTAKES[mistake]), inputs=images, train=True),
    )


def compare(mistake: Mistake = "none") -> tuple[Any, Any]:
    """Returns the report of the check and, if that finds no difference, the result of the training."""
    torch_side, flax_side = sides(mistake)
    pair = tc.pair(torch_side, flax_side)
    report = pair.check()
    if not report.same:
        return report, None
    return report, pair.train(
        [(torch_side.inputs, load("mnist").train.labels[:64])],
        steps=5,
        torch_optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
        optax=optax.adam(1e-3),
        torch_loss=lambda logits, y: torch.nn.functional.cross_entropy(logits, y.long()),
        jax_loss=lambda logits, y: optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(),
    )


def main(arguments: Arguments) -> bool:
    """Returns whether the models agree."""
    report, training = compare(arguments.mistake)
    print(report)
    if training is None:
        return False
    print(f"\n{training}")
    return bool(training.same)


if __name__ == "__main__":
    run_command(f"python -m {__package__}.compare_models", Arguments, main, description=__doc__)
