"""The guard around Visdom's handlers, held against a real dashboard by raw requests and websockets."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest
import websocket
from conftest import ROOT
from dashboard_process import dashboard, routes, until_registered

from mlp_workload.visdom.guard import LARGEST_BODY, LARGEST_LOGIN, Environments, GuardedApplication
from mlp_workload.visdom.server import ServerError, Unreachable, VisdomServer

WINDOW = {"data": [{"type": "text", "content": "mine"}], "layout": {}, "win": "w"}
BAD_NAMES = [
    "../victim", "..\\victim", "/{outside}/victim", "a/b", "a\\b", "C:victim", "c:\\victim", ".hidden", "..", ".", "",
    " ../victim", " .hidden", "victim\0", "a\nb", "\ud800", "../outside/",
]  # fmt: skip
ODD_BODIES = [
    b"", b"{", b"[]", b"5", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"NaN",
    b'{"eid": 5}', b'{"eid": []}', b'{"eid": {}, "win": {}}', b'{"win": []}', b'{"win": {}, "data": 5}',
    b'{"data": "main"}', b'{"data": [5]}', b'{"data": [{}]}', b'{"data": {"a": 1}, "win": null}', b'{"sid": []}',
    b'{"prev_eid": "main"}', b'{"prev_eid": "main", "eid": 5}', b'{"sid": "x", "message_type": []}',
    b'{"username": 5, "password": 5}', b'{"append": 1, "data": [{"type": "text"}]}', b'{"action": [], "metrics": 5}',
    b'{"eid": "no such environment", "win": "w"}',
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with dashboard(tmp_path_factory.mktemp("open")) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    flags = ["--username", "ada", "--password", "lovelace", "--host", "0.0.0.0", "--allow-host", "Dash.example",
             "tunnel.example:9000"]  # fmt: skip
    with dashboard(tmp_path_factory.mktemp("locked"), *flags, base_url="/curves") as server:
        yield server


@pytest.fixture(scope="module")
def cookie(locked):
    """Of somebody who has logged in."""
    return VisdomServer("localhost", locked.port, "/curves", "ada", "lovelace").connect().cookie


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return routes(tmp_path_factory.mktemp("routes"))


def refused_socket(server, path, **options):
    with pytest.raises(websocket.WebSocketBadStatusException) as refusal:
        server.socket(path, **options)
    return refusal.value.status_code


FOREIGN = [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:1"}, {"Origin": "http://localhost"},
    {"Origin": "file://"}, {"Origin": ""}, {"Host": "evil.example"}, {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Dest": "iframe"},
]  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_no_route_answers_other_sites(headers, server, paths):
    for path in paths:
        for method in ("GET", "POST", "OPTIONS"):
            assert server.ask(method, path, {}, **headers)[0] == 403, (method, path)
    for path in (path for path, is_socket in paths.items() if is_socket):
        origin = {"origin": headers["Origin"]} if "Origin" in headers else {"suppress_origin": True}
        host = {"host": headers["Host"]} if "Host" in headers else {}
        fetch = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if name.startswith("Sec")]
        if "Origin" not in headers or headers["Origin"]:  # which this client can't send empty
            assert refused_socket(server, path, header=fetch, **origin, **host) == 403
    assert server.environments() == ["main"]


def test_without_its_cookie_no_route_answers_but_the_login(locked, paths, cookie):
    for path, is_socket in paths.items():
        for method in ("GET", "POST"):
            status, text = locked.ask(method, path, {})
            if path == "/":
                assert (status, "Visdom Login" in text) == {"GET": (200, True), "POST": (400, False)}[method]
            elif path.startswith("/static/"):
                assert status == {"GET": 404, "POST": 405}[method]
            else:
                assert (status, text) == (401, "log in first, at the page of this server\n"), path
        if is_socket:
            assert refused_socket(locked, path) == 401
            assert refused_socket(locked, path, cookie=f"{cookie[:-4]}beef") == 401
            locked.socket(path, cookie=cookie).close()
    assert locked.environments(Cookie=cookie) == ["main"]


def test_what_a_stranger_sends_behind_the_handshake_is_not_handled(locked, cookie):
    """A client that does not wait for the refusal."""
    locked.ask("POST", "/events", WINDOW | {"eid": "kept"}, Cookie=cookie)
    locked.ask("POST", "/save", {"data": ["kept"]}, Cookie=cookie)
    layouts = locked.folder / "envs/view/layouts.json"
    for message in ({"cmd": "delete_env", "eid": "kept"}, {"cmd": "save_layouts", "data": "theirs"}):
        text, mask = json.dumps(message).encode(), b"\1\2\3\4"
        frame = bytes([0x81, 0x80 | len(text)]) + mask + bytes(c ^ mask[i % 4] for i, c in enumerate(text))
        with socket.create_connection(("127.0.0.1", locked.port), timeout=10) as connection:
            connection.sendall(
                f"GET /curves/socket HTTP/1.1\r\nHost: localhost:{locked.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                "\r\n".encode()
                + frame
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")
    assert "kept" in locked.environments(Cookie=cookie)
    assert (locked.folder / "envs/kept.json").exists()
    assert not layouts.exists()
    with contextlib.closing(locked.socket(cookie=cookie)) as own:
        until_registered(own)
        own.send(json.dumps({"cmd": "save_layouts", "data": "ours"}))
        own.send(json.dumps({"cmd": "delete_env", "eid": "kept"}))
        until(lambda: layouts.exists() and "kept" not in locked.environments(Cookie=cookie))


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_hosts_and_origins_of_its_own(server):
    port = server.port
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert server.ask("POST", "/env_state", {}, Host=host, Origin=f"http://{host}") == (200, '["main"]')
    for host in ("localhost", f"localhost:{port + 1}", f"localhost:{port}.evil.example", f"evil.localhost:{port}",
                 f"127.0.0.2:{port}", f"box.example:{port}"):  # fmt: skip
        assert server.ask("POST", "/env_state", {}, Host=host)[0] == 403, host
    status, text = server.ask("GET", "/", Host="box.example:8097")
    assert status == 403
    assert text == (
        "this server does not answer to the name box.example:8097; "
        "to allow it, start the dashboard with --allow-host box.example:8097\n"
    )
    assert "\x1b" not in server.ask("GET", "/", Host="\x1b[2J")[1]
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert server.ask("GET", "/env/main", **link)[0] == 200, "a link on another page may lead here"
    assert server.ask("POST", "/env/main", {}, **link)[0] == 403


def test_hosts_of_a_server_that_others_may_reach(locked, cookie):
    port = locked.port
    for host in ("dash.example", f"dash.example:{port}", "tunnel.example:9000", f"{socket.gethostname()}:{port}",
                 f"0.0.0.0:{port}", f"127.0.0.1:{port}"):  # fmt: skip
        for scheme in ("http", "https"):
            assert locked.ask("POST", "/env_state", {}, Host=host, Origin=f"{scheme}://{host}", Cookie=cookie)[0] == 200
    for host in ("tunnel.example", f"tunnel.example:{port}", "dash.example:1", "evil.example"):
        assert locked.ask("POST", "/env_state", {}, Host=host, Cookie=cookie)[0] == 403
    with socket.create_connection(("127.0.0.2", port), timeout=10) as connection:  # an address of this machine
        connection.sendall(f"GET /curves/ HTTP/1.1\r\nHost: 127.0.0.2:{port}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", ["http://dash.example", "a b", "", "*", "dash.example/", "::1"])
def test_a_name_that_is_none(name, run):
    process = run("mlp_workload.dashboard", "--allow-host", name)
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "python -m mlp_workload.dashboard: error: "
        f"--allow-host must be a name, with or without its port, got {name!r}"
    ]  # fmt: skip


def everything(name, sid):
    """Requests with the name of an environment wherever Visdom takes one."""
    encoded = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
    body = WINDOW | {"eid": name}
    for path in ("events", "update", "close", "win_exists", "win_data", "win_hash", "env_state", "delete_env"):
        yield f"/{path}", body
    yield "/win_data", {"eid": name, "win": None, "data": "{}"}
    yield "/save", {"data": [name]}
    yield "/fork_env", {"prev_eid": name, "eid": "fork"}
    yield "/fork_env", {"prev_eid": "main", "eid": name}
    yield "/env/main", {"eid": name}
    yield f"/env/{encoded}", {"sid": sid, "eid": name}
    yield f"/compare/main+{encoded}", {"sid": sid}
    for action in ("log", "metrics", "finish"):
        yield "/experiments/log", {"eid": name, "action": action, "metrics": {"a": 1}}
    for message in messages(name):
        yield "/socket_wrap", {"sid": sid, "message_type": "send", "message": json.dumps(message)}


def messages(name):
    for command in (
        "delete_env",
        "close",
        "save",
        "undo",
        "layout_item_update",
        "update_plot_layout",
        "update_comment",
    ):
        yield {"cmd": command, "eid": name, "prev_eid": "main", "data": "w", "win": "w"}
    yield {"cmd": "save", "eid": name, "prev_eid": name, "data": {}}
    for command in ("forward_to_vis", "pop_embeddings_pane"):
        yield {"cmd": command, "data": {"eid": name, "target": "w"}}
    yield {"cmd": "save_all"}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def outside(server):
    """Files beside the folder of the curves that Visdom would take for environments."""
    folder = server.folder / "outside"
    folder.mkdir(exist_ok=True)
    secret = json.dumps({"jsons": {"w": WINDOW | {"title": "secret"}}, "reload": {"w": "secret"}})
    for path in (folder / "victim.json", folder / ".json", server.folder / "victim.json"):
        path.write_text(secret)
    return folder


def test_bad_names_reach_no_file(server, outside):
    before = {path: content for path, content in files(server.folder).items() if path.name != "errors"}
    for name in (name.format(outside=outside) for name in BAD_NAMES):
        polled = json.loads(server.ask("GET", "/socket_wrap")[1])["sid"]
        with contextlib.closing(server.socket()) as own:
            for sid in (until_registered(own), polled):
                for path, body in everything(name, sid):
                    status, text = server.ask("POST", path, body)
                    assert status in (200, 400, 404, 405, 409), (path, body, text)
                    assert "secret" not in text
        assert "secret" not in server.ask("POST", "/socket_wrap", {"sid": polled, "message_type": "query"})[1]
        for message in messages(name):
            for path in ("/socket", "/vis_socket"):
                with contextlib.closing(server.socket(path)) as own:
                    own.send(json.dumps(message))
    after = files(server.folder)
    assert {path: after.get(path) for path in before} == before
    escaped = re.compile(r"envs/(view/layouts|(\.undo/)?[^./\\:\0][^/\\:\0]*)\.json")
    assert {str(path) for path in after.keys() - before.keys() if not escaped.fullmatch(str(path))} == {"errors"}
    assert all(name.isprintable() and re.match(r"[^./\\]+$", name) for name in server.environments())
    assert "Traceback" not in server.errors.read_text()


def test_links_out_of_the_folder_are_not_followed(server, outside):
    victim = outside / "victim.json"
    before = victim.read_bytes()
    own = server.socket()
    sid = until_registered(own)
    server.ask("POST", "/events", WINDOW | {"eid": "linked"})
    (server.folder / "envs/linked.json").symlink_to(victim)
    (server.folder / "envs/new.json").symlink_to(victim)
    for path, body in [("/save", {"data": ["linked"]}), ("/fork_env", {"prev_eid": "main", "eid": "linked"}),
                       ("/env/new", {"sid": sid}), ("/delete_env", {"eid": "linked"}), ("/delete_env", {"eid": "new"}),
                       ("/fork_env", {"prev_eid": "main", "eid": "new"})]:  # fmt: skip
        status, text = server.ask("POST", path, body)
        assert status in (200, 400)
        assert "secret" not in text
    view = server.folder / "envs/view"
    if view.exists():
        view.rename(server.folder / "view")
    view.symlink_to(outside)
    own.send(json.dumps({"cmd": "save_layouts", "data": "x"}))
    until(lambda: "layouts.json leads out of the folder" in server.errors.read_text())
    own.close()
    assert not (outside / "layouts.json").exists()
    assert victim.read_bytes() == before


def test_a_folder_that_is_full_of_links_starts_and_shows_none_of_them(tmp_path):
    secret = {"jsons": {"w": WINDOW | {"title": "secret"}}, "reload": {}}
    (tmp_path / "victim.json").write_text(json.dumps(secret))
    (tmp_path / "envs/view").mkdir(parents=True)
    (tmp_path / "envs/linked.json").symlink_to(tmp_path / "victim.json")
    (tmp_path / "envs/.hidden.json").write_text(json.dumps(secret))
    with dashboard(tmp_path) as server:
        for name in ("linked", ".hidden"):
            for path in ("/win_data", "/env_state"):
                assert "secret" not in server.ask("POST", path, {"eid": name, "win": None})[1]
        assert ".hidden" not in server.environments()
    assert json.loads((tmp_path / "victim.json").read_text()) == secret


def test_a_link_that_visdom_reads_at_its_start_is_one_error(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/style.css").symlink_to("/etc/passwd")
    command = [sys.executable, "-m", "mlp_workload.dashboard", "--env-path", "envs"]
    options = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True, "text": True}
    process = subprocess.run(command, timeout=60, **options)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.endswith(f"{tmp_path}/envs/style.css leads out of the folder of the curves")


def test_odd_requests_are_refused_in_one_line(server, paths):
    lines = len(server.errors.read_text().splitlines())
    for path in paths.keys() - {"/error/main"}:  # which Visdom 0.2 never answers
        for body in ODD_BODIES:
            status, text = server.ask("POST", path, body)
            assert status in (200, 400, 404, 405), (path, body[:50])
            if status == 400:
                assert len(text.splitlines()) <= 1
                lines += 1
    for path in (path for path, is_socket in paths.items() if is_socket):
        for body in ODD_BODIES:
            with contextlib.closing(server.socket(path)) as own:
                own.send_binary(body) if b"\xff" in body else own.send(body.decode())
                lines += 1
    assert server.environments()
    errors = server.errors.read_text()
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= lines


def test_the_client_tells_its_refusals_apart(server, locked):
    with pytest.raises(ServerError, match="answers 400 Bad Request"):
        VisdomServer(port=server.port).connect().get_window_data(win=None, env="no such environment")
    for login, reason in ((VisdomServer(port=server.port, username="ada", password="x"), "has no login"),
                          (VisdomServer(port=locked.port, base_url="/curves"), "it refuses, as servers do"),
                          (VisdomServer(port=locked.port, base_url="/curves", username="ada", password="x"),
                           "user name or password are not the server's")):  # fmt: skip
        with pytest.raises(Unreachable, match=reason):
            login.connect()


def test_bodies_are_bounded(server, locked, paths):
    for path in paths:
        for head in (f"Content-Length: {LARGEST_BODY + 1}\r\n\r\n", f"Transfer-Encoding: chunked\r\n\r\n{2**30:x}\r\n"):
            assert answer_to(server, f"POST {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\n{head}") in (400, 405)
    strangers = (
        f"POST /curves/ HTTP/1.1\r\nHost: localhost:{locked.port}\r\nContent-Length: {LARGEST_LOGIN + 1}\r\n\r\n"
    )
    assert answer_to(locked, strangers) == 400
    text = "x" * (LARGEST_BODY // 2)
    assert (
        server.ask("POST", "/events", WINDOW | {"eid": "large", "data": [{"type": "text", "content": text}]})[0] == 200
    )


def answer_to(server, head):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        return int(connection.recv(100).split()[1])


def test_a_route_that_a_later_visdom_adds_is_guarded():
    from tornado.httpclient import AsyncHTTPClient
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop
    from tornado.routing import PathMatches, Rule
    from tornado.testing import bind_unused_port
    from tornado.web import Application, RequestHandler

    class New(RequestHandler):
        def get(self):
            self.write("secret")

    class Later(Application):
        def __init__(self, **options):
            self.state, self.base_url, self.login_enabled = {}, "", False
            super().__init__(**options)

    class Guarded(GuardedApplication, Later):
        pass

    async def answers(path, headers):
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}{path}", headers=headers, raise_error=False)
        return answer.code, b"secret" in answer.body

    application = Guarded(hosts=(), credential=None, handlers=[("/first", New), Rule(PathMatches("/nested"), Later())])
    application.add_handlers(".*", [("/added", New)])
    listener, port = bind_unused_port()
    HTTPServer(application).add_socket(listener)
    for path in ("/first", "/added", "/nested", "/nowhere"):
        expected = (200, True) if path in ("/first", "/added") else (404, False)
        assert IOLoop.current().run_sync(lambda path=path: answers(path, {})) == expected
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert IOLoop.current().run_sync(lambda path=path, headers=headers: answers(path, headers)) == (403, False)


@pytest.mark.parametrize("name", [*BAD_NAMES, 5, None, []])
def test_no_use_of_a_bad_name_is_allowed(name):
    environments = Environments({"main": 1})
    for use in (environments.__getitem__, environments.__delitem__, environments.__contains__, environments.get,
                environments.pop, lambda name: environments.setdefault(name, 1),
                lambda name: environments.update([(name, 1)])):  # fmt: skip
        with pytest.raises(ValueError, match="not a name of an environment"):
            use(name)
    assert list(environments) == ["main"]
    assert "prüfung 1.b+c" not in environments
