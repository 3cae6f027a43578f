"""Live curves of real runs on a real Visdom server, and what they make of one that is killed or no server at all."""

import base64
import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from dashboard_process import dashboard, until
from helpers import ROOT, TRAINERS, trainers, write_idx_folder
from PIL import Image
from visdom_process import HURRIED, VisdomProcess, assert_shows, comparison_of, free_port
from warm import python

from mlp_workload.data import Dataset, Examples
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.visdom.windows import COMPARED_POINTS, environment_name

SETTINGS = "batch_size 20, hidden (16,)"
"""Settings of short runs that differ from the preset, as a trace's name has them."""
COMMAND = """
import importlib, json, runpy, sys
for name, seconds in json.loads(sys.argv.pop(1)).items():
    module, _, constant = name.rpartition(".")
    setattr(importlib.import_module(module), constant, seconds)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def short(tmp_path, digits):
    """Flags of a run with six quick steps an epoch."""
    (tmp_path / "data").mkdir()
    return ["--dataset", write_idx_folder(tmp_path / "data", digits), "--batch-size", "20", "--hidden", "16"]


def start(trainer, tmp_path, *arguments, **seconds):
    """Starts a run that goes on as its output is read: the pipe takes some fifty lines."""
    constants = {name: seconds.get(name.rpartition(".")[2], value) for name, value in HURRIED.items()}
    command = [python(), "-c", COMMAND, json.dumps(constants), trainer, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, pipesize=4096,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def read_until(process, beginning):
    while not (line := process.stdout.readline()).startswith(beginning):
        assert line, process.stderr.read()


@pytest.mark.long("trains 3,000 steps")
def test_all_3000_steps_arrive_in_few_requests(server, run, tmp_path):
    before = server.requests()
    process = run("jax_mlp.train", *server.flags, "--run-dir", "runs/jax")
    assert (process.returncode, process.stderr) == (0, "")
    assert server.requests() - before <= 100
    assert_shows(server, tmp_path / "runs/jax", "jax")
    own = environment_name(tmp_path / "runs/jax")
    assert len(server.traces(own, "train_loss")["1"][0]) == 3000
    assert len(server.traces(own, "test")["loss"][0]) == 10
    assert (tmp_path / f"visdom/{own}.json").exists(), "saved, so that a restarted server has it"
    assert (tmp_path / "visdom/compare_leaky_mnist_seed0.json").exists()


@pytest.fixture(scope="module")
def two_runs(mnist, tmp_path_factory):
    """A server and the folders of a run of each framework, at once, with more steps than a comparison has points."""
    folder = tmp_path_factory.mktemp("two")
    parts = (Examples(part.images[:100], part.labels[:100]) for part in (mnist.train, mnist.test))
    dataset = write_idx_folder(folder, Dataset("some", *parts, mnist.class_names))
    flags = ["--dataset", dataset, "--batch-size", "20", "--hidden", "16", "--preset", "relu", "--epochs", "110"]
    server = VisdomProcess(folder / "visdom")
    server.start()
    runs = {name: folder / "runs" / name for name in TRAINERS}
    seconds = {"PAUSE_SECONDS": 2.0, "COMPARE_SECONDS": 10.0}
    processes = [start(TRAINERS[name], folder, *server.flags, *flags, "--run-dir", str(run), **seconds)
                 for name, run in runs.items()]  # fmt: skip
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert (process.returncode, error) == (0, "")
    yield server, runs
    server.kill()


def test_two_runs_share_the_comparison(two_runs):
    server, runs = two_runs
    traces = {name: f"{name}, epochs 110, {SETTINGS}" for name in runs}
    for name, run in runs.items():
        assert_shows(server, run, traces[name])
        assert len(server.traces(environment_name(run), "train_loss")["1"][0]) == 550 > COMPARED_POINTS
    losses = server.traces(comparison_of(RecordedRun.load(run)), "train_loss")
    assert {name: len(steps) for name, (steps, _) in losses.items()} == dict.fromkeys(traces.values(), 275)


def test_two_runs_arrive_in_few_requests_and_are_saved(two_runs):
    """A restarted server has what was saved."""
    server, runs = two_runs
    assert server.requests() < 220, "fewer than epochs"
    for run in runs.values():
        for name in (environment_name(run), comparison_of(RecordedRun.load(run))):
            assert (server.log.parent / f"{name}.json").exists()


@pytest.mark.parametrize("name", TRAINERS)
def test_standardised_digits_arrive_as_the_bytes_they_were(name, two_runs, mnist):
    server, runs = two_runs
    source = server.windows(environment_name(runs[name]))["x"]["content"]["src"]
    png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert (picture == picture[..., :1]).all(), "grey"
    for number, image in enumerate(mnist.test.images[:100]):
        top, left = 30 * (number // 10), 30 * (number % 10)
        np.testing.assert_array_equal(picture[top : top + 28, left : left + 28, 0], image)


@trainers
def test_without_a_server_there_is_one_note_at_the_end_and_replay_shows_all(trainer, short, run, tmp_path):
    port = free_port()
    process = run(trainer, "--visdom", "auto", "--visdom-port", str(port), *short, "--epochs", "2",
                  "--run-dir", "runs/run")  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    replay = "python -m mlp_workload.dashboard --replay runs/run"
    *_, where, note = process.stdout.splitlines()
    assert where == "weights, losses and summary are in runs/run"
    assert note == f"no Visdom server at http://localhost:{port}; for the curves: {replay}"
    assert process.stdout.count("Visdom") == 1
    assert len(RecordedRun.load(tmp_path / "runs/run").train_losses) == 12

    server = VisdomProcess(tmp_path / "visdom")
    server.start()
    try:
        for _ in range(2):
            process = run("mlp_workload.dashboard", "--port", str(server.port), "--replay", "runs/run")
            assert (process.returncode, process.stderr) == (0, "")
            assert f"http://localhost:{server.port}/env/runs_run_" in process.stdout
            assert_shows(server, tmp_path / "runs/run")
    finally:
        server.kill()


@trainers
def test_a_required_server_that_is_not_there_stops_before_training(trainer, run, tmp_path):
    port = free_port()
    process = run(trainer, "--visdom", "required", "--visdom-port", str(port), "--run-dir", "run")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        f"python -m {trainer}: error: --visdom required: no Visdom server at http://localhost:{port} "
        "(Connection refused)\n"
    )
    assert not (tmp_path / "run").exists()


@trainers
def test_a_server_killed_in_the_middle_costs_nothing(trainer, server, short, run, tmp_path):
    flags = [*server.flags, *short, "--epochs", "100", "--run-dir", "runs/run"]
    with start(trainer, tmp_path, *flags) as process:
        read_until(process, "epoch 15  step    90")
        until(lambda: environment_name(tmp_path / "runs/run") in server.environments())
        server.kill()
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0
    (warning,) = error.splitlines()
    assert warning.startswith("warning: no Visdom server at ")
    server.start()
    replay = run("mlp_workload.dashboard", "--port", str(server.port), "--replay", "runs/run")
    assert replay.returncode == 0, replay.stderr
    assert_shows(server, tmp_path / "runs/run")


def test_a_suspended_server_holds_nothing_up(server, short, tmp_path):
    """Neither the steps nor, beyond `CLOSE_SECONDS`, the end of a run that still waits for an answer."""
    flags = [*server.flags, *short, "--epochs", "100", "--run-dir", "runs/run"]
    with start("jax_mlp.train", tmp_path, *flags, CLOSE_SECONDS=0.5) as process:
        read_until(process, "epoch  5")
        until(lambda: environment_name(tmp_path / "runs/run") in server.environments())
        server.suspend()
        _, error = process.communicate(timeout=50)
        assert (process.returncode, error) == (0, "")
    assert RecordedRun.load(tmp_path / "runs/run").summary["steps"] == 600


def talk_without_end(listener):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 10_000)
                    time.sleep(0.01)


@pytest.mark.parametrize(
    ("kind", "visdom"), [("web server", "required"), ("mute", "required"), ("endless", "required"), ("mute", "auto")]
)
def test_a_port_held_by_something_else(kind, visdom, short, tmp_path):
    with contextlib.ExitStack() as stack:
        if kind == "web server":
            other = stack.enter_context(HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler))
            threading.Thread(target=other.serve_forever, daemon=True).start()
            stack.callback(other.shutdown)
            port, reason = other.server_port, "answers 501"
        else:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            if kind == "endless":
                threading.Thread(target=talk_without_end, args=(listener,), daemon=True).start()
            port = listener.getsockname()[1]
            reason = {"mute": "does not answer", "endless": "answers without an end"}[kind]
        flags = ["--visdom", visdom, "--visdom-port", str(port), "--visdom-host", "127.0.0.1"]
        with start(
            "jax_mlp.train", tmp_path, *flags, *short, "--epochs", "1", "--run-dir", "runs/run", ANSWER_SECONDS=0.3
        ) as process:
            _, error = process.communicate(timeout=240)
    assert process.returncode == {"auto": 0, "required": 2}[visdom]
    (line,) = error.splitlines()
    assert reason in line
    assert (tmp_path / "runs/run").exists() == (visdom == "auto")


def test_a_server_with_a_password(short, run, tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setenv("VISDOM_PASSWORD", "lovelace")
            server = stack.enter_context(dashboard(tmp_path, "--username", "ada"))
        flags = [*short, "--epochs", "1", "--visdom-port", str(server.port)]
        required = [*flags, "--visdom", "required"]
        process = run("jax_mlp.train", *required)
        assert process.returncode == 2
        assert "it refuses, and may need a password" in process.stderr
        process = run("jax_mlp.train", *required, "--visdom-username", "ada", "--visdom-password", "byron")
        assert process.returncode == 2
        assert "user name or password are not the server's" in process.stderr
        process = run("jax_mlp.train", *flags, "--run-dir", "runs/run", "--visdom-username", "ada",
                      env={"VISDOM_PASSWORD": "lovelace"})  # fmt: skip
        assert (process.returncode, process.stderr) == (0, "")
    saved = {path.stem for path in (tmp_path / "envs").glob("runs*.json")}
    assert saved == {environment_name(tmp_path / "runs/run")}
    for file in (tmp_path / "runs").rglob("*"):
        assert file.is_dir() or b"lovelace" not in file.read_bytes(), f"the password is in {file}"


def test_proxies_of_the_environment_are_not_asked_for_a_local_server(server, live, tmp_path, monkeypatch):
    for scheme in ("http", "https", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    live.train()
    live.finish()
    assert_shows(server, tmp_path / "runs/run", "jax")


def test_a_base_url(short, run, tmp_path):
    server = VisdomProcess(tmp_path / "visdom", "/curves")
    server.start()
    replay = ["mlp_workload.dashboard", "--port", str(server.port), "--base-url", "/curves", "--replay", "runs/run"]
    try:
        for command in (
            ["jax_mlp.train", *server.flags, "--visdom-base-url", "/curves/", *short, "--run-dir", "runs/run"],
            replay,
        ):
            process = run(*command)
            assert (process.returncode, process.stderr) == (0, "")
            assert_shows(server, tmp_path / "runs/run")
            server.connect().delete_env(environment_name(tmp_path / "runs/run"))
    finally:
        server.kill()


def test_the_jax_process_stays_free_of_torch(server, short, tmp_path):
    script = f"""
