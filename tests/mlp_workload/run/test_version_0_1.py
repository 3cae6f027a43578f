"""Files that version 0.1 wrote are read: run folders, checkpoints, configurations, traces, results."""

import dataclasses
import shutil

import numpy as np
import pytest
from helpers import ROOT
from tolerances import RUN_FLOAT64

import jax_mlp.train
import reference_torch.train
from mlp_compare.bench import tables
from mlp_compare.report.__main__ import Report, run
from mlp_workload.interface import step_tensors
from mlp_workload.predict.trained import Trained
from mlp_workload.run.folder import read_config
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from twincheck import Trace

FILES = ROOT / "tests/files/version-0.1"
TRAIN = {"jax": jax_mlp.train.train, "torch": reference_torch.train.train}
SILENT = OutputOptions(visdom="off", quiet=True)


@pytest.mark.parametrize("side", TRAIN)
def test_its_run_is_resumed_and_ends_as_one_that_did_not_stop(side, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(FILES / side, folder)
    more = dataclasses.replace(read_config(folder), dataset=f"idx:{FILES / 'data'}", run_dir=folder, epochs=2)
    summary = TRAIN[side](more, SILENT, resume=True)
    assert (summary["steps"], summary["before"][0]["framework"]) == (12, side)
    assert [event.epoch for event in RecordedRun.load(folder).evaluations] == [1, 2]
    whole = dataclasses.replace(more, run_dir=tmp_path / "whole")
    TRAIN[side](whole, SILENT)
    for name, array in Trained.load(whole.run_dir).parameters.items():
        RUN_FLOAT64.assert_close(Trained.load(folder).parameters[name], array)


def test_its_trace_has_the_names_of_today():
    trace = Trace.load(FILES / "trace.safetensors")
    assert list(trace.tensors) == list(step_tensors(trace.tensors))
    np.testing.assert_array_equal(trace.tensors["batch.digest"], step_tensors(trace.tensors)["batch.digest"])


def test_its_results_are_reported_under_the_names_of_today(tmp_path):
    """The benchmark is an excerpt of a whole one: some variants, the first sample of each."""
    results = FILES / "accuracy.json", FILES / "benchmark.json"
    run(Report(runs=(FILES / "jax",), results=results, output=tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    for cell in ("<td>8987, 8960</td><td>8988, 8960</td><td>equivalent</td>", "<td>too few seeds</td>"):
        assert cell in page
    for name in ("products alone, PyTorch", "python -m reference_torch.tutorial module", "JAX, --seeds"):
        assert f"<td>{name}</td>" in page


def test_its_benchmark_has_every_table():
    view = tables.View.of(tables.read(FILES / "benchmark.json"))
    assert [len(rows) for _, rows in view.tables] == [6, 3, 10]
    assert sum("checkpoints" in remark for remark in view.remarks) == 2
