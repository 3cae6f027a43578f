"""The benchmark: each variant trains before it is timed, and the command measures what it is asked for."""

import contextlib
import dataclasses
import itertools
import json
import re
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import ROOT, write_idx_folder
from rich.console import Console
from rich.progress import Progress
from tolerances import MODEL_FLOAT64

import mlp_compare.bench.__main__ as bench
from mlp_compare.bench import benchmark, lower_bound, processes, tables, timing_worker, whole_commands
from mlp_compare.bench.processes import ProcessFailed, ask
from mlp_compare.bench.variants import CONTROL, MODELS, SEEDS_VARIANTS, VARIANTS
from mlp_workload.batches import epoch_order
from mlp_workload.cli.trainer import TrainingOptions, parse_config
from mlp_workload.config import PRESETS, Config
from mlp_workload.data import Dataset, Examples
from mlp_workload.environment.description import usable_cores
from mlp_workload.errors import UserError
from mlp_workload.initial import initial_parameters
from mlp_workload.sinks.console import Output
from mlp_workload.weights import save_weights

SMALL = dataclasses.replace(PRESETS["leaky"], hidden=(8,), batch_size=20, dtype="float64", device="cpu")


@pytest.mark.parametrize(("preset", "batch_size"), [("leaky", 20), ("relu", 103)])  # the last batch of 20s is smaller
@pytest.mark.parametrize("name", ["jax", "jax-step", "torch-fused", "torch-hand", "torch-tutorial"])
def test_each_variant_trains_as_the_trainer_does(name, preset, batch_size, digits):
    check_against_the_trainer(name, preset, batch_size, digits)


def test_scikit_learn_trains_as_the_trainer_does(digits):
    config = dataclasses.replace(SMALL, activation="relu", last_activation="none", learning_rate=0.1, pixel_mean=0.3)
    config = dataclasses.replace(config, pixel_std=0.5)
    start = initial_parameters(config.initialization, config.widths(digits.pixels, digits.classes), seed=0)
    library, reference = (VARIANTS[variant].load()(config, digits, start) for variant in ("sklearn", "torch"))
    library.compile()
    for epoch in (1, 2):
        order = epoch_order(0, epoch, 103)[:100]
        library.train_steps(library.prepare(order))
        reference.train_steps(order)
    for parameter, array in reference.state().items():
        MODEL_FLOAT64.assert_close(library.state()[parameter], array, parameter)


@pytest.mark.long("compiles C++")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*:FutureWarning")
def test_torch_compile_trains_as_the_trainer_does(digits):
    """Once: it takes its time."""
    check_against_the_trainer("torch-compile", "leaky", 20, digits)


def check_against_the_trainer(name, preset, batch_size, digits):
    config = dataclasses.replace(
        PRESETS[preset], hidden=(8, 6), batch_size=batch_size, dtype="float64", learning_rate=0.1
    )
    start = initial_parameters(config.initialization, config.widths(digits.pixels, digits.classes), seed=0)
    trainer, reference = (VARIANTS[variant].load()(config, digits, start) for variant in (name, "torch"))
    trainer.compile()
    for epoch in (1, 2):
        order = epoch_order(0, epoch, 103)
        MODEL_FLOAT64.assert_close(trainer.train_steps(order), reference.train_steps(order))
    for parameter, array in reference.state().items():
        MODEL_FLOAT64.assert_close(trainer.state()[parameter], array, parameter)


def ask_here(variant, config, **options):
    """`ask` without the process, on 2,000 images."""
    content = json.loads(config.to_json())
    options = {"examples": 2000, "spawned_at": time.monotonic()} | options
    with jax.enable_x64(config.dtype == "float64"):
        return json.loads(json.dumps(timing_worker.measure(variant, content, **options)))


@pytest.fixture
def asked_here(monkeypatch):
    monkeypatch.setattr(benchmark, "CHECKED_EXAMPLES", 2000)
    monkeypatch.setattr(benchmark, "ask", ask_here)


