"""The arguments of a trainer's command."""

import contextlib
import io
from dataclasses import fields
from pathlib import Path

from fuzz.target import Target
from mlp_workload.cli.trainer import Training, parse_config

_SEEDS = (
    "--preset relu --last-activation none --seed 1",
    "--epochs=3 --hidden 400 100 --momentum 0.9 --nesterov --weight-decay 1e-4",
    "--dataset idx:data --dtype float64 --batch-size 128 --label-smoothing 0.1 --device cpu",
    "--run-dir runs/x --initial-weights w.safetensors --quiet --no-tensorboard --visdom off --seeds 4",
    "--hidden --pixel-mean -0.5 --pixel-std 1.0 --visdom-port 8097 --visdom-host localhost",
)


def read(content: bytes, folder: Path) -> None:
    """The content is the arguments, with zero bytes between them."""
    arguments = [argument for argument in content.decode(errors="replace").split("\0") if "completion" not in argument]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = parse_config(arguments, Training)
    except SystemExit as stop:
        if stop.code:  # only --help ends it
            raise
        return
    assert isinstance(options, Training)


TARGET = Target(
    read,
    tuple("\0".join(seed.split()).encode() for seed in _SEEDS),
    (*(f"--{field.name.replace('_', '-')}" for field in fields(Training)), "--help", "--", "-", "=", "None", "True",
     "nan", "1e999", "~nobody", "leaky_relu", "required"),
)  # fmt: skip
