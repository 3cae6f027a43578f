"""Made-up runs against a real Visdom server that is restarted, suspended, slow or late: it gets everything."""

import json
import threading

import numpy as np
import pytest
from dashboard_process import until
from live_run import Live
from visdom_process import VisdomProcess, assert_shows

from mlp_workload.config import Config
from mlp_workload.events import Evaluated, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.windows import Drawing, comparison_name, environment_name


@pytest.mark.parametrize("lost", [True, False], ids=["what it had is lost", "it has what it saved"])
def test_a_restarted_server_gets_what_it_missed(lost, server, live, tmp_path, capsys):
    live.train()
    until(lambda: live.is_drawn and (tmp_path / f"visdom/{environment_name(tmp_path / 'runs/run')}.json").exists())
    server.kill()
    if lost:
        for file in (tmp_path / "visdom").glob("*.json"):
            file.unlink()
    live.train()
    until_warned(capsys, "warning: no Visdom server at ")
    server.start()
    assert_catches_up(live, server, tmp_path / "runs/run", capsys)


def until_warned(capsys, start):
    """Returns when the whole line is printed: `print` writes its end apart."""
    printed = []

    def is_whole():
        printed.append(capsys.readouterr().err)
        return printed[-1].endswith("\n")

    until(is_whole)
    assert "".join(printed).startswith(start)


def assert_catches_up(live, server, folder, capsys):
    """All is drawn after one more epoch, and no further warning is printed."""
    live.train()
    until(lambda: live.is_drawn)
    live.finish()
    assert capsys.readouterr() == ("", "")
    assert_shows(server, folder, "jax")


def test_a_server_that_comes_later_gets_everything(tmp_path, digits, monkeypatch, capsys):
    server = VisdomProcess(tmp_path / "visdom")
    live = Live(server, tmp_path / "runs/run", digits, monkeypatch)
    live.train()
    server.start()
    try:
        until(lambda: live.is_drawn)
        live.train(2)
        live.finish()
        assert_shows(server, tmp_path / "runs/run", "jax")
    finally:
        server.kill()
    assert capsys.readouterr() == ("", "")


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


def test_what_a_server_lost_unnoticed_is_there_at_the_end(server, live, tmp_path):
    live.train()
    until(lambda: live.is_drawn)
    server.connect().delete_env(environment_name(tmp_path / "runs/run"))
    live.finish()
    assert_shows(server, tmp_path / "runs/run", "jax")


def test_a_server_restarted_as_the_run_ends_gets_everything(server, live, tmp_path, monkeypatch):
    monkeypatch.setattr("mlp_workload.sinks.visdom.LAST_SECONDS", 60.0)  # a server takes its time to start
    live.train()
    until(lambda: live.is_drawn)
    server.kill()
    for file in (tmp_path / "visdom").glob("*.json"):
        file.unlink()
    live.train()
    restart = threading.Timer(0.5, server.start)
    restart.start()
    live.finish()
    restart.join()
    assert_shows(server, tmp_path / "runs/run", "jax")


def test_a_suspended_server_that_goes_on_gets_everything(server, live, tmp_path, monkeypatch, capsys):
    live.train()
    until(lambda: live.is_drawn)
    monkeypatch.setattr("mlp_workload.visdom.timed_http.ANSWER_SECONDS", 0.5)
    server.suspend()
    live.train()
    warning = f"warning: the Visdom server at http://localhost:{server.port} does not answer: "
    until_warned(capsys, warning)
    server.resume()
    monkeypatch.setattr("mlp_workload.visdom.timed_http.ANSWER_SECONDS", 60.0)
    assert_catches_up(live, server, tmp_path / "runs/run", capsys)


def test_a_slow_server_gets_everything(server, live, tmp_path, capsys):
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
        for epochs in (1, 5):
            live.train(epochs)
            until(lambda: live.is_drawn)
        live.train()
        live.finish()
    finally:
        done.set()
        brake.join()
    assert capsys.readouterr() == ("", "")
    assert_shows(server, tmp_path / "runs/run", "jax")


def test_a_diverging_run_leaves_gaps_and_a_page_that_can_be_read(server, live, tmp_path):
    live.train()
    live.diverge()
    live.finish()
    own = environment_name(tmp_path / "runs/run")
    text = server.connect().get_window_data(win=None, env=own)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert server.traces(own, "train_loss")["1"][1][4:] == [4.0, 1e30, None, None]
    assert server.traces(own, "test")["loss"][1] == [1.0, None]