def small_benchmark(monkeypatch, folder, *variants):
    """Two rounds of an epoch; the exit status."""
    monkeypatch.chdir(folder)
    flags = ["--rounds", "2", "--epochs", "1", "--no-seeds", "--no-whole", "--no-sweep", "--device", "cpu"]
    command = ["bench", "--variants", *variants, *flags, "--json", "bench.json", "--plot", "bench.svg"]
    monkeypatch.setattr(sys, "argv", command)
    try:
        bench.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_a_small_benchmark_measures_what_it_is_asked_for(asked_here, monkeypatch, tmp_path, capsys):
    variants = ["torch", "jax", "products-jax"]
    assert small_benchmark(monkeypatch, tmp_path, *variants, "torch-step-graph", "--hidden", "20", "20") == 0
    check_files(tmp_path, capsys.readouterr().out, variants)


@pytest.mark.long("starts eleven processes")
def test_the_command_measures_what_it_is_asked_for(monkeypatch, tmp_path, capfd):
    """Once more, in processes of their own, and with another library."""
    monkeypatch.setattr(benchmark, "CHECKED_EXAMPLES", 2000)
    monkeypatch.setattr(benchmark, "ask", partial(ask, examples=2000))
    variants = ["jax", "torch", "keras-torch"]
    assert small_benchmark(monkeypatch, tmp_path, *variants, "torch-step-graph") == 0
    check_files(tmp_path, capfd.readouterr().out, variants)
    assert "Keras 3 on PyTorch" in (tmp_path / "bench.svg").read_text()


def check_files(folder, output, variants):
    result = json.loads((folder / "bench.json").read_text())
    assert list(result["variants"]) == [*variants, CONTROL]
    assert result["left_out"] == {"torch-step-graph": "PyTorch, CUDA graph of a step: needs a GPU"}
    assert {"format", "date", "config", "cores", "threads", "precision", "environment", "operations"} <= result.keys()
    for variant in result["variants"].values():
        assert len(variant["samples"]) == 2, "two rounds"
        for sample in variant["samples"]:
            assert len(sample["epoch_seconds"]) == 1
            assert all(sample[name] > 0 for name in ("start_seconds", "data_seconds", "ready_seconds"))
            parts = sum(sample[f"{part}_seconds"] for part in ("start", "import", "data", "build", "compile"))
            assert parts <= sample["ready_seconds"] < parts + 60
            assert sample["peak_megabytes"] > 50
        assert variant["device"] == "cpu"
        assert variant["environment"]["versions"]
    for words in (
        "JAX, an epoch a program",
        "control: the first variant over itself",
        "needs a GPU",
        "where PyTorch wins",
    ):
        assert words in output
    assert "<svg" in (folder / "bench.svg").read_text()


def test_a_variant_that_trains_differently_is_not_timed(asked_here, monkeypatch, tmp_path, capsys):
    def ask(variant, config, **options):
        rate = config.learning_rate * (1.001 if variant == "torch-hand" else 1)
        return ask_here(variant, dataclasses.replace(config, learning_rate=rate), **options)

    monkeypatch.setattr(benchmark, "ask", ask)
    assert small_benchmark(monkeypatch, tmp_path, "torch", "torch-hand") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch-hand does not train as torch does: after 2000 examples in float64" in line
    assert not list(tmp_path.iterdir())


def test_a_variant_answers_from_a_process_of_its_own():
    """Whose imports and memory are counted, and nothing of what libraries print."""
    sample = ask("jax", dataclasses.replace(PRESETS["leaky"], hidden=(5,), device="cpu"), epochs=2, examples=400)
    assert sample["ready_seconds"] >= sample["start_seconds"] + sample["import_seconds"] + sample["compile_seconds"]
    assert (len(sample["epoch_seconds"]), sample["device"]) == (2, "cpu")
    assert sample["first_epoch_seconds"] > 0


