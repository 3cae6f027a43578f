"""The batch order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlp_workload.batches import batch_sizes, epoch_order, step_batch


def test_each_index_once():
    assert (np.sort(epoch_order(0, 1, 60_000)) == np.arange(60_000)).all()


def test_epoch_and_seed_change_it_and_nothing_else_does():
    order = epoch_order(3, 1, 1000)
    assert (order == epoch_order(3, 1, 1000)).all()
    for other in (epoch_order(3, 2, 1000), epoch_order(4, 1, 1000), epoch_order(1, 3, 1000)):
        assert (order != other).any()


def test_it_is_the_same_on_every_machine_and_numpy():
    assert epoch_order(0, 1, 10).tolist() == [9, 1, 3, 8, 7, 6, 0, 4, 2, 5]


@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 70), st.integers(0, 20))
def test_batch_sizes_are_those_of_the_batches(examples, batch_size, first_step, steps):
    sizes = [len(step_batch(0, first_step + i, examples, batch_size)) for i in range(steps)]
    assert batch_sizes(first_step, steps, examples, batch_size).tolist() == sizes
