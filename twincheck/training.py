"""Two models trained side by side, each step compared from the same state.

The state is torch's: in each step both models compute from torch's parameters and buffers, and optax updates torch's
parameters with torch's gradients. So a step shows its own mistakes only, and none grows with the number of steps.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import optax as optax_library
import torch

from mlp_workload.errors import UserError
from twincheck.jax_training import JaxRun
from twincheck.optimizer_causes import numbers_in
from twincheck.recording import require_dtype
from twincheck.torch_training import TorchRun
from twincheck.training_result import Difference, Training
from twincheck.training_steps import Compared

__all__ = ["Difference", "Training", "train"]


def train(
    pair: Any,
    batches: Iterable[Any],
    steps: int,
    *,
    torch_optimizer: Callable[[torch.nn.Module], Any],
    optax: optax_library.GradientTransformation,
    torch_loss: Callable[[Any, Any], Any],
    jax_loss: Callable[[Any, Any], Any] | None = None,
    jax_inputs: Callable[[Any], Any] | None = None,
    jax_average: Callable[[Any, Any], Any] | None = None,
    dtype: Literal["float64", "float32"] = "float64",
) -> Training:
    """Trains both models of a pair for `steps` steps and compares each step from torch's state.

    Args:
        pair: the pair; give its sides `train=True` if the models have batch norm. Dropout is always off.
        batches: `(inputs, targets)`; inputs in the form of the torch side's. They are repeated if there are too few.
        steps: the number of steps.
        torch_optimizer: takes the torch model; returns an optimizer, or a function without arguments, called once the
            gradients are there. Such a function clips, steps the optimizer and the scheduler, and may return an
            `AveragedModel`.
        optax: takes the gradients as a dict by the names of the JAX parameters.
        torch_loss: takes the torch model's output and the targets as tensors.
        jax_loss: the same for JAX; without it `torch_loss` serves for both.
        jax_inputs: turns inputs of the torch model into those of the JAX model, if that is more than a transposition.
        jax_average: `jax_average(average, parameters)` returns the new average of the parameters. Needed exactly if the
            function of `torch_optimizer` returns one.
        dtype: what both models compute in. The optimizers work in float64; in float32 parameters are rounded after each
            step, and a difference counts only if it is there in float64 too, from the same state.

    No tolerance is given. Outputs, gradients and running statistics may differ by 16 eps of float32 of their largest
    value. If one differs by more, `Pair.check` is asked about every place of the models. Running statistics of Flax NNX
    and linen are compared; others are named in a note.

    An update is what the optimizer adds to a parameter. It may differ by 16 times what optax's own update loses when it
    is computed in float32 instead of float64, from the same state: no training in float32 would show less. The
    optimizers work in float64, so a setting with a smaller effect can be told from rounding too. It is reported if its
    cause is known and its effect exceeds 16 eps of float32 of the update.
    """
    require_dtype(dtype)
    optional = {"jax_loss": jax_loss, "jax_inputs": jax_inputs, "jax_average": jax_average}
    given = {name: function for name, function in optional.items() if function is not None}
    _require(pair, batches, steps, {"torch_loss": torch_loss} | given)
    torch_run = TorchRun(pair.torch, torch_optimizer, torch_loss)
    jax_run = JaxRun(pair, jax_loss, torch_loss, optax, jax_inputs, jax_average)
    compared = Compared(pair, torch_run, jax_run, dtype)
    for inputs, targets in _repeated(batches, steps):
        compared.step(inputs, targets)
    compared.explain(numbers_in(optax))
    return compared.result


def _require(pair: Any, batches: Any, steps: Any, functions: Mapping[str, Any]) -> None:
    """Raises `UserError` if an argument of `train` is of another kind than it must be."""
    if not hasattr(pair, "pairing"):
        raise UserError(f"train takes what pair(torch_side, jax_side) returns, not {type(pair).__name__}")
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise UserError(f"steps must be a whole number of at least 1, not {steps!r}")
    if not isinstance(batches, Iterable) and not hasattr(batches, "__getitem__"):
        raise UserError(f"batches must be a list of (inputs, targets) or yield such, not {type(batches).__name__}")
    for name, function in functions.items():
        if not callable(function):
            raise UserError(f"{name} must be a function, not {type(function).__name__}")


def _repeated(batches: Iterable[Any], steps: int) -> Iterator[tuple[Any, Any]]:
    source = itertools.cycle(batches) if isinstance(batches, Iterator) else batches  # only an iterator needs memory
    done = 0
    while done < steps:
        first = done
        for batch in itertools.islice(source, steps - first):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise UserError(
                    f"a batch is a pair (inputs, targets), not {type(batch).__name__}: write [(inputs, targets)]"
                )
            done += 1
            yield batch[0], batch[1]
        if done == first:
            ended = f"batches ended after {done} of {steps} steps, and gave none when asked again: give a list"
            raise UserError(ended if done else "there are no batches to train on")
