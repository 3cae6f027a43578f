"""Pages of other origins against the dashboard, in a real browser that is logged in to it, and its own page."""

import contextlib
import functools
import http.server
import json
import threading

import pytest
from browser import CHROMIUM, chromium
from dashboard_process import dashboard, routes
from helpers import make_digits, write_idx_folder

from mlp_workload.visdom.windows import environment_name

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

LOGIN = ["--username", "ada", "--password", "lovelace"]
WINDOW = {"data": [{"type": "text", "content": "secret"}], "layout": {}, "win": "w"}
ATTACK = """async ({server, paths, sockets, bodies, messages}) => {
    const outcomes = {successes: [], unanswered: []};
    const tried = async (what, attempt) => {
        let timer;
        const patience = new Promise(resolve => { timer = setTimeout(() => resolve("no answer"), 60000); });
        const gain = await Promise.race([attempt.catch(() => undefined), patience]);
        clearTimeout(timer);
        if (gain !== undefined) outcomes[gain === "no answer" ? "unanswered" : "successes"].push(what);
    };
    const opened = address => new Promise((resolve, reject) => {
        const socket = new WebSocket(address);
        socket.onopen = () => { messages.forEach(message => socket.send(message)); resolve("opened"); };
        socket.onmessage = event => resolve(event.data);
        socket.onerror = socket.onclose = () => reject();
    });
    const loaded = (tag, address, property) => new Promise((resolve, reject) => {
        const element = document.createElement(tag);
        element.onload = () => tag === "iframe" && !element.contentDocument ? reject() : resolve("loaded");
        element.onerror = reject;
        Object.assign(element, {rel: "stylesheet", [property]: address});
        document.body.append(element);
    });
    const posted = (address, name, value, type) => new Promise(resolve => {
        const frame = document.createElement("iframe");
        frame.name = "frame" + Math.random();
        const form = document.createElement("form");
        Object.assign(form, {action: address, method: "POST", enctype: type, target: frame.name});
        const field = document.createElement("textarea");
        Object.assign(field, {name, value});
        form.append(field);
        document.body.append(frame, form);
        frame.onload = () => resolve(undefined);
        form.submit();
    });
    for (const path of paths) {
        const address = server + path;
        const attempts = [];
        for (const [i, body] of bodies.entries()) {
            for (const options of [
                {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"}},
                {method: "POST", mode: "cors", headers: {"Content-Type": "application/json"}},
            ])
                attempts.push(tried(["fetch", path, body],
                    fetch(address, {...options, body, credentials: "include"}).then(
                        answer => answer.type === "opaque" ? undefined : answer.text())));
            navigator.sendBeacon(address, body);
            const [name, value] = [body.slice(0, -1) + ', "x": "', '"}'];  // joined by "=" they are JSON
            if (i < 2)
                attempts.push(tried(["form", path], posted(address, name, value, "text/plain")));
        }
        attempts.push(tried(["get", path], fetch(address, {credentials: "include"}).then(answer => answer.text())));
        if (sockets.includes(path))
            attempts.push(tried(["websocket", path], opened(address.replace("http", "ws"))));
        attempts.push(tried(["script", path], loaded("script", address, "src")));
        attempts.push(tried(["style", path], loaded("link", address, "href")));
        attempts.push(tried(["image", path], loaded("img", address, "src")));
        attempts.push(tried(["frame", path], loaded("iframe", address, "src")));
        await Promise.all(attempts);
    }
    return outcomes;
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium("host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With a login and a base URL; it answers localhost alone."""
    with dashboard(tmp_path_factory.mktemp("dashboard"), *LOGIN, base_url="/curves") as server:
        yield server


@pytest.fixture(scope="module")
def page(browser, server):
    """The dashboard's page after its login, by keys."""
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(server.address)
        page.fill("#inputUsername", "ada")
        page.fill("#inputPassword", "lovelace")
        page.click("#submitButton")
        page.wait_for_selector("#app .navbar-form, #app input", state="attached")
        yield page


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The port of another site, with one empty page."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "index.html").write_text("<!doctype html><title>theirs</title><body></body>")

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield listener.server_port
        listener.shutdown()


def cookie(page):
    return "; ".join(f"{one['name']}={one['value']}" for one in page.context.cookies())


def held(server, page):
    """All that the server keeps, in memory and in files."""
    names = server.environments(Cookie=cookie(page))
    windows = {
        name: json.loads(server.ask("POST", "/win_data", {"eid": name, "win": None}, Cookie=cookie(page))[1])
        for name in names
    }
    paths = [path for path in server.folder.rglob("*") if path.is_file() and path.name != "errors"]
    return windows, {path: path.read_bytes() for path in paths}


