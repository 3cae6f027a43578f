"""What is mistaken in a GRU is recognised from its output, weights and inputs."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from twincheck.causes.recurrent import CAUSES, MISTAKES, SWAPPED, Rule, directions, recognise_gru
from twincheck.causes.table import BY_NAME

SIZE = 4


def gru(*, bidirectional: bool = True) -> tuple[torch.nn.GRU, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Returns a GRU, its inputs, its parameters and its output."""
    torch.manual_seed(0)
    module = torch.nn.GRU(3, SIZE, batch_first=True, bidirectional=bidirectional).double()
    x = torch.randn(2, 5, 3).double()
    parameters = {name: value.detach().numpy() for name, value in module.named_parameters()}
    return module, x.numpy(), parameters, module(x)[0].detach().numpy()


def mistaken(changes: Mapping[str, object]) -> np.ndarray:
    _, x, parameters, _ = gru()
    return np.concatenate([run(x, Rule(**changes)) for run in directions(parameters)], -1)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_rule_is_torchs(bidirectional: bool) -> None:
    _, x, parameters, theirs = gru(bidirectional=bidirectional)
    ours = np.concatenate([run(x, Rule()) for run in directions(parameters)], -1)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert recognise_gru(ours, theirs, x, parameters, batch_first=True) == ()
    noise = np.random.default_rng(0).normal(size=ours.shape)
    assert recognise_gru(noise, theirs, x, parameters, batch_first=True) == ()


@pytest.mark.parametrize(("cause", "changes"), MISTAKES)
def test_a_mistake_is_recognised(cause: str, changes: Mapping[str, object]) -> None:
    _, x, parameters, theirs = gru()
    assert recognise_gru(mistaken(changes), theirs, x, parameters, batch_first=True) == (cause,)
    last = x.swapaxes(0, 1)
    assert recognise_gru(mistaken(changes), theirs, last, parameters, batch_first=False) == (cause,)


def test_one_mistake_in_each_direction_and_two_in_one() -> None:
    _, x, parameters, theirs = gru()
    first, second = mistaken({"reset_first": True})[..., :SIZE], mistaken({"keeps_new": True, "start": 1.0})[..., SIZE:]
    ours = np.concatenate([first, second], -1)
    found = recognise_gru(ours, theirs, x, parameters, batch_first=True)
    assert found == ("gru-reset", "gru-update", "recurrent-start")


def testdirections_in_the_other_order() -> None:
    _, x, parameters, theirs = gru()
    ours = np.roll(theirs, SIZE, -1)
    assert recognise_gru(ours, theirs, x, parameters, batch_first=True) == (SWAPPED,)
    ours = np.roll(mistaken({"gates": (1, 0)}), SIZE, -1)
    assert recognise_gru(ours, theirs, x, parameters, batch_first=True) == (SWAPPED, "gru-gate-order")


def test_every_cause_is_in_the_table() -> None:
    assert set(BY_NAME) >= CAUSES
