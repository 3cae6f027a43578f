"""Names of environments, and the files that the dashboard's server keeps them in."""

import contextlib
import json
import re

import pytest
from dashboard_process import dashboard, until, until_registered

from mlp_workload.visdom.guard import Environments
from mlp_workload.visdom.server import host_headers

WINDOW = {"data": [{"type": "text", "content": "mine"}], "layout": {}, "win": "w"}
BAD_NAMES = [
    "../victim", "..\\victim", "/{outside}/victim", "a/b", "a\\b", "C:victim", "c:\\victim", ".hidden", "..", ".", "",
    " ../victim", " .hidden", "victim\0", "a\nb", "\ud800", "../envs-outside/",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with dashboard(tmp_path_factory.mktemp("open")) as server:
        yield server


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
    folder = server.folder / "envs-outside"  # whose name begins as that of the folder of the curves
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


def test_after_a_restart_what_was_not_looked_at_is_saved_whole(tmp_path):
    """Visdom 0.2.4 writes null over it."""
    with dashboard(tmp_path) as server:
        server.ask("POST", "/events", WINDOW | {"eid": "12:30"})
        server.ask("POST", "/save", {"data": ["12:30"]})
    file = tmp_path / "envs/12:30.json"
    before = file.read_bytes()
    assert b"mine" in before
    (tmp_path / "envs/damaged.json").write_text("mine too")
    with dashboard(tmp_path) as server:
        assert server.ask("POST", "/save", {"data": ["12:30"]}) == (200, '["12:30"]')
        assert json.loads(file.read_bytes()) == json.loads(before)
        for path, body in [("/save", {"data": ["damaged"]}), ("/events", WINDOW | {"eid": "damaged"})]:
            assert server.ask("POST", path, body)[0] == 400
    assert (tmp_path / "envs/damaged.json").read_text() == "mine too"


GOOD_NAMES = [
    "wide\u3000space",
    "hard\xa0space",
    "\U0001f469\u200d\U0001f4bb",
    "lr:0.1",
    "12:30",
    "日本 ü",
    "a.b",
    "a b",
]


def test_good_names_are_shown_and_one_warning_names_the_others(tmp_path):
    (tmp_path / "envs").mkdir()
    content = json.dumps({"jsons": {"w": WINDOW}, "reload": {}})
    for name in [*GOOD_NAMES, ".hidden", "c:drive", "bell\a"]:
        (tmp_path / f"envs/{name}.json").write_text(content)
    with dashboard(tmp_path) as server:
        assert sorted(server.environments()) == sorted([*GOOD_NAMES, "main"])
        for name in GOOD_NAMES:
            assert json.loads(server.ask("POST", "/win_data", {"eid": name, "win": None})[1]) == {"w": WINDOW}
    assert server.errors.read_text() == (
        "warning: environments that are not shown, since their names have a leading dot, a drive letter, "
        "a backslash or control characters: '.hidden', 'bell\\x07', 'c:drive'\n"
    )


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


@pytest.mark.parametrize(
    ("host", "port", "headers"),
    [
        ("Host.Example", 8097, {"host.example:8097"}),
        ("host.example", 80, {"host.example:80", "host.example"}),
        ("host.example", 443, {"host.example:443", "host.example"}),
        ("fd00::7", 8097, {"[fd00::7]:8097"}),
    ],
)
def test_browsers_omit_default_ports(host, port, headers):
    assert host_headers(host, port) == headers
