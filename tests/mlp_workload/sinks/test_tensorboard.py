"""What `--tensorboard` writes, read back by TensorBoard itself."""

import numpy as np
import pytest
from helpers import write_idx_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlp_workload.events import Evaluated, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.tensorboard import TensorBoard


@pytest.mark.parametrize("trainer", ["jax_mlp.train", "reference_torch.train"])
def test_the_scalars_are_those_of_events_jsonl(trainer, run, digits, tmp_path):
    flags = ["--visdom", "off", "--tensorboard", "--batch-size", "20", "--hidden", "16", "--epochs", "2",
             "--run-dir", "run"]  # fmt: skip
    process = run(trainer, "--dataset", write_idx_folder(tmp_path, digits), *flags)
    assert (process.returncode, process.stderr) == (0, "")
    recorded = RecordedRun.load(tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    assert board.Tags()["scalars"] == ["train/loss", "test/loss", "test/accuracy"]
    evaluations = recorded.evaluations
    for tag, steps, values in (
        ("train/loss", range(1, 13), recorded.train_losses),
        ("test/loss", [6, 12], [event.test_loss for event in evaluations]),
        ("test/accuracy", [6, 12], [event.test_accuracy for event in evaluations]),
    ):
        scalars = board.Scalars(tag)
        assert [scalar.step for scalar in scalars] == list(steps)
        np.testing.assert_array_equal([scalar.value for scalar in scalars], np.float32(values))


def test_what_is_not_finite_is_left_out(tmp_path):
    sink = TensorBoard(tmp_path / "tensorboard")
    sink.emit(TrainLosses(2, 5, np.array([2.0, np.nan, np.inf, 1.0]), "", 0.1))
    sink.emit(Evaluated(2, 8, np.nan, np.nan, 5, 10, Mistakes([], []), 0.1))
    sink.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    found = {tag: [(scalar.step, scalar.value) for scalar in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert found == {"train/loss": [(5, 2.0), (8, 1.0)], "test/accuracy": [(8, 0.5)]}
