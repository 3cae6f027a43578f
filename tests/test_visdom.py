"""Live curves: a real Visdom server, which is killed, restarted, suspended and slow, and what it shows at the end."""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from tolerances import DRAWN
from visdom_process import VisdomProcess, free_port
from warm import python

from mlp_workload.config import Config
from mlp_workload.events import Evaluated, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.recorded_run import RecordedRun
from mlp_workload.sinks.visdom import Visdom
from mlp_workload.visdom.drawing import Drawing, comparison_name, environment_name
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import VisdomServer

TRAINERS = {"jax": "jax_mlp.train", "torch": "reference_torch.train"}
trainer = pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
SHORT = ["--batch-size", "6000", "--hidden", "16"]
"""Ten quick steps an epoch."""
SETTINGS = "batch_size 6000, hidden (16,)"
"""By which these runs differ from the preset."""


@pytest.fixture
def server(tmp_path):
    server = VisdomProcess(tmp_path / "visdom")
    server.start()
    yield server
    with contextlib.suppress(ProcessLookupError, AttributeError):
        server.resume()
    server.kill()


def assert_shows(server, folder, comparison=None, trace="jax"):
    """The server's data are those of events.jsonl, each point once."""
    recorded = RecordedRun.load(folder)
    environment = environment_name(folder)
    ((steps, losses),) = server.traces(environment, "train_loss").values()
    assert steps == list(range(1, len(recorded.train_losses) + 1))
    DRAWN.assert_close(losses, recorded.train_losses)
    test = server.traces(environment, "test")
    evaluated = recorded.evaluations
    for name, values in (
        ("loss", [event.test_loss for event in evaluated]),
        ("acc.", [event.test_accuracy for event in evaluated]),
    ):
        assert test[name][0] == [event.step for event in evaluated]
        DRAWN.assert_close(test[name][1], values)
    windows = server.windows(environment)
    assert [windows[name]["title"] for name in ("train_loss", "test", "x", "pred")] == [
        "train loss", "test loss&acc.", "test images", "predicted labels",
    ]  # fmt: skip
    assert f"step {evaluated[-1].step}: " in windows["pred"]["content"]
    if comparison is not None:
        assert server.traces(comparison, "test_loss")[trace] == test["loss"]
        assert server.traces(comparison, "test_accuracy")[trace] == test["acc."]


