"""Digits of MNIST, and the networks of both sides that tell them."""

import numpy as np
import pytest
from pictures import NETWORKS


@pytest.fixture(scope="module")
def digits(mnist):
    """(100, 28, 28), ten test images of each class."""
    labels = mnist.test.labels
    return mnist.test.images[np.concatenate([np.flatnonzero(labels == k)[:10] for k in range(10)])]


@pytest.fixture(scope="module")
def networks(trained):
    return {name: network(trained) for name, network in NETWORKS.items()}
