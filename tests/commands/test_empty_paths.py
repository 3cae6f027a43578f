"""An empty path, as an unset variable of a script leaves it, is not the current folder."""

from pathlib import Path
from typing import get_args

import pytest

import experiments.scaling.__main__ as scaling
import mlp_compare.accuracy.__main__ as accuracy
import mlp_compare.bench.__main__ as bench
import mlp_compare.gpu_check.__main__ as gpu_check
import mlp_compare.parity.__main__ as parity
import mlp_compare.report.__main__ as report
from jax_mlp.train import Options
from mlp_workload import dashboard, export_onnx
from mlp_workload.cli.parse import is_positional, option_fields, parse
from mlp_workload.cli.trainer import TrainingOptions
from mlp_workload.doctor import examination
from mlp_workload.errors import UserError
from mlp_workload.predict import command
from reference_torch import convert

KINDS = (
    Options, TrainingOptions, accuracy.Accuracy, bench.Bench, gpu_check.GpuCheck, parity.Parity, report.Report,
    scaling.Options, dashboard.Dashboard, export_onnx.Export, command.Predict, examination.Doctor,
    convert.Conversion,
)  # fmt: skip
"""All commands' flags."""


def has_path(kind: object) -> bool:
    return kind is Path or any(map(has_path, get_args(kind)))


FLAGS = [
    (kind, f"--{field.name.replace('_', '-')}")
    for kind in KINDS
    for field, hint in option_fields(kind)
    if has_path(hint) and not is_positional(hint)
]


@pytest.mark.parametrize(("kind", "flag"), FLAGS)
def test_a_flag(kind, flag):
    run = ["run"] if kind is command.Predict else []
    for words in ([*run, flag, ""], [*run, f"{flag}="]):
        with pytest.raises(UserError, match=f"^{flag}: the path is empty"):
            parse(words, kind)


@pytest.mark.parametrize("kind", [report.Report, export_onnx.Export, command.Predict, convert.Conversion])
def test_an_argument(kind):
    for words in (["", "x.pt"], ["x.safetensors", ""]):
        with pytest.raises(UserError, match=r"^[A-Z]+: the path is empty \(--help"):
            parse(words, kind)


def test_the_flags_are_found():
    assert len(FLAGS) > 20
    assert {"--run-dir", "--resume", "--resume-or-start", "--json", "--replay", "--env-path"} <= {
        flag for _, flag in FLAGS
    }


def test_other_empty_values_stay():
    assert parse(["--username", ""], dashboard.Dashboard).username == ""