def test_a_timed_process_has_threads_of_its_own_and_no_settings_for_a_library(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS", "TORCH_LOGS"):
        monkeypatch.setenv(name, "77")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    told = processes.environment()
    assert "77" not in told.values()
    assert told["CUDA_VISIBLE_DEVICES"] == "3"
    for library in ("OMP", "MKL", "OPENBLAS"):
        assert told[f"{library}_NUM_THREADS"] == str(usable_cores())


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float64"), ("auto", "float32")])
def test_a_variant_is_asked_without_kept_programs_and_on_a_cpu_without_gpus(device, dtype, monkeypatch):
    told = {}
    monkeypatch.setattr(processes, "run", lambda *_, variables, text: told.update(variables) or "{}")
    ask("jax", Config(device=device, dtype=dtype))
    assert (told["JAX_COMPILATION_CACHE_DIR"], told["TORCHINDUCTOR_FORCE_DISABLE_CACHES"]) == ("", "1")
    assert told["JAX_ENABLE_X64"] == str(int(dtype == "float64"))
    assert told.get("CUDA_VISIBLE_DEVICES") == ("" if device == "cpu" else None)


def test_all_settings_reach_the_variants_and_the_whole_commands():
    network = {"batch_size": 50, "hidden": (5,), "dtype": "float32"}
    computing = {"device": "gpu", "gpu": 1, "matmul_precision": "tf32"}
    options = bench.Bench(**network, **computing)
    assert {name: getattr(options.config, name) for name in network | computing} == network | computing
    assert (options.config.activation, options.config.last_activation) == ("relu", "none")
    typed = parse_config(options.device_flags, TrainingOptions).config
    assert {name: getattr(typed, name) for name in computing} == computing


class Rounds:
    """Answers for the timed processes: `seconds` (variant, start) of an epoch; `started` lists the variants."""

    def __init__(self, monkeypatch, seconds=lambda variant, start: 1.0):
        self.started, self._seconds = [], seconds
        monkeypatch.setattr(benchmark, "ask", self._ask)

    def _ask(self, variant, config, epochs):
        self.started.append(variant)
        seconds = self._seconds(variant, len(self.started) - 1)
        return {"epoch_seconds": [seconds] * epochs, "device": "cpu", "precision": "IEEE float32"}

    def run(self, *names, most=8):
        self.left_out = {}
        return benchmark._rounds(names, self.left_out, Config(), most, 1, Progress(console=Console(quiet=True)))


def test_each_pair_of_rounds_goes_there_and_back_from_another_variant(monkeypatch):
    rounds = Rounds(monkeypatch)
    rounds.run("jax", "torch", "sklearn", most=4)
    there, back, other, again = np.reshape(rounds.started, (4, 4)).tolist()
    assert there == ["jax", "torch", "sklearn", "jax"]
    assert other == ["torch", "sklearn", "jax", "jax"]
    assert (back, again) == (there[::-1], other[::-1])


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 6), (0.01, 6), (0.05, 8)])
def test_rounds_end_early_where_the_intervals_are_narrow(noise, expected, monkeypatch):
    def seconds(variant, start):
        return 1 + noise * (-1) ** (start // 3) if variant == "torch" else 1.0

    samples = Rounds(monkeypatch, seconds).run("jax", "torch")
    assert {name: len(runs) for name, runs in samples.items()} == dict.fromkeys(("jax", "torch", CONTROL), expected)


def test_rounds_end_early_only_after_a_pair(monkeypatch):
    monkeypatch.setattr(benchmark, "_are_narrow", lambda samples, first: len(samples[first]) > 6)
    assert len(Rounds(monkeypatch).run("jax", "torch")["jax"]) == 8


def test_an_optional_variant_that_fails_is_left_out_with_its_reason_and_another_ends_all(monkeypatch):
    def seconds(variant, start):
        if variant == fails and start > 3:
            raise ProcessFailed(f"{variant}: no memory")
        return 1.0

    fails = "sklearn"
    rounds = Rounds(monkeypatch, seconds)
    assert list(rounds.run("jax", "sklearn", most=4)) == ["jax", CONTROL]
    assert rounds.left_out == {"sklearn": "sklearn: no memory"}
    fails = "jax"
    with pytest.raises(ProcessFailed, match="jax: no memory"):
        Rounds(monkeypatch, seconds).run("jax", "sklearn")


@pytest.mark.parametrize(
    ("flags", "device", "expected"),
    [
        ({}, "cpu", "seeds whole sweep"),
        ({"seeds": False}, "cpu", "whole sweep"),
        ({"whole": False}, "cpu", "seeds sweep"),
        ({"sweep": False}, "cpu", "seeds whole"),
        ({"quick": True}, "cpu", ""),
        ({"device": "auto"}, "gpu", "whole sweep"),
    ],
    ids=str,
)
def test_the_flags_choose_what_is_measured(flags, device, expected, monkeypatch):
    """Several models at once only on a CPU; if quick, four rounds of three epochs of the variants alone."""
    timed = []

    def rounds(names, left_out, config, most, epochs, progress):
        timed.append((most, epochs))
        facts = {"device": device, "precision": "IEEE float32", "environment": {"versions": {}}}
        return {name: [facts | {"epoch_seconds": [1.0]}] for name in (*names, CONTROL)}

    monkeypatch.setattr(benchmark, "ask", lambda *_, **options: {"device": device})
    monkeypatch.setattr(benchmark, "_check", lambda *_: None)
    monkeypatch.setattr(benchmark, "_rounds", rounds)
    monkeypatch.setattr(benchmark, "_seeds", lambda *_: "measured")
    monkeypatch.setattr(benchmark, "_sweep", lambda *_: "measured")
    monkeypatch.setattr(whole_commands, "measure", lambda *_: "measured")
    *_, result = benchmark.measure(bench.Bench(**{"device": "cpu"} | flags), Output(quiet=True))
    assert [name for name in ("seeds", "whole", "sweep") if result[name] == "measured"] == expected.split()
    assert timed == [(4, 3) if flags.get("quick") else (8, 5)]


def test_the_float64_check_has_exact_products_whatever_is_timed(monkeypatch, tmp_path):
    asked = []

    def ask(variant, config, state, **options):
        asked.append((config.dtype, config.matmul_precision))
        save_weights(Path(state), initial_parameters("torch_linear", config.widths(784, 10), 0))
        return {"device": "cpu"}

    monkeypatch.setattr(benchmark, "ask", ask)
    config = bench.Bench(hidden=(5,), matmul_precision="tf32").config
    benchmark._check(["jax", "torch"], {}, config, tmp_path, Progress(console=Console(quiet=True)))
    assert asked == [("float64", "highest")] * 2


class Remembered:
    """Several models that train nothing, with the `losses` of each."""

    packages, device, losses = ("numpy",), "cpu", ((1.0, 2.0),) * MODELS

    def __init__(self, *arguments):
        pass

    def compile(self):
        pass

    def train_steps(self, orders):
        return np.array(self.losses)

    def parameters(self):
        return {"layers.0.bias": np.zeros(3)}


def test_models_that_are_timed_together_see_other_batches_and_in_the_check_the_same(digits):
    order = np.arange(1000)
    equal, others = (timing_worker.SeveralModels(Remembered, equal, SMALL, digits, {}) for equal in (True, False))
    np.testing.assert_array_equal(equal.prepare(order), [order] * MODELS)
    assert others.prepare(order)[:, 0].tolist() == [20 * model for model in range(MODELS)]


@pytest.mark.parametrize(
    ("losses", "agree"),
    [
        (((1.0, 2.0),) * MODELS, True),
        (((1.0, 2.0),) * (MODELS - 1), False),
        (((1.0, 2.0),) * (MODELS - 1) + ((1.0, 2.1),), False),
        (((1.0, np.nan),) * MODELS, False),
    ],
)
def test_equal_models_that_end_apart_are_refused(losses, agree, digits, monkeypatch):
    monkeypatch.setattr(Remembered, "losses", losses)
    models = timing_worker.SeveralModels(Remembered, True, SMALL, digits, {})
    models.train_steps(models.prepare(np.arange(100)))
    with contextlib.nullcontext() if agree else pytest.raises(UserError, match="equal models have losses"):
        assert list(models.state()) == ["layers.0.bias"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "jaxx"], "--variants: jaxx is none of jax, jax-step, torch"),
        (["--variants", "jax", "jax"], "--variants: each at most once"),
        (["--variants", "torch-epoch-graph"], "nothing to time: PyTorch, CUDA graph of an epoch: needs a GPU"),
        (["--variants"], "--variants needs one at least"),
        (["--quick", "--rounds", "5"], "--quick has rounds and epochs of its own"),
        (["--rounds", "0"], "--rounds must be from 1 to 1000, got 0"),
        (["--epochs", "-1"], "--epochs must be from 1 to 1000, got -1"),
        (["--batch-size", "0"], "--batch-size must be"),
        (["--batch-size", "70000"], "--batch-size must be at most 60000, the training examples, got 70000"),
        pytest.param(
            ["--batch-size", "7000", "--variants", "products-numpy"],
            "batches of 7000 do not divide the set",
            marks=pytest.mark.long("starts a process"),
        ),
        pytest.param(
            ["--device", "gpu", "--variants", "torch"], "torch sees none", marks=pytest.mark.long("starts a process")
        ),
        (["--json", "taken"], "--json taken exists"),
        (["--plot", "nowhere/plot.svg"], "cannot write nowhere/plot.svg"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_timed(arguments, message, monkeypatch, tmp_path, capfd):
    (tmp_path / "taken").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stop:
        bench.main()
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert (tmp_path / "taken").read_text() == "mine"


class Dispatched:
    """An epoch whose result is on its way, as JAX hands them out: many products after one another."""

    def __init__(self):
        matrix = jnp.ones((128, 128), jnp.float32) / 128
        self._products = jax.jit(lambda: jax.lax.fori_loop(0, 2000, lambda _, x: x @ matrix, matrix))

    def train_steps(self, order):
        self.result = self._products()
        return self.result


def test_the_benchmarks_clock_waits_for_the_result(digits, monkeypatch):
    trainer, arrived = Dispatched(), []

    class Clock(timing_worker.Clock):
        def lap(self):
            arrived.append(trainer.result.is_ready())
            return super().lap()

    monkeypatch.setattr(timing_worker, "Clock", Clock)
    timing_worker.epoch_seconds(trainer, Config(), digits, 3)
    assert arrived == [True] * 3


def test_the_lower_bound_counts_the_operations_of_a_step():
    assert lower_bound.operations((784, 200, 200, 10), 1) == 879_200
    assert lower_bound.operations((784, 200, 200, 10), 60_000) == 52_752_000_000


@pytest.mark.parametrize("library", [lower_bound.NumPy, lower_bound.Torch])
def test_an_epoch_of_the_lower_bound_has_the_products_of_all_its_steps(library, digits):
    bound = library(SMALL, digits, None)
    product, operations = bound._product, []

    def counted(a, b, out):
        operations.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return product(a, b, out=out)

    bound._product = counted
    bound.train_steps(np.arange(100))
    assert sum(operations) == lower_bound.operations((30, 8, 3), 100)
    for number, (layer, outputs) in enumerate(zip(bound._layers, bound._out, strict=True)):
        x, w, d = map(np.asarray, layer)
        expected = [x @ w.T, d.T @ x, d @ w]
        for found, array in list(zip(outputs, expected, strict=True))[: 3 if number else 2]:
            MODEL_FLOAT64.assert_close(np.asarray(found), array)


def test_an_epoch_of_jaxs_lower_bound_has_all_its_steps(digits, monkeypatch):
    products, programs = lower_bound.jax_products, []

    def traced(*arguments):
        programs.append(jax.make_jaxpr(products, static_argnums=(1, 2))(*arguments))
        return products(*arguments)

    monkeypatch.setattr(lower_bound, "jax_products", traced)
    bound = lower_bound.Jax(SMALL, digits, None)
    bound.compile()
    bound.train_steps(np.arange(100))
    (program,) = programs
    (scan,) = [equation for equation in program.eqns if equation.primitive.name == "scan"]
    assert scan.params["length"] == 5


def test_names_of_earlier_versions_are_understood():
    chosen, left_out = benchmark._possible(["floor-torch", "torch-article", "floor-numpy"], gpu=False, batch_size=7000)
    assert chosen == ["torch-tutorial"]
    assert set(left_out) == {"products-torch", "products-numpy"}
    assert bench.Bench(variants=("jax", "floor-jax")).variants == ("jax", "floor-jax")


def test_on_a_gpu_the_variants_of_the_cpu_are_left_out():
    def left_out(variants, gpu):
        return set(benchmark._possible(variants, gpu, batch_size=200)[1])

    assert left_out(SEEDS_VARIANTS, gpu=True) == {"jax-vmap", "torch-processes"}
    assert left_out(["jax", "torch", "products-torch", "products-numpy"], gpu=True) == {"products-numpy"}
    assert left_out([*SEEDS_VARIANTS, "jax", "torch", "products-numpy"], gpu=False) == set()
    assert left_out(["jax", "torch-step-graph", "torch-epoch-graph"], gpu=False) == {
        "torch-step-graph",
        "torch-epoch-graph",
    }


@pytest.mark.long("imports torch's compiler")
def test_a_variant_that_is_left_out_says_why(monkeypatch):
    """Not torch's advice for bug reports, which stands behind its error."""
    monkeypatch.setenv("CXX", "/no/such/g++")
    with pytest.raises(ProcessFailed) as caught:
        ask("torch-compile", dataclasses.replace(PRESETS["leaky"], hidden=(5,)), epochs=1, examples=400)
    assert re.fullmatch(r"torch-compile: .*No working C\+\+ compiler found.*/no/such/g\+\+.*", str(caught.value))
    assert "TORCHDYNAMO_VERBOSE" not in str(caught.value)


@pytest.mark.long("compiles ten models")
def test_the_sweep_and_several_models_at_once(asked_here, monkeypatch):
    few = {name: SEEDS_VARIANTS[name] for name in ("torch-in-turn", "torch-processes", "jax-seeds")}
    small = {"BATCH_SIZES": (), "WIDTHS": (50,), "SEEDS_ROUNDS": 1, "SEEDS_EPOCHS": 1, "SEEDS_VARIANTS": few}
    for name, value in small.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "_SWEPT_OPERATIONS", 1e9)
    check_sweep_and_seeds(few)


