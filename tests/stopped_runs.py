"""Runs in this process that stop after any step and go on."""

import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path

from helpers import train_with

import jax_mlp.train
import reference_torch.train
from mlp_workload.config import PRESETS, Config
from mlp_workload.run.output_options import OutputOptions

UNWATCHED = OutputOptions(visdom="off", quiet=True)
FRAMEWORK = {"jax": jax_mlp.train.framework, "torch": reference_torch.train.framework}
EPOCHS, STEPS = 2, 6
"""103 examples in batches of 20: five full ones and one of three."""


def config_on(source: str) -> Config:
    small = {"hidden": (8, 6), "batch_size": 20, "learning_rate": 0.1, "momentum": 0.9, "nesterov": True}
    return dataclasses.replace(PRESETS["relu"], dataset=source, epochs=EPOCHS, weight_decay=0.01, **small)


def train(side: str, config: Config, every: int = 1000, resume: bool = False, stop_at: int | None = None,
          signals: tuple[int, ...] = (signal.SIGTERM,)):  # fmt: skip
    """As the command does; after `stop_at` steps the process sends itself the `signals`."""

    @contextlib.contextmanager
    def stopping(config):
        with FRAMEWORK[side](config) as make:

            def make_trainer(*arguments):
                trainer = make(*arguments)
                train_steps, trained = trainer.train_steps, 0

                def counted(order, first, last):
                    nonlocal trained
                    losses = train_steps(order, first, last)
                    trained += last - first
                    if trained == stop_at:
                        for number in signals:
                            os.kill(os.getpid(), number)
                    return losses

                trainer.train_steps = counted
                return trainer

            yield make_trainer

    return train_with(stopping, config, UNWATCHED, every, resume)


def bytes_of(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def said(folder: Path) -> list:
    """What a run told, without what depends on the clock."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    numbers = ("train_losses", "evaluated", "warned")
    kept = [event for event in events if event["event"] in numbers]
    return [{name: value for name, value in event.items() if name not in ("time", "seconds")} for event in kept]
