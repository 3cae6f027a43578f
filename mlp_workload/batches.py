"""The one batch order that both frameworks follow."""

import numpy as np
import numpy.typing as npt


def epoch_order(seed: int, epoch: int, examples: int) -> npt.NDArray[np.int32]:
    """A permutation of 0 .. examples-1: the order of the training set in `epoch`, counted from 1.

    It depends on nothing else, so that a resumed run, the other framework and a run on more devices see the same
    batches: batch i of size b is `order[i * b : (i + 1) * b]`. Like torch's `DataLoader(shuffle=True)` each epoch
    draws without replacement; the permutations themselves are NumPy's (PCG64), not torch's or JAX's.
    """
    return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """The last step of an epoch is smaller where `batch_size` does not divide `examples`."""
    return -(-examples // batch_size)


def batch_sizes(first_step: int, steps: int, examples: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Examples (steps,) in the batch of each step of a run from `first_step` on, counted from 1 over all epochs."""
    batch_size = min(batch_size, examples)
    is_last = np.arange(first_step, first_step + steps) % steps_per_epoch(examples, batch_size) == 0
    return np.where(is_last, examples % batch_size or batch_size, batch_size)


def step_batch(seed: int, step: int, examples: int, batch_size: int) -> npt.NDArray[np.int32]:
    """The examples (batch_size,) or fewer of step `step` of a run, counted from 1 over all epochs."""
    epoch, batch = divmod(step - 1, steps_per_epoch(examples, batch_size))
    return epoch_order(seed, epoch + 1, examples)[batch * batch_size : (batch + 1) * batch_size]


def part(
    order: npt.NDArray[np.int32], batch_size: int, first: int = 0, last: int | None = None
) -> npt.NDArray[np.int32]:
    """Returns the examples of the batches from `first` to before `last`, by default the last one, of `order` (n,)."""
    return order[first * batch_size : None if last is None else last * batch_size]