class Commands:
    """Stands for the commands: `started` lists them, and each leaves the events of two epochs."""

    def __init__(self, monkeypatch, dashboard=False):
        self.started = []
        clock = SimpleNamespace(time=lambda: 100.0, monotonic=itertools.count(step=20).__next__)
        for name, value in {"ROUNDS": 2, "time": clock, "find_spec": lambda _: None}.items():
            monkeypatch.setattr(whole_commands, name, value)
        if dashboard:
            flags = ["--visdom", "required", "--visdom-port", "1"]
            monkeypatch.setattr(whole_commands, "_dashboard", lambda _: contextlib.nullcontext(flags))
        monkeypatch.setattr(whole_commands.processes, "run", self._run)
        self.samples = whole_commands.measure(["--device", "cpu"], Progress(console=Console(quiet=True)))

    def _run(self, name, module, *flags, variables=None):
        self.started.append((name, flags, (variables or {}).get("JAX_COMPILATION_CACHE_DIR")))
        if "--run-dir" in flags:
            folder = Path(flags[flags.index("--run-dir") + 1])
            folder.mkdir()
            epoch = [{"event": "train_losses", "seconds": 3}, {"event": "evaluated", "test_examples": 100}]
            right = ({"test_correct": 84}, {"test_correct": 85})
            events = [{"event": "run_started"}, *epoch, *epoch, {"event": "run_finished"}]
            events = [event | {"time": 105 + number} | right[number > 2] for number, event in enumerate(events)]
            (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))

    def of(self, name):
        return [(flags, cache) for own, flags, cache in self.started if own == name]


