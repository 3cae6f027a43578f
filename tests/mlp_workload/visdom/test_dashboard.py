"""The dashboard's server, and where it finds what the page is made of."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dashboard_process import dashboard
from helpers import ROOT, write_idx_folder
from visdom_process import free_port
from warm import python

from mlp_workload.config import Config
from mlp_workload.events import Evaluated, RunStarted, TrainLosses
from mlp_workload.metrics import Mistakes
from mlp_workload.sinks.json_lines import JsonLines
from mlp_workload.visdom import assets
from mlp_workload.visdom.server import VisdomServer
from mlp_workload.visdom.windows import comparison_name, environment_name

DASHBOARD = "mlp_workload.dashboard"


def start(tmp_path, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", DASHBOARD, "--env-path", "envs", *arguments], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip


def until_ready(process):
    """The line that says where it is."""
    while not (line := process.stdout.readline()).startswith("Visdom at "):
        assert line, process.stderr.read()
    return line


def test_it_serves_until_ctrl_c(tmp_path):
    port = free_port()
    with start(tmp_path, "--port", str(port)) as process:
        line = until_ready(process)
        assert line == f"Visdom at http://localhost:{port}, curves kept in {tmp_path}/envs; Ctrl-C stops it\n"
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19, "training comes first"
        client = VisdomServer(port=port).connect()
        assert client.get_env_list() == ["main"]
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=20)
    assert (process.returncode, output, error) == (0, "stopped\n", "")
    socket.create_server(("127.0.0.1", port)).close()


INTERRUPTED = """
import os, signal, weakref
from tornado.ioloop import IOLoop
from mlp_workload import dashboard

class Garbage: pass

def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)
    len("")

def collect():
    garbage = Garbage()
    kept.append(weakref.ref(garbage, interrupt))

kept = []
IOLoop.current().call_later(0, collect)
dashboard.main()
"""


def test_ctrl_c_is_not_lost_where_python_ignores_exceptions(tmp_path):
    """Finalizers do, and may run at any moment."""
    command = [python(), "-c", INTERRUPTED, "--port", str(free_port()), "--env-path", "envs"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.endswith("; Ctrl-C stops it\nstopped\n")


def test_it_listens_on_this_machine_alone(tmp_path):
    with dashboard(tmp_path) as server:
        assert listening(server.port) <= {f"127.0.0.1:{server.port}", f"[::1]:{server.port}"}


NOBODY = [
    "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps", "+dac_override",
    "--ambient-caps", "+dac_override", "env", *(f"--unset={name}" for name in ("HOME", "LOGNAME", "USER", "LNAME")),
]  # fmt: skip
"""Starts a program as `docker run --user 54321` does: no name, no home folder; but it may read all files."""
as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to be another user")


@as_root
@pytest.mark.parametrize("home", [[], ["HOME=/proc"]], ids=["none", "read-only"])
def test_without_a_home_folder_and_a_user_name_it_serves_its_page(home, tmp_path):
    flags, prefix = ["--username", "ada", "--password", "lovelace"], [*NOBODY, f"TMPDIR={tmp_path}", *home]
    with dashboard(tmp_path, *flags, env_path=None, prefix=prefix) as server:
        assert re.search(rf"curves kept in {tmp_path}/visdom-\w+; Ctrl-C", server.line)
        status, text = server.ask("GET", "/")
        assert (status, "Visdom Login" in text) == (200, True)
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("visdom-")} == {"errors"}
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith("warning: cannot write ~/.visdom (")
    assert line.endswith("): curves go to a temporary folder; --env-path names another one")


@as_root
def test_without_a_home_folder_curves_are_compared(tmp_path):
    """Visdom 0.2 looks for them in ~/.visdom, wherever it keeps them."""
    with dashboard(tmp_path, prefix=NOBODY) as server:
        assert server.ask("GET", "/compare/main+main")[0] == 200
        assert server.ask("GET", "/")[0] == 200
    assert {path.name for path in tmp_path.iterdir()} == {"envs", "errors"}
    assert (tmp_path / "errors").read_text() == ""


@as_root
def test_the_doctor_finds_that_page(run):
    probe = run("mlp_workload.doctor.visdom_probe", prefix=NOBODY)
    assert {"status": 200, "reason": "OK"} in map(json.loads, probe.stdout.splitlines())


def test_a_cookie_of_another_start_is_worth_nothing(tmp_path):
    """The key of the cookies is new at each start, and in no file."""
    server = VisdomServer(username="ada", password="lovelace")
    for start in ("first", "second"):
        with dashboard(tmp_path, "--username", "ada", "--password", "lovelace") as process:
            if start == "first":
                cookie = replace(server, port=process.port).connect().cookie
            assert process.ask("POST", "/env_state", {}, Cookie=cookie)[0] == {"first": 200, "second": 401}[start]


def listening(port):
    """The local addresses at which something listens on `port`, by the kernel's tables, which are in hexadecimal."""
    names = {"0100007F": "127.0.0.1", "00000000000000000000000001000000": "[::1]"}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    assert found
    return {f"{names.get(address, address)}:{port}" for address, _ in found}


