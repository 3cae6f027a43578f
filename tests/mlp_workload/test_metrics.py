"""Sums and counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_workload.errors import UserError
from mlp_workload.metrics import Evaluation, Mistakes, Recall, recalls, worst


def evaluation(losses, predictions, labels, classes):
    arrays = np.array(losses, np.float32), np.array(predictions), np.array(labels)
    return Evaluation(*arrays, positive=np.arange(classes) % 2 == 0, margins=np.zeros(len(labels)))


def test_loss_is_the_true_mean_and_the_articles_is_not():
    one = evaluation([1, 2, 3, 4, 8], [0] * 5, [0, 1, 0, 1, 0], 2)
    assert one.loss == 18 / 5
    assert one.article_loss(2) == pytest.approx((1.5 + 3.5 + 8) / 5)
    assert one.article_loss(5) == pytest.approx(18 / 5 / 5)
    assert one.article_loss(7) == pytest.approx(18 / 5 / 5)


@given(st.integers(1, 50), st.integers(1, 60), st.randoms())
def test_the_articles_loss_is_the_sum_of_batch_means_over_examples(examples, batch_size, random):
    losses = np.array([random.random() for _ in range(examples)])
    one = Evaluation(losses, np.zeros(examples, int), np.zeros(examples, int), np.ones(1, bool), losses)
    means = [losses[i : i + batch_size].mean() for i in range(0, examples, batch_size)]
    assert one.article_loss(batch_size) == pytest.approx(sum(means) / examples)


def test_counts():
    one = evaluation([0] * 6, [0, 1, 1, 2, 2, 0], [0, 1, 2, 2, 3, 3], 5)
    assert (one.correct, one.examples, one.accuracy) == (3, 6, 0.5)
    assert one.confusion.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert one.lost_classes == [3], "class 4 has no example, so it can't be lost"
    assert one.never_positive == [1, 3]
    classes = recalls(one.confusion, "abcde")
    assert [str(recall) for recall in classes] == [
        "1 of 1 = 100.00%", "1 of 1 = 100.00%", "1 of 2 = 50.00%", "0 of 2 = 0.00%", "0 of 0"
    ]  # fmt: skip
    assert worst(classes).name == "d", "class e has no example"


def test_the_worst_class_is_the_first_with_the_smallest_fraction():
    classes = [Recall("few, all right", 4, 4), Recall("half", 5, 10), Recall("half again", 1, 2), Recall("none", 0, 0)]
    assert worst(classes).name == "half"


def test_float32_losses_are_summed_in_float64():
    losses = np.full(2**25, 0.1, np.float32)
    one = Evaluation(losses, np.zeros(2**25, np.int8), np.zeros(2**25, np.int8), np.ones(1, bool), losses)
    assert one.loss == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(("example", "prediction"), [(5, 0), (0, 3)])
def test_mistakes_of_another_test_set_are_refused(example, prediction):
    labels = np.array([0, 1, 2, 1, 0])
    assert Mistakes([4], [2]).predicted(labels, 3).tolist() == [0, 1, 2, 1, 2]
    with pytest.raises(UserError, match="a test set other than one of 5 examples in 3 classes"):
        Mistakes([example], [prediction]).predicted(labels, 3)
