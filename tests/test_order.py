"""The batch order."""

import numpy as np

from mlp_workload.order import epoch_order


def test_each_index_once():
    assert (np.sort(epoch_order(0, 1, 60_000)) == np.arange(60_000)).all()


def test_epoch_and_seed_change_it_and_nothing_else_does():
    order = epoch_order(3, 1, 1000)
    assert (order == epoch_order(3, 1, 1000)).all()
    for other in (epoch_order(3, 2, 1000), epoch_order(4, 1, 1000), epoch_order(1, 3, 1000)):
        assert (order != other).any()


def test_it_is_the_same_on_every_machine_and_numpy():
    assert epoch_order(0, 1, 10).tolist() == [9, 1, 3, 8, 7, 6, 0, 4, 2, 5]
