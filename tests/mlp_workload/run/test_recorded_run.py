"""events.jsonl, written and read back, and what is read from a run that was killed or damaged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mlp_workload.config import PRESETS
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, RunFinished, RunResumed, RunStarted, TrainLosses, Warned
from mlp_workload.metrics import Evaluation, Mistakes
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import JsonLines, read_events

CONFIG = dataclasses.replace(PRESETS["relu"], hidden=(5,), epochs=2)
EVENTS = [
    RunStarted(CONFIG, {"framework": "jax", "dataset_digest": "0", "environment": {"versions": {"jax": "1"}}}),
    TrainLosses(1, 1, np.array([2.5, 0.1 + 0.2, np.nan]), "d1", 0.5),
    Evaluated(1, 3, 0.7, 0.07, 7, 10, Mistakes([1, 4, 9], [3, 0, 2]), 0.1),
    Warned("the loss is nan"),
    TrainLosses(2, 4, np.array([np.inf]), "d2", 0.25),
    Evaluated(2, 4, np.nan, np.nan, 0, 10, Mistakes([], []), 0.1),
    RunFinished({"test_correct": 0}),
]


@pytest.fixture
def folder(tmp_path):
    sink = JsonLines(tmp_path / "events.jsonl")
    for event in EVENTS:
        sink.emit(event)
    sink.close()
    return tmp_path


def same(one, other):
    """Field by field; an infinity was written as null and comes back as nan."""
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray | float):
            np.testing.assert_array_equal(np.where(np.isinf(a), np.nan, a), b)
        else:
            assert a == b


def test_events_come_back_as_they_were(folder):
    events = list(read_events(folder / "events.jsonl"))
    for one, other in zip(EVENTS, events, strict=True):
        same(one, other)


def test_a_run_tells_its_parts(folder):
    recorded = RecordedRun.load(folder)
    assert (recorded.config, recorded.framework, recorded.warnings) == (CONFIG, "jax", ["the loss is nan"])
    np.testing.assert_array_equal(recorded.train_losses, [2.5, 0.1 + 0.2, np.nan, np.nan])
    assert [event.step for event in recorded.evaluations] == [3, 4]
    assert recorded.summary == {"test_correct": 0}
    assert recorded.dataset is None, "the digest is not MNIST's"


def test_killed_at_any_byte_it_is_read_up_to_the_last_whole_line(folder):
    content = (folder / "events.jsonl").read_bytes()
    first = content.index(b"\n") + 1
    for size in range(0, len(content), 7):
        (folder / "events.jsonl").write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        assert len(list(read_events(folder / "events.jsonl"))) == whole
        if size < first:
            with pytest.raises(UserError, match="the run has no events yet"):
                RecordedRun.load(folder)
        else:
            assert (RecordedRun.load(folder).summary is not None) == (whole == len(EVENTS))


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"null", b"{}", b'{"event": "paused"}', b'{"event": "train_losses", "epoch": 1}', b"\xff\xfe",
        b'{"event": "run_started", "config": {"preset": "tanh"}}', b'{"event": "evaluated", "mistakes": 3}',
        b'{"event": "train_losses", "epoch": 1, "first_step": 1, "losses": "x", "labels_digest": "", "seconds": 0}',
    ],
)  # fmt: skip
def test_a_damaged_line_is_named(line, folder):
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(UserError, match=r"events\.jsonl, line 3 is not an event of a run"):
        list(read_events(path))


@pytest.mark.parametrize("count", [0, -1, "10", True, 1.5, None, 10**400])
def test_a_training_set_of_no_size_is_named(count, tmp_path):
    sink = JsonLines(tmp_path / "events.jsonl")
    sink.emit(RunStarted(CONFIG, {"train_examples": count}))
    sink.close()
    with pytest.raises(UserError, match=r"events\.jsonl, line 1 is not an event of a run"):
        list(read_events(tmp_path / "events.jsonl"))


def test_batches_are_of_one_size_if_the_events_do_not_tell_more(folder):
    recorded = RecordedRun.load(folder)
    assert recorded.batch_sizes.tolist() == [1, 1, 1, 1]
    config = dataclasses.replace(CONFIG, batch_size=4)
    known = dataclasses.replace(recorded, config=config, facts={"train_examples": 10})
    assert known.batch_sizes.tolist() == [4, 4, 2, 4]


def test_a_run_beside_a_seeds_json_is_itself(folder):
    (folder / "seeds.json").write_text("{}\n")
    (folder / "seed-0").mkdir()
    assert [run.folder for run in RecordedRun.load_all([folder])] == [folder]


def test_the_runs_of_seeds_are_in_the_order_of_their_numbers(folder, tmp_path_factory):
    seeds = tmp_path_factory.mktemp("seeds")
    (seeds / "seeds.json").write_text("{}\n")
    for seed in (10, 2, 9):
        shutil.copytree(folder, seeds / f"seed-{seed}")
    assert [run.folder.name for run in RecordedRun.load_all([seeds])] == ["seed-2", "seed-9", "seed-10"]


def test_a_resumed_run_has_the_settings_that_it_went_on_by(folder):
    settings = dataclasses.replace(CONFIG, epochs=5)
    sink = JsonLines(folder / "events.jsonl", resumed=True)
    sink.emit(RunResumed(settings, {"framework": "torch"}, 4))
    sink.close()
    recorded = RecordedRun.load(folder)
    assert (recorded.config, recorded.framework) == (settings, "jax")
    assert [facts["framework"] for facts in recorded.all_facts] == ["jax", "torch"]


def test_seeds_of_which_no_run_has_begun_are_one_error(tmp_path):
    (tmp_path / "seeds.json").write_text("{}\n")
    with pytest.raises(UserError, match=r"a seeds\.json without the run of any seed"):
        RecordedRun.load_all([tmp_path])


def test_what_is_no_run_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        RecordedRun.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot read .*events\.jsonl: No such file"):
        RecordedRun.load(tmp_path)


def test_predictions_are_the_labels_but_for_the_mistakes():
    labels, predictions = np.array([3, 1, 4, 1, 5]), np.array([3, 0, 4, 1, 9])
    evaluation = Evaluation(np.zeros(5), predictions, labels, np.ones(10, bool), np.ones(5))
    assert evaluation.mistakes == Mistakes([1, 4], [0, 9])
    np.testing.assert_array_equal(evaluation.mistakes.predicted(labels, 10), predictions)
    assert labels.tolist() == [3, 1, 4, 1, 5]
    assert json.dumps(dataclasses.asdict(evaluation.mistakes))