def test_replay_without_a_server_starts_one(digits, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "runs/run").mkdir(parents=True)
    config = Config(dataset=write_idx_folder(tmp_path / "data", digits))
    with contextlib.closing(JsonLines(tmp_path / "runs/run/events.jsonl")) as events:
        events.emit(RunStarted(config, {"framework": "jax", "dataset_digest": digits.digest}))
        events.emit(TrainLosses(1, 1, np.ones(6), "", 0.1))
        events.emit(Evaluated(1, 6, 0.5, 0.1, 31, 31, Mistakes([], []), 0.1))
    with dashboard(tmp_path, "--replay", "runs/run") as server:
        line = server.process.stdout.readline()
        own, comparison = environment_name(tmp_path / "runs/run"), comparison_name(config, digits.digest)
        assert line == f"runs/run: {server.address}/env/{own} and {server.address}/env/{comparison}\n"
        windows = json.loads(server.ask("POST", "/win_data", {"eid": own, "win": None})[1])
        assert len(windows["train_loss"]["content"]["data"][0]["x"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets others in: it needs --username and --password"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid: "),
        (["--host", "192.0.2.1", "--username", "a", "--password", "b"], "cannot listen at 192.0.2.1, port 8097: "),
        (["--port", "70000"], "--port must be from 1 to 65535, got 70000"),
        (["--replay", "nowhere"], "nowhere: no such run folder"),
        (["--replay", "empty"], "cannot read empty/events.jsonl: No such file or directory"),
        (["--env-path", "file/deeper"], "cannot write "),
        (["--username", "ada"], "--username needs --password"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    process = run(DASHBOARD, *arguments, env={"HOME": str(tmp_path)}, timeout=100)
    assert process.returncode == 2, process.stdout
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"python -m {DASHBOARD}: error: ")
    assert message in line


@pytest.mark.parametrize("kind", ["folder", "no UTF-8", "link out"])
def test_a_bad_style_sheet_is_a_warning(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    style = tmp_path / ("envs" if kind == "link out" else "visdom") / "style.css"
    style.parent.mkdir()
    if kind == "folder":
        style.mkdir()
    elif kind == "no UTF-8":
        style.write_bytes(b"\xff")
    else:
        style.symlink_to("/etc/passwd")
    with dashboard(tmp_path) as server:
        assert server.ask("GET", "/user/style.css") == (200, "")
        assert server.ask("GET", "/")[0] == 200
    (line,) = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith("warning: going on without the style sheets, style.css: ")


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = run(DASHBOARD, "--port", str(port))
        assert process.returncode == 2
        (line,) = process.stderr.splitlines()
        assert f"cannot listen at localhost, port {port}: " in line


@pytest.fixture
def no_npm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


@npm
@pytest.mark.long("downloads packages")
def test_npm_brings_all_that_has_a_package(tmp_path, monkeypatch):
    static = tmp_path / "visdom/static"
    assets.install(static, 120)
    assert [asset.feature for asset in assets.missing(static)] == ["formulas"]
    assert (
        "Plotly" in (static / "js/plotly-plotly.min.js").read_text()[:10_000]
        or (static / "js/plotly-plotly.min.js").stat().st_size > 10**6
    )
    before = {path: path.stat().st_mtime_ns for path in static.rglob("*")}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assets.install(static, 0)  # nothing is left to fetch
    assert {path: path.stat().st_mtime_ns for path in static.rglob("*")} == before


@npm
@pytest.mark.long("downloads packages")
def test_a_node_modules_folder_is_enough(tmp_path, monkeypatch):
    packages = sorted({asset.package for asset in assets.assets() if asset.package})
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--legacy-peer-deps", *packages], cwd=tmp_path,
                   check=True, capture_output=True, timeout=200)  # fmt: skip
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    static = tmp_path / "visdom/static"
    assets.install(static, 5)
    assert [asset.feature for asset in assets.missing(static)] == ["formulas"]


DESTINATION = 'for i; do folder=$i; [ "$last" = --pack-destination ] && break; last=$i; done'


@pytest.mark.parametrize("source", ["npm", "node_modules"])
def test_packages_are_enough(source, tmp_path, monkeypatch):
    """Made up as npm packs and installs them."""
    packaged = [asset for asset in assets.assets() if asset.package]
    described = []
    for package in sorted({asset.package for asset in packaged}):
        name, _, version = package.rpartition("@")
        folder = tmp_path / "node_modules" / name
        described.append({"name": name, "version": version, "filename": f"{len(described)}.tgz"})
        for asset in packaged:
            if asset.package == package:
                (folder / asset.source).parent.mkdir(parents=True, exist_ok=True)
                (folder / asset.source).write_text(asset.target)
        (folder / "package.json").write_text(json.dumps({"version": version}))
        with tarfile.open(tmp_path / described[-1]["filename"], "w:gz") as archive:
            archive.add(folder, "package")
    if source == "npm":
        (tmp_path / "node_modules").rename(tmp_path / "elsewhere")
        write_npm(tmp_path, monkeypatch, f"echo '{json.dumps(described)}'; {DESTINATION}; cp {tmp_path}/*.tgz $folder")
    else:
        monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    monkeypatch.setattr(assets, "_from_visdom", lambda *_: pytest.fail("formulas alone are not worth the wait"))
    static = tmp_path / "visdom/static"
    assets.install(static, 20)
    assert [asset.feature for asset in assets.missing(static)] == ["formulas"]
    assert all((static / asset.target).read_text() == asset.target for asset in packaged)


def write_npm(folder, monkeypatch, script):
    (folder / "bin").mkdir()
    (folder / "bin/npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:/usr/bin:/bin")


JQUERY = """echo '[{"name": "jquery", "version": "3.1.1", "filename": "x.tgz"}]'"""


@pytest.mark.parametrize(
    "script",
    [
        "echo not JSON", "echo '[]'", "echo '[{}]'", "exit 1", "exec sleep 600",
        JQUERY, f"{JQUERY}; {DESTINATION}; echo no archive > $folder/x.tgz",
    ],
)  # fmt: skip
def test_an_npm_that_does_something_else_is_no_error(script, tmp_path, monkeypatch):
    write_npm(tmp_path, monkeypatch, script)
    monkeypatch.setattr(assets, "_from_visdom", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    assets.install(tmp_path / "visdom/static", 0.5 if "sleep" in script else 60)
    assert "everything" in assets.features(assets.missing(tmp_path / "visdom/static"))


def test_a_package_of_another_version_is_not_taken(tmp_path, monkeypatch, no_npm):
    package = tmp_path / "node_modules/jquery"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "3.7.1"}')
    (package / "dist/jquery.min.js").write_text("newer")
    monkeypatch.chdir(tmp_path)
    assets.install(tmp_path / "visdom/static", 0)
    assert not (tmp_path / "visdom/static/js/jquery.min.js").exists()


def test_without_any_source_it_ends_in_time_and_says_what_is_missing(tmp_path, monkeypatch, no_npm):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", python())
    assets.install(tmp_path / "visdom/static", 1)
    lacks = assets.features(assets.missing(tmp_path / "visdom/static"))
    assert lacks[0] == "everything"
    assert {"curves", "icons", "login", "formulas"} <= set(lacks)
