"""Runs the tutorial's two programs its way: `python -m reference_torch.tutorial hand-written|module`.

A `DataLoader` transforms one image at a time, and the loop reads every loss. It prints the tutorial's two kinds of
lines, with a note on what their numbers mean. `reference_torch.train` computes the same faster.
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from mlp_workload.cli.parse import one_line_errors, parse
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import load


@dataclass(frozen=True, kw_only=True)
class Program:
    """Runs one of the tutorial's two programs as it does, on MNIST with batches of 200."""

    form: Annotated[Literal["hand-written", "module"], tyro.conf.Positional]
    """hand-written: plain tensors and ReLU, the `relu` preset; module: nn.Module and LeakyReLU, the `leaky` preset."""
    epochs: int = 10
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpu: int | None = None
    """Which of the GPUs, counted from 0."""
    matmul_precision: Literal["highest", "tf32"] = "highest"
    """Of float32 products."""

    def config(self) -> Config:
        preset = PRESETS["relu" if self.form == "hand-written" else "leaky"]
        return dataclasses.replace(
            preset, epochs=self.epochs, seed=self.seed, device=self.device, gpu=self.gpu,
            matmul_precision=self.matmul_precision,
        )  # fmt: skip


def main() -> None:
    program = "python -m reference_torch.tutorial"
    with one_line_errors(program):
        config = parse(Program, sys.argv[1:], prog=program).config()
        from reference_torch.tutorial_loop import run

        run(config, load(config.dataset))


if __name__ == "__main__":
    main()