@pytest.mark.parametrize("dashboard", [False, True])
def test_whole_commands_take_turns_there_and_back(dashboard, monkeypatch):
    commands = Commands(monkeypatch, dashboard)
    there = [name for name in whole_commands.COMMANDS if dashboard or "dashboard" not in name]
    names = [name for name, _, _ in commands.started]
    warming = [name for name in reversed(there) if whole_commands.COMMANDS[name][0] == "jax_mlp.train"]
    assert names == [*warming, *there, *reversed(there)]
    assert {name: len(samples) for name, samples in commands.samples.items()} == dict.fromkeys(there, 2)


def test_only_the_first_command_of_a_round_finds_no_kept_programs(monkeypatch):
    commands = Commands(monkeypatch)
    first = {cache for _, cache in commands.of(whole_commands.JAX_FIRST)}
    later = {cache for name in (whole_commands.JAX_LATER, whole_commands.JAX_GIVEN) for _, cache in commands.of(name)}
    assert len(first) == 3
    assert len(later) == 1
    assert not first & later


def test_whole_commands_differ_in_what_their_names_say(monkeypatch):
    commands = Commands(monkeypatch, dashboard=True)
    for name in whole_commands.COMMANDS:
        for flags, _ in commands.of(name):
            line = " ".join(flags)
            assert "--device cpu --epochs 10" in line, name
            if name == whole_commands.TUTORIAL:
                continue
            assert ("--visdom required" if "dashboard" in name else "--visdom off") in line
            assert ("--checkpoint-every" in line) is ("without checkpoints" in name)
            assert ("--last-activation none --initial-weights" in line) is ("given weights" in name)


