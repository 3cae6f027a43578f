"""The arguments of a trainer's command."""

import contextlib
import io
from pathlib import Path

from fuzz.target import Target
from mlp_workload.cli.trainer import GROUPS, TrainingOptions, parse_config

_SEEDS = (
    "--preset relu --last-activation none --seed 1",
    "--epochs=3 --hidden 400 100 --momentum 0.9 --nesterov --weight-decay 1e-4",
    "--dataset idx:data --dtype float64 --batch-size 128 --label-smoothing 0.1 --device cpu",
    "--run-dir runs/x --initial-weights w.safetensors --quiet --no-tensorboard --visdom off --seeds 4",
    "--hidden --pixel-mean -0.5 --pixel-std 1.0 --visdom-port 8097 --visdom-host localhost",
)


def read(content: bytes, folder: Path) -> None:
    """The content is the arguments, with zero bytes between them."""
    arguments = content.decode(errors="replace").split("\0")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = parse_config(arguments, TrainingOptions)
    except SystemExit as stop:
        if stop.code:  # only --help ends it
            raise
        return
    assert isinstance(options, TrainingOptions)


TARGET = Target(
    read,
    tuple("\0".join(seed.split()).encode() for seed in _SEEDS),
    (*(f"--{name.replace('_', '-')}" for names in GROUPS.values() for name in names), "--help", "--", "-", "=", "None",
     "True", "nan", "1e999", "~nobody", "leaky_relu", "required"),
)  # fmt: skip
