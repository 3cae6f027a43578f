"""What `--tensorboard` writes, read back by TensorBoard itself."""

import numpy as np
import pytest
from helpers import write_idx_folder
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlp_workload.run.recorded import RecordedRun


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
