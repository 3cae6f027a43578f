"""The batch order that both frameworks follow."""

import numpy as np
import numpy.typing as npt

EVALUATED_AT_ONCE = 2000
"""Test examples whose activations are in memory together; fits a processor's cache."""


def epoch_order(seed: int, epoch: int, examples: int) -> npt.NDArray[np.int32]:
    """Returns the order of the training set in `epoch`, counted from 1: a permutation of 0 .. examples-1.

    It depends on nothing else. A resumed run, the other framework and a run on more devices see the same batches:
    batch i of size b is `order[i * b : (i + 1) * b]`. Each epoch draws without replacement, like torch's
    `DataLoader(shuffle=True)`, but with NumPy's generator (PCG64).
    """
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the steps of an epoch. The last one is smaller if `batch_size` does not divide `examples`."""
    return -(-examples // batch_size)


def batch_sizes(first_step: int, steps: int, examples: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Returns the batch sizes (steps,) from `first_step` on. Steps count from 1 over all epochs."""
    batch_size = min(batch_size, examples)
    is_last = np.arange(first_step, first_step + steps) % steps_per_epoch(examples, batch_size) == 0
    return np.where(is_last, examples % batch_size or batch_size, batch_size)


def step_batch(seed: int, step: int, examples: int, batch_size: int) -> npt.NDArray[np.int32]:
    """Returns the examples of `step`: (batch_size,), or fewer in an epoch's last step. Steps count as above."""
    epoch, batch = divmod(step - 1, steps_per_epoch(examples, batch_size))
    return epoch_order(seed, epoch + 1, examples)[batch * batch_size : (batch + 1) * batch_size]


def part(
    order: npt.NDArray[np.int32], batch_size: int, first: int = 0, last: int | None = None
) -> npt.NDArray[np.int32]:
    """Returns the examples of the batches from `first` to before `last`, by default the last one, of `order` (n,)."""
    return order[first * batch_size : None if last is None else last * batch_size]
