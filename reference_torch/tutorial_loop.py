"""The tutorial's training and test loop."""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mlp_workload import data
from mlp_workload.config import Config
from reference_torch.device import find_device
from reference_torch.loss import IGNORED
from reference_torch.model import MLP, HandWritten, build_model
from reference_torch.optimizer import sgd
from reference_torch.step import normalize

_PRINT_EVERY = 100
"""Batches between two printed lines."""


class Images(Dataset[tuple[torch.Tensor, int]]):
    """A data set of normalised float images (1, height, width) and their labels."""

    def __init__(self, config: Config, examples: data.Examples) -> None:
        self._config, self._examples = config, examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.tensor(self._examples.images[index])
        return normalize(self._config, image).unsqueeze(0), int(self._examples.labels[index])


def run(config: Config, dataset: data.Dataset) -> None:
    """Trains and tests for `config.epochs`, and prints the progress."""
    device = find_device(config)
    torch.manual_seed(config.seed)
    train_loader, test_loader = (
        DataLoader(Images(config, examples), batch_size=config.batch_size, shuffle=True)
        for examples in (dataset.train, dataset.test)
    )
    model = build_model(config, config.widths(dataset.pixels, dataset.classes)).to(device)
    optimizer = sgd(model.parameters(), config.learning_rate)
    for epoch in range(1, config.epochs + 1):
        train(model, optimizer, train_loader, device, epoch)
        test(model, test_loader, device, epoch)


Loader = DataLoader[tuple[torch.Tensor, int]]


def train(
    model: HandWritten | MLP, optimizer: torch.optim.Optimizer, loader: Loader, device: torch.device, epoch: int
) -> None:
    examples = len(loader.dataset)  # type: ignore[arg-type]
    seen = 0
    for number, (images, labels) in enumerate(loader):
        images, labels = images.flatten(start_dim=1).to(device), labels.to(device)
        loss = F.cross_entropy(model(images), labels, ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        if number % _PRINT_EVERY == 0:
            print(f"epoch {epoch}, {seen} of {examples} ({seen / examples:.0%}): loss {value:.6f}")
        seen += len(images)


@torch.no_grad()
def test(model: HandWritten | MLP, loader: Loader, device: torch.device, epoch: int) -> None:
    examples = len(loader.dataset)  # type: ignore[arg-type]
    sum_of_means, loss_sum, correct = 0.0, 0.0, 0
    for images, labels in loader:
        logits = model(images.flatten(start_dim=1).to(device))
        labels = labels.to(device)
        mean = F.cross_entropy(logits, labels, ignore_index=IGNORED).item()
        sum_of_means += mean
        loss_sum += mean * len(labels)
        correct += int((logits.argmax(dim=1) == labels).sum())
    print(
        f"test after epoch {epoch}: {correct} of {examples} right ({correct / examples:.0%}), loss\n"
        f"  {sum_of_means / examples:.6f} over-divided: batch means, summed, over examples; printed as average loss\n"
        f"  {sum_of_means:.6f} undivided: batch means, summed; drawn by the module program\n"
        f"  {loss_sum / examples:.6f} true mean per example, in nats"
    )
