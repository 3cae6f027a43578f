"""Servers at Visdom's address that answer slowly, without end, or what steers a terminal; and names that they keep."""

import contextlib
import socket
import sys
import threading
import time

import numpy as np
import pytest
from visdom_process import VisdomProcess

from mlp_workload import dashboard
from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.doctor.visdom_server import server as examine
from mlp_workload.errors import UserError
from mlp_workload.events import Evaluated, RunStarted, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.run.output_options import OutputOptions
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.sinks.json_lines import JsonLines
from mlp_workload.sinks.visdom import Visdom
from mlp_workload.visdom import timed_http
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import NothingThere, Unreachable, VisdomServer
from mlp_workload.visdom.windows import Drawing, comparison_name, environment_name

STEER = b"\x1b[2J\x1b]0;x\x07\xe2\x80\xae\xff"
OK = b"HTTP/1.1 200 OK\r\n"
NO_VISDOM = "what answers at {} is not a Visdom server"


@contextlib.contextmanager
def answering(*parts, pause=0.0):
    """A server that sends `parts`, one by one, to whatever request; its port."""

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            request = connection.recv(2**16)
            while request and not request.endswith(b"}"):
                request = connection.recv(2**16)
            for part in parts[0]() if callable(parts[0]) else parts:
                if done.wait(pause):
                    return
                connection.sendall(part)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        done.set()
        listener.shutdown(socket.SHUT_RDWR)


def whole(body):
    return OK + b"Content-Length: %d\r\n\r\n" % len(body) + body


