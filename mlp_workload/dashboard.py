"""Starts a Visdom server for the curves of runs, or draws old runs: `python -m mlp_workload.dashboard --help`."""

import ipaddress
import os
import re
import signal
import socket
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlp_workload.cli.parse import Metavar, run_command
from mlp_workload.errors import UserError, one_line, warn
from mlp_workload.files import expand
from mlp_workload.run.recorded import RecordedRun
from mlp_workload.visdom import assets, timed_http
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import Unreachable, VisdomServer, host_headers
from mlp_workload.visdom.serving import http_server
from mlp_workload.visdom.windows import Drawing, comparison_name, environment_name, trace_name

ASSETS_SECONDS = 60.0
"""Longest time for downloading the files of the page."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Starts a Visdom server for this machine, also without a network. Ctrl-C stops it.

    With --replay it draws finished or interrupted runs from their events.jsonl, on the server at this address. If there
    is none, it starts one.
    """

    host: str = "localhost"
    """Listens at this address; others than localhost, such as 0.0.0.0 for all, need a password."""
    port: int | None = None
    """Listens at this port; by default at VISDOM_PORT from the environment, or 8097."""
    base_url: str | None = None
    """Path of the server's page; by default VISDOM_BASE_URL from the environment, or /."""
    username: str | None = None
    """Asks for a login with this name; by default VISDOM_USERNAME from the environment."""
    password: str | None = None
    """Password of the login; better set VISDOM_PASSWORD, which other users of the machine cannot see."""
    allow_host: Annotated[tuple[str, ...], Metavar("NAME[:PORT]")] = ()
    """Further names by which browsers reach the server, such as a proxy's."""
    env_path: Path | None = None
    """Keeps the curves in this folder; by default in ~/.visdom."""
    replay: Annotated[tuple[Path, ...], Metavar("RUN")] = ()
    """Draws the runs in these folders."""

    @property
    def server(self) -> VisdomServer:
        return VisdomServer.from_flags(self)


def main() -> None:
    run_command("python -m mlp_workload.dashboard", Dashboard, run)


def run(options: Dashboard) -> None:
    """Serves or replays as `options` say. Raises `UserError` if it can't start."""
    server = options.server
    for reason in server.ignored:
        if reason.startswith("VISDOM_USERNAME"):  # never start without a login that was asked for
            raise UserError(reason)
        warn(f"{reason}; it is ignored")
    runs = RecordedRun.load_all(options.replay)
    if runs and _listens(server):
        try:
            _replay(runs, server)
        except Unreachable as reason:
            raise UserError(str(reason)) from None
        return
    if not server.username and not _is_local(options.host):
        raise UserError(f"--host {options.host} lets others in: it needs --username and --password")
    serve(server, _allowed(server, options.allow_host), options.env_path, runs)


def serve(server: VisdomServer, allowed: set[str], env_path: Path | None, runs: list[RecordedRun]) -> None:
    """Runs a Visdom server until Ctrl-C. Raises `UserError` if its port or folder can't be used."""
    folder = _folder(env_path)
    names = {"localhost", "127.0.0.1", "::1", server.host}
    if not _is_local(server.host):
        names.add(socket.gethostname())
    hosts = set().union(*(host_headers(name, server.port) for name in names))
    listener = http_server(server, folder, hosts, allowed)
    from tornado.ioloop import IOLoop

    static = assets.static_folder()
    try:
        assets.install(static, ASSETS_SECONDS)
    except UserError as error:
        warn(f"{error}, and the page needs it")
    if lacks := assets.features(assets.missing(static)):
        print(f"the page will lack: {', '.join(lacks)}", flush=True)
    try:
        listener.listen(server.port, address=server.host)
    except OSError as error:
        raise UserError(f"cannot listen at {server.host}, port {server.port}: {error.strerror or error}") from None
    if hasattr(os, "nice"):
        os.nice(19)  # leave the cores to training
    loop = IOLoop.current()

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends a blocked loop
        loop.asyncio_loop.call_soon_threadsafe(loop.stop)  # type: ignore[attr-defined]

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a finalizer could swallow its KeyboardInterrupt
        signal.signal(signal.SIGINT, stop)
    print(one_line(f"Visdom at {server.address}, curves kept in {folder}; Ctrl-C stops it"), flush=True)
    if runs:
        threading.Thread(target=_replay_here, args=(runs, server), daemon=True).start()
    loop.start()
    print("stopped")


def _replay_here(runs: list[RecordedRun], server: VisdomServer) -> None:
    try:
        _replay(runs, server)
    except (Unreachable, UserError) as reason:
        warn(str(reason))


def _replay(runs: list[RecordedRun], server: VisdomServer) -> None:
    """Draws the runs on the server. Raises `Unreachable`."""
    for recorded in runs:
        comparison = comparison_name(recorded.config, recorded.fact("dataset_digest"))
        names = environment_name(recorded.folder), comparison
        drawing = Drawing(server.connect(), *names, trace_name(recorded.framework, recorded.config))
        picture = Picture(recorded.dataset)
        for event in recorded.events:
            picture.take(event)
        drawing.complete(picture)
        pages = " and ".join(f"{server.address}/env/{name}" for name in names)
        lacks = "" if recorded.dataset else f"; {recorded.config.dataset} is gone: no images, no labels"
        print(one_line(f"{recorded.folder}: {pages}{lacks}"), flush=True)


def _folder(env_path: Path | None) -> Path:
    """Creates the folder of the curves. Without `env_path` and a writable home folder it is a temporary one.

    Raises `UserError` if `env_path` can't be written.
    """
    try:
        folder = Path("~/.visdom").expanduser() if env_path is None else expand(env_path)
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        if env_path is not None:
            raise UserError(f"cannot write {env_path}: {getattr(error, 'strerror', None) or error}") from None
        warn(f"cannot write ~/.visdom ({error}): curves go to a temporary folder; --env-path names another one")
        folder = Path(tempfile.mkdtemp(prefix="visdom-"))
    return folder


def _allowed(server: VisdomServer, names: tuple[str, ...]) -> set[str]:
    """Returns the `names` of --allow-host as in Host headers: without a port, at the default ports and the server's."""
    hosts: set[str] = set()
    for name in names:
        parts = re.fullmatch(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?", name)
        if parts is None:
            raise UserError(f"--allow-host must be a name, with or without its port, got {name!r}")
        host = parts[1] or parts[2]
        for port in [int(parts[3])] if parts[3] else [80, server.port]:
            hosts |= host_headers(host, port)
    return hosts


def _is_local(host: str) -> bool:
    """Returns whether all addresses of `host` are of this machine. Raises `UserError` if there is no such host."""
    try:
        addresses = {address[0] for *_, address in timed_http.addresses(host, None)}
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror or error}") from None
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def _listens(server: VisdomServer) -> bool:
    try:
        timed_http.connect(server.host, server.port).close()
    except timed_http.NoConnection:
        return False
    return True


if __name__ == "__main__":
    main()