def test_whole_commands_are_timed_by_their_events(monkeypatch):
    """The events begin 5 s after the command; an epoch ends each 2 s, of which its steps take 3."""
    samples = Commands(monkeypatch).samples
    parts = {"ready_seconds": 3, "first_epoch_done_seconds": 6, "run_seconds": 5, "total_seconds": 20}
    assert samples[whole_commands.JAX_LATER] == [parts] * 2
    assert samples[whole_commands.TORCH_GIVEN] == [parts | {"to_target_seconds": 9}] * 2, "85 % are enough"
    assert samples[whole_commands.TUTORIAL] == [{"total_seconds": 20}] * 2


@pytest.mark.long("trains an epoch of MNIST four times")
def test_whole_commands_of_each_kind_are_timed(monkeypatch):
    check_whole_commands(monkeypatch, "JAX_FIRST", "JAX_LATER", "TUTORIAL", "JAX_WATCHED")


@pytest.mark.long("starts four commands")
def test_a_whole_command_is_timed(monkeypatch, tmp_path, mnist):
    """To an accuracy, where Visdom is not installed."""
    monkeypatch.setattr(whole_commands, "find_spec", lambda _: None)
    few = [Examples(part.images[:2000], part.labels[:2000]) for part in (mnist.train, mnist.test)]
    dataset = write_idx_folder(tmp_path, Dataset("few", *few, mnist.class_names))
    check_whole_commands(monkeypatch, "TORCH_GIVEN", flags=["--dataset", dataset, "--batch-size", "20"])


