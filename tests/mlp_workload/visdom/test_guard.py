"""The guard around Visdom's handlers, held against a real dashboard by raw requests and websockets."""

import contextlib
import json
import socket

import pytest
import websocket
from dashboard_process import dashboard, routes, until, until_registered
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.routing import PathMatches, Rule
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from mlp_workload.visdom.guard import LARGEST_BODY, LARGEST_LOGIN, GuardedApplication
from mlp_workload.visdom.server import ServerError, Unreachable, VisdomServer

WINDOW = {"data": [{"type": "text", "content": "mine"}], "layout": {}, "win": "w"}
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
        "if that is a name of this server, start the dashboard with --allow-host box.example:8097\n"
    )
    assert "\x1b" not in server.ask("GET", "/", Host="\x1b[2J")[1]
    for origin in ("null", "file://", "http://a b"):  # where advice would have no name in it
        assert server.ask("GET", "/", Origin=origin)[1] == (
            "this server answers under its own names only, and to its own pages\n"
        )


def test_the_origin_is_the_host_itself(server, locked, cookie):
    port = server.port
    assert server.ask("POST", "/env_state", {}, Origin=f"http://127.0.0.1:{port}")[0] == 403, "another page's, by name"
    for origin in ("https://dash.example", f"http://dash.example:{locked.port}", "http://tunnel.example:9000"):
        assert locked.ask("POST", "/env_state", {}, Origin=origin, Cookie=cookie)[0] == 200, "a proxy may keep it"
    for origin in ("ftp://dash.example", f"http://127.0.0.1:{locked.port}", "http://dash.example.evil.example"):
        assert locked.ask("POST", "/env_state", {}, Origin=origin, Cookie=cookie)[0] == 403


def test_links_lead_to_pages_alone_and_frames_nowhere(server, paths):
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    answers = {path: server.ask("GET", path, **link)[0] for path in [*paths, "/env/", "/env/a%2Fb", "//env/main"]}
    pages = {"/", "/env/main", "/compare/main", "/env/", "/env/a%2Fb"}
    assert {path for path, status in answers.items() if status != 403} == pages
    assert answers["/env/main"] == 200
    assert server.ask("POST", "/env/main", {}, **link)[0] == 403
    status, text = server.ask("GET", "/", **link | {"Sec_Fetch_Dest": "iframe", "Sec_Fetch_Site": "same-site"})
    advice = "open its page in a tab of its own, not in a frame"
    assert (status, text) == (403, f"this server does not answer pages of other sites; {advice}\n")


def test_the_scheme_has_its_own_port():
    """As browsers ask a server that listens on all addresses, at port 80."""

    async def answer():
        return await AsyncHTTPClient().fetch("http://127.0.0.3/", raise_error=False)

    try:
        listener = socket.create_server(("127.0.0.3", 80))
    except OSError as error:
        pytest.skip(f"port 80: {error}")
    listener.setblocking(False)
    server = HTTPServer(guarded())
    server.add_socket(listener)
    assert IOLoop.current().run_sync(answer).code == 404
    server.stop()


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
    assert server.ask("POST", "/env_state", {})[0] == 200
    errors = server.errors.read_text()
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= lines


def test_the_client_tells_its_refusals_apart(server, locked):
    with pytest.raises(ServerError, match="answers 400 Bad Request"):
        VisdomServer(port=server.port).connect().get_window_data(win=None, env="nothing")
    unknown = "does not answer to this name: start the dashboard with --allow-host 127.1:{}"
    for at in (server, locked):
        for name, password in ((None, None), ("ada", "lovelace")):
            with pytest.raises(Unreachable, match=unknown.format(at.port)):
                VisdomServer("127.1", at.port, at.base_url or "/", name, password).connect()
    for login, reason in ((VisdomServer(port=server.port, username="ada", password="x"), "has no login"),
                          (VisdomServer(port=locked.port, base_url="/curves"), "it refuses, and may need a password"),
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


class Later(Application):
    def __init__(self, **options):
        self.state, self.base_url, self.login_enabled = {}, "", False
        super().__init__(**options)


class Guarded(GuardedApplication, Later):
    pass


def guarded(**options):
    return Guarded(hosts=(), allowed=(), credential=None, **options)


def test_a_route_that_a_later_visdom_adds_is_guarded():
    class New(RequestHandler):
        def get(self):
            self.write("secret")

    async def answers(path, headers):
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}{path}", headers=headers, raise_error=False)
        return answer.code, b"secret" in answer.body

    application = guarded(handlers=[("/first", New), Rule(PathMatches("/nested"), Later())])
    application.add_handlers(".*", [("/added", New)])
    listener, port = bind_unused_port()
    HTTPServer(application).add_socket(listener)
    for path in ("/first", "/added", "/nested", "/nowhere"):
        expected = (200, True) if path in ("/first", "/added") else (404, False)
        assert IOLoop.current().run_sync(lambda path=path: answers(path, {})) == expected
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            assert IOLoop.current().run_sync(lambda path=path, headers=headers: answers(path, headers)) == (403, False)