@pytest.mark.long("a browser sends 1,000 requests")
@pytest.mark.parametrize("site", ["evil.example", "localhost"])
def test_a_page_of_another_origin_reads_writes_and_deletes_nothing(site, page, server, foreign, tmp_path):
    """localhost at another port is the same site: the browser sends the cookie along."""
    (server.folder / "victim.json").write_text(json.dumps({"jsons": {"w": WINDOW}, "reload": {}}))
    server.ask("POST", "/events", WINDOW | {"eid": "kept"}, Cookie=cookie(page))
    server.ask("POST", "/save", {"data": ["kept"]}, Cookie=cookie(page))
    before = held(server, page)
    assert {"kept", "main"} <= before[0].keys()
    requests = [WINDOW | {"eid": "theirs"}, {"eid": "../victim"}, {"eid": "kept", "win": None, "data": "{}"},
                {"data": ["main"], "prev_eid": "kept", "eid": "theirs", "sid": None}]  # fmt: skip
    messages = [{"cmd": "delete_env", "eid": "kept"}, {"cmd": "delete_env", "eid": "../victim"},
                {"cmd": "save_layouts", "data": "theirs"}, {"cmd": "close", "eid": "kept", "data": "w"}]  # fmt: skip
    paths = routes(tmp_path)
    attack = {
        "server": server.address,
        "paths": [*paths, "/user/style.css"],
        "sockets": [path for path, is_socket in paths.items() if is_socket],
        "bodies": [json.dumps(body) for body in requests],
        "messages": [json.dumps(message) for message in messages],
    }
    theirs = page.context.new_page()
    theirs.goto(f"http://{site}:{foreign}/")
    assert theirs.evaluate(ATTACK, attack) == {"successes": [], "unanswered": []}
    assert len(theirs.frames) > 20
    assert all("visdom" not in frame.title().lower() for frame in theirs.frames)
    theirs.close()
    assert held(server, page) == before
    if site == "localhost":
        assert_succeeds_from_its_own_page(attack, server, page, before)


def assert_succeeds_from_its_own_page(attack, server, page, before):
    """So that the attack is one."""
    own = page.context.new_page()
    own.goto(f"{server.address}/user/style.css")
    answered = [path for path in attack["paths"] if path != "/error/main"]  # which Visdom 0.2 never answers
    outcomes = own.evaluate(ATTACK, attack | {"paths": answered})
    assert {what[0] for what in outcomes["successes"]} >= {"fetch", "get", "websocket", "script", "style", "frame"}
    assert held(server, own) != before
    own.close()


def test_a_name_that_leads_to_this_machine_shows_nothing(page, server):
    """DNS rebinding: the page's own origin is evil.example, and that is the server."""
    theirs = page.context.new_page()
    answer = theirs.goto(f"http://evil.example:{server.port}/curves/")
    assert answer.status == 403
    assert theirs.evaluate("fetch('/curves/env_state', {method: 'POST', body: '{}'}).then(r => r.status)") == 403
    opened = """new Promise(resolve => {
        const socket = new WebSocket(location.href.replace('http', 'ws') + 'socket');
        socket.onopen = () => resolve(true);
        socket.onerror = () => resolve(false);
    })"""
    assert theirs.evaluate(opened) is False


@pytest.mark.long("draws a live run and a replay in a browser")
def test_its_own_page_draws_replays_and_deletes(page, server, run, tmp_path):
    (tmp_path / "digits").mkdir()
    place = ["--port", str(server.port), "--base-url", "/curves", *LOGIN]
    live = [f"--visdom-{flag.removeprefix('--')}" if flag.startswith("--") else flag for flag in place]
    dataset = write_idx_folder(tmp_path / "digits", make_digits())
    flags = ["--dataset", dataset, "--epochs", "2", "--batch-size", "20", "--hidden", "16", "--run-dir", "runs/a"]
    training = run("jax_mlp.train", *flags, "--visdom", "required", *live)
    assert (training.returncode, training.stderr) == (0, "")
    name = environment_name(tmp_path / "runs/a")
    link = page.context.new_page()
    link.goto("data:text/html,<a href='" + f"{server.address}/env/{name}" + "'>curves</a>")
    link.click("a")
    for shown in (link, page.goto(f"{server.address}/env/{name}") and page):
        shown.wait_for_selector(".window table")
        shown.wait_for_selector(".js-plotly-plot .lines")
    link.close()
    delete = """([address, name]) => new Promise(resolve => {
        const socket = new WebSocket(address);
        socket.onopen = () => socket.send(JSON.stringify({cmd: "delete_env", eid: name}));
        socket.onmessage = event => {
            const message = JSON.parse(event.data);
            if (message.command === "env_update" && !message.data.includes(name)) resolve(true);
        };
    })"""
    assert page.evaluate(delete, [server.address.replace("http", "ws") + "/socket", name])
    assert not (server.folder / f"envs/{name}.json").exists()
    replay = run("mlp_workload.dashboard", "--replay", "runs/a", *place)
    assert (replay.returncode, replay.stderr) == (0, "")
    page.goto(f"{server.address}/env/{name}")
    page.wait_for_selector(".js-plotly-plot .lines")
    assert "Traceback" not in server.errors.read_text()