def check_sweep_and_seeds(few):
    progress = Progress(console=Console(quiet=True))
    sweep = benchmark._sweep(["jax", "torch"], dataclasses.replace(PRESETS["leaky"], device="cpu"), progress)
    assert [(point["varied"], point["variant"], point["batch_size"], point["hidden"]) for point in sweep] == [
        ("width", "jax", 200, (50, 50)),
        ("width", "torch", 200, (50, 50)),
    ]
    assert all(len(point["epoch_seconds"]) == 3 for point in sweep)
    seeds = benchmark._seeds(dataclasses.replace(PRESETS["leaky"], hidden=(20,), device="cpu"), False, progress)
    assert list(seeds["variants"]) == [*few, CONTROL]
    assert all(len(variant["samples"]) == 1 for variant in seeds["variants"].values())


def check_whole_commands(monkeypatch, *chosen, flags=()):
    commands = {name: whole_commands.COMMANDS[name] for name in (getattr(whole_commands, one) for one in chosen)}
    for name, value in {"ROUNDS": 1, "EPOCHS": 1, "TARGET_ACCURACY": 0.2, "COMMANDS": commands}.items():
        monkeypatch.setattr(whole_commands, name, value)
    whole = whole_commands.measure(["--device", "cpu", *flags], Progress(console=Console(quiet=True)))
    assert list(whole) == list(commands)
    assert [len(samples) for samples in whole.values()] == [1] * len(commands)
    for name, (sample,) in whole.items():
        if "tutorial" not in name:
            assert 0 < sample["ready_seconds"] < sample["first_epoch_done_seconds"] < sample["total_seconds"]
        assert ("to_target_seconds" in sample) == ("given weights" in name)


def test_what_is_measured_is_kept_where_the_rest_fails(tmp_path, monkeypatch):
    """A sweep that dies leaves the rounds and the commands in the file, one line and status 2."""

    def measure(options, console):
        yield json.loads((ROOT / "docs/benchmark.json").read_text())
        raise UserError("torch: ended by SIGKILL")

    monkeypatch.setattr(benchmark, "measure", measure)
    with pytest.raises(UserError, match="SIGKILL"):
        bench.run(bench.Bench(json=tmp_path / "bench.json"))
    assert tables.read(tmp_path / "bench.json")["kind"] == "benchmark"


def test_jax_computes_all_products_of_the_lower_bound():
    """None is left out or cut down to the number that is looked at, and the operands are not copied."""
    layers = tuple(
        lower_bound.Layer(*(np.ones(shape, np.float32) for shape in ((32, a), (b, a), (32, b))))
        for a, b in ((64, 48), (48, 16))
    )
    program = (
        jax.jit(lower_bound.jax_products, static_argnums=(1, 2))
        .lower(layers, 10, jax.lax.Precision.HIGHEST)
        .compile()
        .as_text()
    )
    shapes = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", program)
    assert sorted(shapes) == sorted(["32,48", "48,64", "32,16", "16,48", "32,48"])


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.device == "gpu"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_train_as_the_trainer_does(name, digits):
    check_against_the_trainer(name, "leaky", 20, digits)
