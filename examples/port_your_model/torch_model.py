"""The original, in torch: draws the weights, saves them, and records a pass."""

import torch
from safetensors.torch import save_file
from torch import nn

from examples.port_your_model.common import Arguments, batch
from mlp_workload.cli.parse import run_command
from twincheck.record_torch import record


class Network(nn.Module):
    """Images (batch, 1, 28, 28) to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, stride=3, bias=False)  # BatchNorm would take a bias off again
        self.batch_norm = nn.BatchNorm2d(8)
        self.gelu = nn.GELU()
        self.flatten = nn.Flatten()
        self.layer_norm = nn.LayerNorm(8 * 9 * 9)
        self.linear = nn.Linear(8 * 9 * 9, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gelu(self.batch_norm(self.conv(x)))
        return self.linear(self.layer_norm(self.flatten(x)))  # type: ignore[no-any-return]


def main(arguments: Arguments) -> None:
    torch.manual_seed(0)
    model = Network().double()
    save_file(model.state_dict(), arguments.weights)
    images, labels = batch()
    x, y = torch.tensor(images)[:, None], torch.tensor(labels).long()
    record(model, lambda logits: nn.functional.cross_entropy(logits, y), x).save(arguments.trace)


if __name__ == "__main__":
    run_command("torch_model", Arguments, main)
