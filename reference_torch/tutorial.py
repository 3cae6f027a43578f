"""Runs the tutorial's two programs its way: `python -m reference_torch.tutorial hand-written|module`.

A `DataLoader` transforms one image at a time, and the loop reads every loss. It prints the tutorial's two kinds of
lines, with a note on what their numbers mean. `reference_torch.train` computes the same faster.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import load


@dataclass(frozen=True, kw_only=True)
class Program:
    """Runs one of the tutorial's two programs as it does, on MNIST with batches of 200."""

    form: Annotated[Literal["hand-written", "module"], Positional("hand-written|module")]
    """Runs plain tensors and ReLU (hand-written, preset relu), or nn.Module and LeakyReLU (module, preset leaky)."""
    epochs: int = 10
    """Passes over the training set."""
    seed: int = 0
    """Seed of the initial weights and the batch order."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Trains on this device; auto takes a GPU if there is one."""
    gpu: int | None = None
    """Trains on this one of the GPUs, counted from 0."""
    matmul_precision: Literal["highest", "tf32"] = "highest"
    """Precision of float32 matrix products on a GPU; highest is IEEE."""

    def config(self) -> Config:
        preset = PRESETS["relu" if self.form == "hand-written" else "leaky"]
        return dataclasses.replace(preset, **{name: value for name, value in vars(self).items() if name != "form"})


def main() -> None:
    run_command("python -m reference_torch.tutorial", Program, run)


def run(options: Program) -> None:
    from reference_torch import tutorial_loop  # torch only after the flags are known to be right

    config = options.config()
    tutorial_loop.run(config, load(config.dataset))


if __name__ == "__main__":
    main()
