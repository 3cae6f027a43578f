"""The tutorial's loop, and the numbers that it prints."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from tolerances import PRINTED
from torch.utils.data import DataLoader

from mlp_workload.config import PRESETS, Config
from reference_torch import tutorial_loop
from reference_torch.model import build_model
from reference_torch.tutorial import Program


@pytest.fixture
def part(digits):
    """A model and 7 examples in batches of 3, whose last is smaller and has a loss of its own."""
    torch.manual_seed(0)
    config = Config(hidden=(4,), dtype="float64")
    examples = type(digits.train)(digits.train.images[:7], digits.train.labels[:7])
    return build_model(config, (30, 4, 3)), DataLoader(tutorial_loop.Images(config, examples), batch_size=3)


def test_the_true_mean_is_over_examples_and_the_articles_numbers_are_not(part, capsys):
    model, loader = part
    tutorial_loop.test(model, loader, torch.device("cpu"), epoch=1)
    printed = [float(number) for number in re.findall(r"^  ([\d.]+) ", capsys.readouterr().out, re.M)]
    cross_entropy = torch.nn.functional.cross_entropy
    with torch.no_grad():
        losses = torch.cat([cross_entropy(model(x.flatten(1)), y, reduction="none") for x, y in loader])
    sum_of_means = float(losses[:3].mean() + losses[3:6].mean() + losses[6])
    for number, expected in zip(printed, (sum_of_means / 7, sum_of_means, float(losses.mean())), strict=True):
        PRINTED.assert_close(number, expected)


def test_what_was_seen_is_counted_in_examples(part, capsys, monkeypatch):
    model, loader = part
    monkeypatch.setattr(tutorial_loop, "_PRINT_EVERY", 1)
    tutorial_loop.train(model, torch.optim.SGD(model.parameters(), 0.01), loader, torch.device("cpu"), epoch=1)
    assert re.findall(r"epoch 1, (\d+) of 7", capsys.readouterr().out) == ["0", "3", "6"]


def test_each_step_follows_the_gradient_of_its_own_batch(part):
    model, loader = part
    alone = copy.deepcopy(model)
    tutorial_loop.train(model, torch.optim.SGD(model.parameters(), 0.1), loader, torch.device("cpu"), epoch=1)
    for images, labels in loader:
        loss = torch.nn.functional.cross_entropy(alone(images.flatten(1)), labels)
        parameters = [*alone.parameters()]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.1 * gradient
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("form", "preset"), [("hand-written", "relu"), ("module", "leaky")])
def test_a_form_has_its_preset_and_the_given_settings(form, preset):
    config = Program(form=form, epochs=3, seed=5, gpu=1, matmul_precision="tf32").config()
    assert config == replace(PRESETS[preset], epochs=3, seed=5, gpu=1, matmul_precision="tf32")


def test_each_epoch_has_all_examples_in_another_order(digits, monkeypatch):
    orders = []
    monkeypatch.setattr(
        tutorial_loop, "train", lambda model, optimizer, loader, *_: orders.append(torch.cat([y for _, y in loader]))
    )
    monkeypatch.setattr(tutorial_loop, "test", lambda *_: None)
    tutorial_loop.run(Config(hidden=(4,), epochs=2, device="cpu"), digits)
    one, other = orders
    in_order = torch.tensor(digits.train.labels)
    assert not torch.equal(one, in_order)
    assert not torch.equal(one, other)
    for order in orders:
        assert torch.equal(order.sort().values, in_order.sort().values.to(order.dtype))