import sys, runpy
sys.argv = ["jax_mlp.train", *{[*server.flags, *short]}, "--epochs", "1", "--run-dir", "run"]
runpy.run_module("jax_mlp.train", run_name="__main__")
assert "visdom" in sys.modules
assert "torch" not in sys.modules
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (["--visdom", "on"], {}, "invalid choice: 'on'"),
        (
            ["--visdom-host", "http://localhost:8097"],
            {},
            "--visdom-host must be a name or an address, got 'http://localh",
        ),
        (["--visdom-host", ""], {}, "--visdom-host must be a name or an address, got ''"),
        (["--visdom-port", "65536"], {}, "--visdom-port must be from 1 to 65535, got 65536"),
        (["--visdom", "required"], {"VISDOM_PORT": "70000"}, "VISDOM_PORT must be from 1 to 65535, got '70000'"),
        (["--visdom-base-url", "curves"], {}, "--visdom-base-url must be a path of ASCII characters that starts"),
        (["--visdom-username", "ada"], {}, "--visdom-username needs --visdom-password"),
        (
            ["--visdom", "required", "--visdom-host", "no.such.host.invalid"],
            {},
            "--visdom required: no Visdom server at ",
        ),
    ],
)
def test_wrong_flags_end_in_one_line(flags, environment, message, run, tmp_path):
    process = run("jax_mlp.train", *flags, env=environment)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@trainers
@pytest.mark.parametrize(
    "attempt", [0, *(pytest.param(later, marks=pytest.mark.long("kills six runs")) for later in (1, 2, 3))]
)
def test_a_killed_run_is_drawn_up_to_its_last_epoch(trainer, attempt, server, short, run, tmp_path):
    """Killed at moments that differ."""
    folder = tmp_path / "runs/run"
    with start(trainer, tmp_path, *short, "--epochs", "1000", "--run-dir", str(folder), "--visdom", "off") as process:
        read_until(process, f"epoch {2 + attempt:2d}")
        time.sleep(0.013 * attempt)
        process.kill()
        process.communicate(timeout=60)
    recorded = RecordedRun.load(folder)
    assert len(recorded.evaluations) >= 2 + attempt
    assert recorded.summary is None
    replay = run("mlp_workload.dashboard", "--port", str(server.port), "--replay", str(folder))
    assert (replay.returncode, replay.stderr) == (0, "")
    assert_shows(server, folder)
