"""The cost of a step on many devices: the formulas, the fit, from where more of them help, and the document."""

import json
import re
from dataclasses import asdict

import numpy as np
import pytest
from helpers import ROOT
from tolerances import EXACT_FIT, NOISY_FIT, WRITTEN

import experiments.scaling.__main__ as scaling
from experiments.scaling import gpu, measure, report
from experiments.scaling.break_even import Devices, batch_from, width_from
from experiments.scaling.cost_fit import fit
from experiments.scaling.cost_model import Costs, Counts, all_reduce_bytes, counts, parameters, seconds
from experiments.scaling.measure import Run
from mlp_compare.bench import tables
from mlp_compare.bench.timings import medians
from mlp_workload.errors import UserError
from mlp_workload.files import read_json

MLP = (784, 200, 200, 10)
PLANTED = Costs(
    launch=150e-6, operation_alone=1 / 180e9, operation_shared=1 / 110e9, byte_updated=1 / 20e9, meeting=90e-6,
    hop=25e-6, byte_exchanged=1 / 6e9,
)  # fmt: skip
SIZE = 4 * 199_210
"""Bytes of the gradients."""
STEP = 175_840_000
"""Operations of 200 examples."""


def test_a_ring_passes_every_byte_on_but_its_own_share_twice():
    assert parameters(MLP) == 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10 == 199_210
    assert [all_reduce_bytes(1000, devices) for devices in (1, 2, 4, 8)] == [0, 1000, 1500, 1750]


@pytest.mark.parametrize(
    ("devices", "cores", "split", "expected"),
    [
        (1, 2, 1, Counts(1, STEP, 0, 3 * SIZE, 0, 0, 0)),
        (2, 2, 1, Counts(1, 0, STEP / 2, 3 * SIZE, 1, 2, SIZE)),
        (8, 2, 1, Counts(4, 0, STEP / 2, 4 * 3 * SIZE, 1, 14, 4 * 1.75 * SIZE)),
        (8, None, 1, Counts(1, 0, STEP / 8, 3 * SIZE, 1, 14, 1.75 * SIZE)),
        # Gathered are 200 outputs of 200 examples, summed as many gradients and 10 logits, half of the bytes a way.
        (2, None, 2, Counts(1, 0, STEP / 2, 1.5 * SIZE, 3, 5, 4 * 200 * (1.5 * 200 + 10))),
        (4, None, 2, Counts(1, 0, STEP / 4, 1.5 * SIZE, 4, 7, SIZE / 2 + 4 * 100 * (1.5 * 200 + 10))),
    ],
)
def test_counts_by_hand(devices, cores, split, expected):
    assert counts(MLP, 200, devices, cores, split) == pytest.approx(expected)


def test_seconds_are_counts_times_costs():
    assert seconds(Costs(1, 2, 3, 4, 5, 6, 7), Counts(1, 10, 100, 0, 1, 0, 2)) == 1 + 20 + 300 + 5 + 14


def timings(runs, noise=0.0):
    rng = np.random.default_rng(0)
    found = [counts(run.widths, run.batch_size, run.devices, 2, run.split_hidden) for run in runs]
    return found, [seconds(PLANTED, one) * rng.lognormal(0, noise) for one in found]


def networks(runs):
    return [(run.width, run.batch_size) for run in runs]


@pytest.fixture(scope="module")
def on_devices():
    return [
        run
        for run in measure.runs(measure.NETWORKS)
        if (run.framework, run.processes, run.split_hidden) == ("jax", 1, 1)
    ]


def test_the_fit_finds_planted_costs(on_devices):
    """Exactly without noise; with 3 % of it those that matter within 20 %, and predictions far better than that."""
    found = fit(*timings(on_devices), networks(on_devices))
    assert found.costs == pytest.approx(PLANTED, rel=EXACT_FIT)
    assert found.unidentified == ()
    planted, measured = timings(on_devices, noise=0.03)
    found = fit(planted, measured, networks(on_devices))
    for name in ("launch", "operation_alone", "operation_shared"):
        assert getattr(found.costs, name) == pytest.approx(getattr(PLANTED, name), rel=NOISY_FIT), name
    assert np.abs(found.fitted / [seconds(PLANTED, one) for one in planted] - 1).max() < 0.06


@pytest.mark.parametrize(
    ("numbers", "unidentified"),
    [((1, 2), ("hop",)), ((1,), ("operation_shared", "meeting", "hop", "byte_exchanged"))],
)
def test_what_timings_cant_tell_is_named(on_devices, numbers, unidentified):
    """Two devices always meet once and hop twice; one device does neither. The rest is found, hops within meetings."""
    few = [run for run in on_devices if run.devices in numbers]
    found = fit(*timings(few), networks(few))
    assert found.unidentified == unidentified
    assert [getattr(found.costs, name) for name in unidentified] == [0] * len(unidentified)
    assert found.costs.launch == pytest.approx(PLANTED.launch)
    if numbers == (1, 2):
        assert found.costs.meeting == pytest.approx(PLANTED.meeting + 2 * PLANTED.hop)