DRIPS = {
    "status": ([b"H"] * 300, "the Visdom server at {} does not answer"),
    "header": ([OK, *[b"x"] * 300], "the Visdom server at {} does not answer"),
    "headers": ([OK, *[b"a: b\r\n"] * 300], "the Visdom server at {} does not answer"),
    "continue": ([b"HTTP/1.1 100 Continue\r\n\r\n"] * 300, "the Visdom server at {} does not answer"),
    "body": ([OK + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 300], "what is at {} answers without an end"),
    "chunk": ([OK + b"Transfer-Encoding: chunked\r\n\r\n", *[b"0"] * 300], "what is at {} answers without an end"),
    "until it closes": ([OK + b"\r\n", *[b"x"] * 300], "what is at {} answers without an end"),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_the_whole_answer_has_a_limit(kind, monkeypatch):
    """Each server sends a piece every twentieth of a second, for 15 s; at its end it would be another error."""
    monkeypatch.setattr(timed_http, "ANSWER_SECONDS", 0.5)
    parts, reason = DRIPS[kind]
    with answering(*parts, pause=0.05) as port:
        server = VisdomServer(port=port)
        with pytest.raises(Unreachable) as error:
            server.connect()
    assert str(error.value) == reason.format(server.address)


def test_a_request_that_nobody_reads_has_a_limit(monkeypatch):
    """It is larger than what the system keeps of it."""
    monkeypatch.setattr(timed_http, "SEND_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        timed_http.post("127.0.0.1", listener.getsockname()[1], "/", bytes(2**26), {})


def test_a_slow_upload_is_not_the_time_of_the_answer(monkeypatch):
    """The server takes some 1.3 s for the request."""
    monkeypatch.setattr(timed_http, "ANSWER_SECONDS", 0.5)

    def serve():
        connection, _ = listener.accept()
        with connection:
            left = 2**22
            while left > 0 and (part := connection.recv(2**16)):
                left -= len(part)
                time.sleep(0.02)
            connection.sendall(whole(b"taken"))

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        assert timed_http.post("127.0.0.1", listener.getsockname()[1], "/", bytes(2**22), {}).text == "taken"


@contextlib.contextmanager
def half_dead():
    """A port at which 127.0.0.2 leaves every attempt to connect without an answer, and 127.0.0.1 takes it."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as dead, contextlib.ExitStack() as waiting:
        port = dead.getsockname()[1]
        for _ in range(4):
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(("127.0.0.2", port))
        waiting.enter_context(socket.create_server(("127.0.0.1", port)))
        yield port


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's queue of connections, and 127.0.0.2")
def test_a_dead_address_and_a_slow_look_up_leave_time_for_the_others(monkeypatch):
    def look_up(*_, **__):
        time.sleep(0.6)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(timed_http, "CONNECT_SECONDS", 0.4)
    with half_dead() as port:
        with pytest.raises(NothingThere, match="timed out"):
            VisdomServer(host="127.0.0.2", port=port).connect()
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with contextlib.closing(timed_http.connect("of two addresses", port)) as connection:
            assert connection.getpeername()[0] == "127.0.0.1"


COMMANDS = {
    "required": lambda folder: OutputOptions(visdom="required").check(),
    "replay": lambda folder: dashboard.run(dashboard.Dashboard(replay=(folder,))),
    "doctor": lambda folder: examine(),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_goes_on_within_the_limit(command, tmp_path, monkeypatch):
    monkeypatch.setattr(timed_http, "ANSWER_SECONDS", 0.5)
    with contextlib.closing(JsonLines(tmp_path / "events.jsonl")) as events:
        events.emit(RunStarted(Config(), {"framework": "jax", "dataset_digest": "0"}))
    with answering(OK, *[b"x"] * 300, pause=0.05) as port:
        monkeypatch.setenv("VISDOM_PORT", str(port))
        try:
            message = str(COMMANDS[command](tmp_path))
        except UserError as error:
            message = str(error)
    assert f"the Visdom server at http://localhost:{port} does not answer" in message


@pytest.mark.parametrize(
    ("answer", "reason"),
    {
        "reason phrase": (b"HTTP/1.1 500 " + STEER + b"\r\n\r\n", "what is at {} answers 500 Internal Server Error"),
        "unknown status": (b"HTTP/1.1 599 " + STEER + b"\r\n\r\n", "what is at {} answers 599"),
        "redirect": (b"HTTP/1.1 302 Found\r\nLocation: " + STEER + b"\r\n\r\n", "what is at {} answers 302 Found"),
        "no HTTP": (b"SSH-2.0-" + STEER + b"\r\n", NO_VISDOM),
        "nested": (whole(b"[" * 100_000), NO_VISDOM),
        "no UTF-8": (whole(b'{"\xff\xfe": []}'), None),
        "no JSON": (whole(b"<html>" + STEER), NO_VISDOM),
        "number": (whole(b"9" * 5000), NO_VISDOM),
        "text": (whole(b'"main"'), NO_VISDOM),
        "cut short": (OK + b"Content-Length: 99999999999999\r\n\r\n[]", NO_VISDOM),
        "no length": (OK + b"Content-Length: " + STEER + b"\r\n\r\n<", NO_VISDOM),
        "no chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + STEER + b"\r\n", NO_VISDOM),
        "many headers": (OK + b"a: b\r\n" * 1000 + b"\r\n", NO_VISDOM),
        "long header": (OK + b"a: " + b"b" * 10**6 + b"\r\n\r\n", NO_VISDOM),
        "nothing": (b"", "no Visdom server at {} (Remote end closed connection without response)"),
    }.values(),
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_one_plain_sentence(answer, reason):
    with answering(answer) as port:
        server = VisdomServer(port=port)
        if reason is None:
            server.connect()
        else:
            with pytest.raises(Unreachable) as error:
                server.connect()
            assert not isinstance(error.value, NothingThere)
            assert str(error.value) == reason.format(server.address)


def test_a_run_warns_in_one_plain_line(digits, tmp_path, capsys):
    with answering(b"HTTP/1.1 500 " + STEER + b"\r\n\r\n") as port:
        sink = Visdom(VisdomServer(port=port), Config(), digits, tmp_path / "a\x1b[2J b", "jax", quiet=False)
        sink.emit(TrainLosses(1, 1, np.ones(3), "", 0.1))
        sink.close()
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(f"warning: what is at http://localhost:{port} answers 500 Internal Server Error: no live")
    assert error.removesuffix("\n").isprintable()
    assert rf"--replay $'{tmp_path}/a\x1b[2J b'" in error


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_is_none_is_one_reason(host, tmp_path):
    with pytest.raises(NothingThere, match="not the name of a host"):
        VisdomServer(host=host).connect()
    with contextlib.closing(JsonLines(tmp_path / "events.jsonl")) as events:
        events.emit(RunStarted(Config(), {"framework": "jax", "dataset_digest": "0"}))
    for replay in ((), (tmp_path,)):
        with pytest.raises(UserError, match=f"--host {host}: not the name of a host"):
            dashboard.run(dashboard.Dashboard(host=host, replay=replay))


@pytest.fixture(scope="module")
def visdom(tmp_path_factory):
    server = VisdomProcess(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.kill()


def test_what_has_no_login_is_told_from_what_is_no_visdom(visdom):
    with pytest.raises(Unreachable, match="has no login"):
        VisdomServer(port=visdom.port, username="ada", password="x").connect()
    with answering(b"HTTP/1.1 404 Not Found\r\n\r\n") as port:
        server = VisdomServer(port=port, username="ada", password="x")
        with pytest.raises(Unreachable, match=f"what is at {server.address} answers 404 Not Found"):
            server.connect()


LONG = "日本語の長い名前" * 8


def drawn(server, dataset, folder, config, losses):
    picture = Picture(dataset)
    picture.take(TrainLosses(1, 1, np.array(losses), "", 0.1))
    picture.take(Evaluated(1, 3, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    names = environment_name(folder), comparison_name(config, dataset.digest)
    Drawing(server.connect(), *names, "jax").complete(picture)
    return names


def test_an_environment_with_a_long_name_is_saved(visdom, digits, tmp_path):
    folder = tmp_path / LONG / f"{LONG}-{'x' * 50}"
    names = drawn(visdom, digits, folder, Config(dataset=f"idx:{folder}"), [3.0, 2.0, 1.0])
    for name in names:
        assert (visdom.log.parent / f"{name}.json").exists()


def test_two_projects_with_one_specification_have_windows_of_their_own(visdom, digits, tmp_path):
    other = Dataset(digits.source, digits.test, digits.test, digits.class_names)
    config = Config(dataset="idx:data")
    comparisons = [
        drawn(visdom, dataset, tmp_path / name, config, losses)[1]
        for name, dataset, losses in (("a", digits, [1.0] * 3), ("b", other, [2.0] * 3))
    ]
    values = [visdom.traces(comparison, "train_loss")["jax"][1] for comparison in comparisons]
    assert values == [[1.0] * 3, [2.0] * 3]


def test_a_replay_whose_events_lack_a_fact_is_one_line_beside_the_server(capsys):
    lacking = RecordedRun(None, Config(), {"framework": "jax"}, ())
    dashboard._replay_here([lacking], VisdomServer())
    assert capsys.readouterr().err == "warning: None: its events do not say its dataset digest\n"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (b"401 Unauthorized", b"", "it refuses, and may need a password"),
        (b"400 Bad Request", b"", "it refuses, and may need a password"),
        (b"400 Bad Request", b"a text", "answers 400 Bad Request"),
        (b"403 Forbidden", b"", "start the dashboard with --allow-host 127.0.0.1:"),
        (b"404 Not Found", b"", "answers 404 Not Found"),
    ],
    ids=["401", "empty 400", "400 with a text", "403", "404"],
)
def test_what_a_refusal_means(status, body, said):
    answer = b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with answering(answer) as port, pytest.raises(Unreachable, match=said):
        VisdomServer(host="127.0.0.1", port=port).connect()