def start(trainer, tmp_path, *arguments, **environment):
    command = [python(), "-m", trainer, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def read_until(process, beginning):
    while not (line := process.stdout.readline()).startswith(beginning):
        assert line, process.stderr.read()


def test_all_3000_steps_arrive_in_few_requests(server, run, tmp_path):
    before = server.requests()
    process = run("jax_mlp.train", *server.flags, "--run-dir", "runs/jax")
    assert (process.returncode, process.stderr) == (0, "")
    assert server.requests() - before <= 100
    assert_shows(server, tmp_path / "runs/jax", "compare_leaky_mnist_seed0")
    own = environment_name(tmp_path / "runs/jax")
    assert len(server.traces(own, "train_loss")["1"][0]) == 3000
    assert len(server.traces(own, "test")["loss"][0]) == 10
    assert (tmp_path / f"visdom/{own}.json").exists(), "saved, so that a restarted server has it"
    assert (tmp_path / "visdom/compare_leaky_mnist_seed0.json").exists()


def test_two_runs_at_once_share_the_comparison(server, tmp_path):
    processes = {
        name: start(trainer, tmp_path, *server.flags, *SHORT, "--epochs", "8", "--run-dir", f"runs/{name}")
        for name, trainer in TRAINERS.items()
    }
    for process in processes.values():
        _, error = process.communicate(timeout=240)
        assert (process.returncode, error) == (0, "")
    for name in TRAINERS:
        assert_shows(server, tmp_path / "runs" / name, "compare_leaky_mnist_seed0", f"{name}, epochs 8, {SETTINGS}")
    assert server.traces("compare_leaky_mnist_seed0", "train_loss").keys() == {
        f"jax, epochs 8, {SETTINGS}", f"torch, epochs 8, {SETTINGS}"
    }  # fmt: skip


@trainer
def test_standardised_digits_arrive_as_the_bytes_they_were(trainer, server, run, mnist, tmp_path):
    process = run(trainer, *server.flags, *SHORT, "--preset", "relu", "--epochs", "1", "--run-dir", "runs/run")
    assert (process.returncode, process.stderr) == (0, "")
    source = server.windows(environment_name(tmp_path / "runs/run"))["x"]["content"]["src"]
    png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert (picture == picture[..., :1]).all(), "grey"
    for number, image in enumerate(mnist.test.images[:100]):
        top, left = 30 * (number // 10), 30 * (number % 10)
        np.testing.assert_array_equal(picture[top : top + 28, left : left + 28, 0], image)


@trainer
def test_without_a_server_there_is_one_note_at_the_end_and_replay_shows_all(trainer, run, tmp_path):
    port = free_port()
    process = run(trainer, "--visdom", "auto", "--visdom-port", str(port), "--epochs", "1", "--run-dir", "runs/run")
    assert (process.returncode, process.stderr) == (0, "")
    replay = "python -m mlp_workload.dashboard --replay runs/run"
    *_, where, note = process.stdout.splitlines()
    assert where == "weights, losses and summary are in runs/run"
    assert note == f"no Visdom server at http://localhost:{port}; for the curves: {replay}"
    assert process.stdout.count("Visdom") == 1
    assert len(RecordedRun.load(tmp_path / "runs/run").train_losses) == 300

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


@trainer
def test_a_required_server_that_is_not_there_stops_before_training(trainer, run, tmp_path):
    port = free_port()
    process = run(trainer, "--visdom", "required", "--visdom-port", str(port), "--run-dir", "run")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == (
        f"python -m {trainer}: error: --visdom required: no Visdom server at http://localhost:{port} "
        "(Connection refused)\n"
    )
    assert not (tmp_path / "run").exists()


@trainer
def test_a_server_killed_in_the_middle_costs_nothing(trainer, server, run, tmp_path):
    flags = [*server.flags, *SHORT, "--epochs", "30", "--run-dir", "runs/run"]
    with start(trainer, tmp_path, *flags) as process:
        read_until(process, "epoch 15  step   150")
        server.kill()
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0
    (warning,) = error.splitlines()
    assert warning.startswith("warning: no Visdom server at ")
    server.start()
    replay = run("mlp_workload.dashboard", "--port", str(server.port), "--replay", "runs/run")
    assert replay.returncode == 0, replay.stderr
    assert_shows(server, tmp_path / "runs/run")


@pytest.mark.parametrize("lost", [True, False], ids=["what it had is lost", "it has what it saved"])
def test_a_restarted_server_gets_what_it_missed(lost, server, tmp_path):
    flags = [*server.flags, *SHORT, "--epochs", "150", "--run-dir", "runs/run"]
    with start("jax_mlp.train", tmp_path, *flags) as process:
        read_until(process, "epoch 15 ")
        server.kill()
        if lost:
            for file in (tmp_path / "visdom").glob("*.json"):
                file.unlink()
        read_until(process, "epoch 40 ")
        server.start()
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0
    assert len(error.splitlines()) <= 1
    assert_shows(server, tmp_path / "runs/run", "compare_leaky_mnist_seed0", f"jax, epochs 150, {SETTINGS}")


def test_a_server_that_comes_later_gets_everything(tmp_path):
    server = VisdomProcess(tmp_path / "visdom")
    with start("jax_mlp.train", tmp_path, *server.flags, *SHORT, "--epochs", "150", "--run-dir", "runs/run") as process:
        read_until(process, "epoch 20 ")
        server.start()
        try:
            output, error = process.communicate(timeout=240)
            assert (process.returncode, error) == (0, "")
            assert "Visdom" not in output
            assert_shows(server, tmp_path / "runs/run")
        finally:
            server.kill()


def test_what_is_closed_or_lost_between_two_updates_is_drawn_again(server, tmp_path, digits):
    """As by a user in the browser, or by a restart that the sender does not notice."""
    config, folder = Config(run_dir=tmp_path / "runs/run"), tmp_path / "runs/run"
    picture, comparison = Picture(digits), comparison_name(config, digits.digest)
    drawing = Drawing(server.connect(), environment_name(folder), comparison, "jax")
    for epoch in (1, 2, 3):
        picture.take(TrainLosses(epoch, 5 * epoch - 4, np.ones(5), "", 0.1))
        picture.take(Evaluated(epoch, 5 * epoch, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
        if epoch == 2:
            server.connect().close(win="test_loss", env=comparison)
        if epoch == 3:
            server.connect().delete_env(environment_name(folder))
            server.connect().delete_env(comparison)
            drawing = Drawing(server.connect(), environment_name(folder), comparison, "jax")
        drawing.complete(picture)
        assert server.traces(comparison, "test_loss")["jax"][0] == [5 * number for number in range(1, epoch + 1)]
        assert len(server.traces(environment_name(folder), "train_loss")["1"][0]) == 5 * epoch
        assert {"x", "pred"} <= server.windows(environment_name(folder)).keys()


def test_a_server_restarted_as_the_run_ends_gets_everything(server, tmp_path, digits, monkeypatch):
    for name in ("LAST_SECONDS", "CLOSE_SECONDS"):  # on a busy machine a server takes its time to start
        monkeypatch.setattr(f"mlp_workload.sinks.visdom.{name}", 60.0)
    config, folder = Config(run_dir=tmp_path / "runs/run"), tmp_path / "runs/run"
    sink = Visdom(VisdomServer(port=server.port), config, digits, folder, "jax", quiet=True)
    sink.emit(TrainLosses(1, 1, np.ones(5), "", 0.1))
    deadline = time.monotonic() + 20
    while environment_name(folder) not in server.environments():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.kill()
    for file in (tmp_path / "visdom").glob("*.json"):
        file.unlink()
    restart = threading.Timer(0.5, server.start)
    restart.start()
    sink.emit(Evaluated(1, 5, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    sink.close()
    restart.join()
    assert server.traces(environment_name(folder), "test")["loss"] == ([5], [0.5])


def test_a_suspended_server_holds_nothing_up(server, tmp_path):
    flags = [*server.flags, *SHORT, "--epochs", "20", "--run-dir", "runs/run"]
    with start("jax_mlp.train", tmp_path, *flags) as process:
        read_until(process, "epoch  5")
        server.suspend()
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0
    (warning,) = error.splitlines()
    assert warning.startswith(f"warning: the Visdom server at http://localhost:{server.port} does not answer: ")
    recorded = RecordedRun.load(tmp_path / "runs/run")
    assert recorded.summary["steps"] == 200
    losses = [event.seconds for event in recorded.events if isinstance(event, TrainLosses)]
    assert max(losses) < 3, "no epoch waited for the server's 5 seconds"


def test_a_suspended_server_that_goes_on_gets_everything(server, tmp_path):
    flags = [*server.flags, *SHORT, "--epochs", "250", "--run-dir", "runs/run"]
    with start("jax_mlp.train", tmp_path, *flags) as process:
        read_until(process, "epoch  5")
        server.suspend()
        time.sleep(7)
        server.resume()
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0
    assert len(error.splitlines()) <= 1
    assert_shows(server, tmp_path / "runs/run")


def test_a_slow_server_gets_everything(server, tmp_path):
    """It runs for a twentieth of a second in four."""
    done = threading.Event()

    def slow_down():
        while not done.wait(0.05):
            server.suspend()
            done.wait(0.15)
            server.resume()

    brake = threading.Thread(target=slow_down)
    brake.start()
    try:
        with start(
            "jax_mlp.train", tmp_path, *server.flags, *SHORT, "--epochs", "40", "--run-dir", "runs/run"
        ) as process:
            _, error = process.communicate(timeout=240)
            assert (process.returncode, error) == (0, "")
    finally:
        done.set()
        brake.join()
    assert_shows(server, tmp_path / "runs/run")


def talk_without_end(listener):
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 10_000)
                    time.sleep(0.01)


@pytest.mark.parametrize("visdom", ["auto", "required"])
@pytest.mark.parametrize("kind", ["web server", "mute", "endless"])
def test_a_port_held_by_something_else(visdom, kind, run, tmp_path):
    with contextlib.ExitStack() as stack:
        if kind == "endless":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=talk_without_end, args=(listener,), daemon=True).start()
            port, reason = listener.getsockname()[1], "does not come to an end"
        elif kind == "web server":
            command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
            other = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, **pipes))
            stack.callback(other.kill)
            port, reason = int(other.stdout.readline().split()[5]), "answers 501"
        else:
            other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port, reason = other.getsockname()[1], "does not answer"
        flags = ["--visdom", visdom, "--visdom-port", str(port), "--visdom-host", "127.0.0.1"]
        process = run("jax_mlp.train", *flags, *SHORT, "--epochs", "1", "--run-dir", "runs/run")
    assert process.returncode == {"auto": 0, "required": 2}[visdom]
    (line,) = process.stderr.splitlines()
    assert reason in line
    assert (tmp_path / "runs/run").exists() == (visdom == "auto")


def test_a_server_with_a_password(run, tmp_path):
    port, home = free_port(), {"HOME": str(tmp_path)}
    command = ["--port", str(port), "--username", "ada", "--env-path", str(tmp_path / "envs")]
    flags = [*SHORT, "--epochs", "1", "--visdom-port", str(port)]
    with start("mlp_workload.dashboard", tmp_path, *command, VISDOM_PASSWORD="lovelace", **home) as dashboard:
        try:
            read_until(dashboard, "Visdom at ")
            required = [*flags, "--visdom", "required"]
            process = run("jax_mlp.train", *required)
            assert process.returncode == 2
            assert "it refuses, as servers do that want a password" in process.stderr
            process = run("jax_mlp.train", *required, "--visdom-username", "ada", "--visdom-password", "byron")
            assert process.returncode == 2
            assert "user name or password are not the server's" in process.stderr
            process = run("jax_mlp.train", *flags, "--run-dir", "runs/a", "--visdom-username", "ada",
                          env={"VISDOM_PASSWORD": "byron"})  # fmt: skip
            assert process.returncode == 0
            assert len(process.stderr.splitlines()) == 1
            process = run("jax_mlp.train", *flags, "--run-dir", "runs/b", "--visdom-username", "ada",
                          env={"VISDOM_PASSWORD": "lovelace"})  # fmt: skip
            assert (process.returncode, process.stderr) == (0, "")
            saved = {path.stem for path in (tmp_path / "envs").glob("runs*.json")}
            assert saved == {environment_name(tmp_path / "runs/b")}
            for file in (tmp_path / "runs").rglob("*"):
                assert file.is_dir() or b"lovelace" not in file.read_bytes(), f"the password is in {file}"
        finally:
            dashboard.send_signal(signal.SIGINT)


def test_proxies_of_the_environment_are_not_asked_for_a_local_server(server, run, tmp_path):
    proxies = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    process = run("jax_mlp.train", *server.flags, *SHORT, "--epochs", "1", "--run-dir", "runs/run", env=proxies)
    assert (process.returncode, process.stderr) == (0, "")
    assert_shows(server, tmp_path / "runs/run")


def test_a_base_url(run, tmp_path):
    server = VisdomProcess(tmp_path / "visdom", "/curves")
    server.start()
    try:
        for flags in (["--visdom-base-url", "/curves"], ["--visdom-base-url", "/curves/"]):
            name = f"runs/{len(flags[1])}"
            process = run("jax_mlp.train", *server.flags, *flags, *SHORT, "--epochs", "1", "--run-dir", name)
            assert (process.returncode, process.stderr) == (0, "")
            assert_shows(server, tmp_path / name)
    finally:
        server.kill()


def test_a_diverging_run_leaves_gaps_and_a_page_that_can_be_read(server, run, tmp_path):
    process = run("jax_mlp.train", *server.flags, *SHORT, "--preset", "relu", "--epochs", "2", "--learning-rate", "1e6",
                  "--run-dir", "runs/run")  # fmt: skip
    assert process.returncode == 0
    own = environment_name(tmp_path / "runs/run")
    text = server.connect().get_window_data(win=None, env=own)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (losses,) = [values for _, values in server.traces(own, "train_loss").values()]
    assert losses[0] is not None
    assert losses[-1] is None


def test_the_jax_process_stays_free_of_torch(server, tmp_path):
    script = f"""
import sys, runpy
sys.argv = ["jax_mlp.train", *{[*server.flags, *SHORT]}, "--epochs", "1", "--run-dir", "run"]
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
        (["--visdom", "on"], {}, "invalid choice 'on'"),
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


@trainer
def test_a_killed_run_is_drawn_up_to_its_last_epoch(trainer, server, run, tmp_path):
    """Killed at moments that differ."""
    for attempt in range(4):
        folder = tmp_path / f"runs/{attempt}"
        flags = [*SHORT, "--epochs", "1000", "--run-dir", str(folder), "--visdom", "off"]
        with start(trainer, tmp_path, *flags) as process:
            read_until(process, f"epoch {2 + attempt:2d}")
            time.sleep(0.013 * attempt)
            process.kill()
        recorded = RecordedRun.load(folder)
        assert len(recorded.evaluations) >= 2 + attempt
        assert recorded.summary is None
        replay = run("mlp_workload.dashboard", "--port", str(server.port), "--replay", str(folder))
        assert (replay.returncode, replay.stderr) == (0, "")
        assert_shows(server, folder)