def test_timings_that_any_costs_would_fit_are_refused(on_devices):
    for some, message in (
        (on_devices[2:6], "4 timings in 2 groups are too few for 4"),
        (2 * on_devices[:4], "8 timings in 1 groups"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(*timings(some), networks(some))


def test_what_is_held_out_does_not_speak_for_itself(on_devices):
    """Timings of one network that are ten times too long change what is said of the others, not of itself."""
    found, measured = timings(on_devices)
    wrong = [second * 10 if run.batch_size == 80 else second for run, second in zip(on_devices, measured, strict=True)]
    plain, odd = (fit(found, some, networks(on_devices)) for some in (measured, wrong))
    is_odd = np.array([run.batch_size == 80 for run in on_devices])
    np.testing.assert_allclose(odd.held_out[is_odd], plain.held_out[is_odd])
    assert np.abs(odd.held_out[~is_odd] / plain.held_out[~is_odd] - 1).max() > 0.1


@pytest.mark.parametrize(
    ("many", "than"),
    [(Devices(8), Devices(1)), (Devices(2, cores=2), Devices(1, cores=2)), (Devices(8, 8), Devices(8))],
    ids=str,
)
def test_break_even_agrees_with_trying_all(many, than):
    step, shares = many.split_hidden, many.number // many.split_hidden

    def is_faster(width, batch_size):
        return many.seconds(PLANTED, (width, width), batch_size) < than.seconds(PLANTED, (width, width), batch_size)

    def first(sizes, faster):
        ok = [faster(size) for size in sizes]
        return next((size for place, size in enumerate(sizes) if all(ok[place:])), None)

    sizes = range(shares, 3000 + 1, shares)
    expected = first(sizes, lambda size: is_faster(300 - 300 % step, size))
    found = batch_from(PLANTED, 300 - 300 % step, many, than)
    assert found == expected or (expected is None and (found is None or found > 3000))
    widths = range(step, 3000 + 1, step)
    expected = first(widths, lambda width: is_faster(width, 400))
    found = width_from(PLANTED, 400, many, than)
    assert found == expected or (expected is None and (found is None or found > 3000))


def test_break_even_of_two_devices_by_hand():
    """Two devices save half of the operations, and pay a meeting, two hops and the gradients once."""
    costs = PLANTED._replace(operation_shared=PLANTED.operation_alone)
    paid = costs.meeting + 2 * costs.hop + SIZE * costs.byte_exchanged
    saved = 879_200 / 2 * costs.operation_alone
    assert batch_from(costs, 200, Devices(2), Devices(1)) == pytest.approx(paid / saved, abs=2)
    assert batch_from(costs._replace(operation_shared=1), 200, Devices(2), Devices(1)) is None


def test_the_gpus_figures_are_the_benchmarks():
    variants = tables.read(ROOT / "docs/benchmark-h200.json")["variants"]
    for name, second in (("jax", gpu.STEP_SECONDS), ("products-jax", gpu.PRODUCT_SECONDS)):
        assert medians(variants[name]["samples"])["epoch_seconds"] / 300 == pytest.approx(second, rel=WRITTEN)
        assert gpu.NAME in variants[name]["device"]


@pytest.mark.parametrize("link", [gpu.NVLINK, gpu.INFINIBAND], ids=lambda link: link.name)
@pytest.mark.parametrize("operations", [gpu.MEASURED_OPERATIONS, gpu.PEAK_OPERATIONS])
def test_one_gpu_takes_what_it_took(link, operations):
    costs = gpu.gpu_costs(link, operations)
    assert min(costs) > 0
    assert Devices(1).seconds(costs, (200, 200), 200) == pytest.approx(gpu.STEP_SECONDS)


@pytest.fixture(scope="module")
def result():
    """What a measurement with the planted costs would have written."""
    runs = measure.runs(measure.NETWORKS)
    timed = zip(runs, timings(runs)[1], strict=True)
    return {
        "format": measure.FORMAT,
        "kind": "scaling",
        "date": "2026-01-01",
        "cores": 2,
        "environment": {"processor": "P", "system": "S", "python": "3", "versions": {"jax": "0"}},
        "runs": [asdict(run) | {"steps": run.steps, "step_seconds": [0.9 * s, s, 3 * s]} for run, s in timed],
    }


def test_the_tables_say_what_was_measured(result):
    """The median of the rounds; costs in units; the split predicted by the others' costs."""
    blocks = report.Scaling(result).blocks()
    assert set(blocks) == set(report.BLOCKS)
    assert "48 settings; rounds: 3." in blocks["setting"]
    assert "| a launch, µs | 150 (150 to 150) |" in blocks["costs"]
    assert "| products, one device with all cores, GFLOP/s | 180 (180 to 180) |" in blocks["costs"]
    assert blocks["costs"].count("not told apart") == 2
    assert "| JAX, --split-hidden 2 | 6 | | | 0 % | 0 % |" in blocks["quality"]
    one = 1e3 * seconds(PLANTED, counts(MLP, 200, 1, 2))
    assert f"| JAX, devices of one process | 200 | 200 | {one:.3g} ms (+0 %, +0 %) |" in blocks["timings"]


def test_ranges_of_costs_go_upwards(result):
    rng = np.random.default_rng(1)
    runs = [run | {"step_seconds": [run["step_seconds"][1] * rng.lognormal(0, 0.05)]} for run in result["runs"]]
    ranges = re.findall(r"\(([\d.]+) to ([\d.]+)\)", report.Scaling(result | {"runs": runs}).blocks()["costs"])
    assert len(ranges) > 10
    assert all(float(low) < float(high) for low, high in ranges)


def test_the_documents_timings_were_taken_in_quiet():
    """Several rounds, and a step of PyTorch's single process within twice of what the benchmark has."""
    runs = read_json(ROOT / "experiments/scaling" / report.MEASURED)["runs"]
    assert all(len(run["step_seconds"]) >= 2 for run in runs)
    (alone,) = [
        run for run in runs
        if (run["framework"], run["devices"], run["width"], run["batch_size"]) == ("torch", 1, 200, 200)
    ]  # fmt: skip
    samples = tables.read(ROOT / "docs/benchmark.json")["variants"]["torch"]["samples"]
    epochs = [seconds for sample in samples for seconds in sample["epoch_seconds"]]
    assert 0.5 < np.median(alone["step_seconds"]) / (np.median(epochs) / 300) < 2


def test_the_documents_tables_are_the_measurements():
    document = ROOT / "experiments/scaling" / report.DOCUMENT
    measured = report.read(ROOT / "experiments/scaling" / report.MEASURED)
    assert report.filled(report.marked(document), measured.blocks()) == document.read_text()


def test_a_document_is_rewritten_and_one_without_its_marks_is_not(result, tmp_path, monkeypatch, capsys):
    """Its tables, the picture and the timings; what stands around the tables stays."""
    document, text = tmp_path / "scaling.md", (ROOT / "experiments/scaling/scaling.md").read_text()
    document.write_text(text)
    (tmp_path / "scaling.json").write_text("older")
    monkeypatch.setattr(measure, "measure", lambda quick, console: result)
    scaling.run(scaling.Options(docs=tmp_path))
    written = document.read_text()
    assert written == report.filled(text, report.Scaling(result).blocks()) != text
    assert written.partition("<!--")[0] == text.partition("<!--")[0]
    assert read_json(tmp_path / "scaling.json") == result
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
    assert "48 settings; rounds: 3." in capsys.readouterr().out
    document.write_text("mine")
    with pytest.raises(UserError, match="marks the tables not at all; needed: setting"):
        scaling.run(scaling.Options(docs=tmp_path))
    assert document.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--docs", "nowhere"], "nowhere/scaling.md: no such file"),
        (["--docs", "nowhere", "--json", "new.json"], "--docs writes scaling.json there; leave --json out"),
        (["--json", "taken"], "--json taken exists"),
        (["--devices", "2"], "unrecognized"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_timed(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setattr("sys.argv", ["scaling", *arguments])
    with pytest.raises(SystemExit) as stop:
        scaling.main()
    said = capsys.readouterr().err
    assert (stop.value.code, len(said.splitlines())) == (2, 1)
    assert message in said.lower().replace("unrecognised", "unrecognized")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not what experiments.scaling writes"),
        ({"kind": "benchmark", "format": 1}, "is not what experiments.scaling writes"),
        ({"kind": "scaling", "format": 1, "cores": None, "runs": []}, "is not a whole measurement"),
        ({"kind": "scaling", "format": 9}, "has format 9, this reads 1"),
        ({"kind": "scaling", "format": 1, "cores": 2, "runs": [{}]}, "is not a whole measurement"),
        ({"kind": "scaling", "format": 1, "cores": 2, "runs": [], "environment": {}}, "is not a whole measurement"),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    (tmp_path / "scaling.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        report.read(tmp_path / "scaling.json")


@pytest.mark.long("starts both frameworks")
@pytest.mark.parametrize(
    "run",
    [
        Run("torch", 1, 1, 1, 8, 40),
        Run("torch", 2, 2, 1, 8, 40),
        Run("jax", 4, 2, 2, 8, 40),
    ],
    ids=str,
)
def test_a_run_is_timed_by_its_own_events(run, mnist, tmp_path, monkeypatch):
    """By the commands that are documented, as small as they can be."""
    monkeypatch.setattr(measure, "_MOST_STEPS", 5)
    second = measure.step_seconds(run, mnist, tmp_path)
    (folder,) = tmp_path.glob("run-*")
    summary = read_json(folder / "summary.json")
    assert (summary["devices"], summary["split_hidden"]) == (run.devices, run.split_hidden)
    assert summary["steps"] == 5 * (measure.EPOCHS + 1)
    assert 0 < second < summary["train_seconds"] / 5
