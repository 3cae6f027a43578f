"""A Visdom server for the curves of runs, and old runs drawn on it: `python -m mlp_workload.dashboard --help`."""

import contextlib
import hashlib
import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mlp_workload.command_line import one_line_errors, parse
from mlp_workload.errors import UserError, one_line, warn
from mlp_workload.files import expand
from mlp_workload.recorded_run import RecordedRun
from mlp_workload.run_folder import clear_write_errors
from mlp_workload.visdom import assets
from mlp_workload.visdom.drawing import Drawing, comparison_name, environment_name, trace_name
from mlp_workload.visdom.picture import Picture
from mlp_workload.visdom.server import Unreachable, VisdomServer, only_visdom

PROGRAM = "python -m mlp_workload.dashboard"
ASSETS_SECONDS = 60.0
"""For fetching what the page is made of, at most."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """Starts a Visdom server, on this machine only and also without a network; Ctrl-C stops it.

    With --replay it draws runs from their events.jsonl, finished or interrupted: on the server that answers at this
    address, or on one that it starts.
    """

    host: str = "localhost"
    """localhost, or with a password any address to listen at: 0.0.0.0 for all."""
    port: int | None = None
    """By default VISDOM_PORT from the environment, or 8097."""
    base_url: str | None = None
    """By default VISDOM_BASE_URL, or /."""
    username: str | None = None
    """For a server with login; by default VISDOM_USERNAME."""
    password: str | None = None
    """By default VISDOM_PASSWORD."""
    env_path: Path = Path("~/.visdom")
    """A folder where the server keeps the curves."""
    replay: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")] = ()
    """Run folders to draw."""

    @property
    def server(self) -> VisdomServer:
        return VisdomServer.from_flags(
            "",
            host=self.host,
            port=self.port,
            base_url=self.base_url,
            username=self.username,
            password=self.password,
        )


def main() -> None:
    with one_line_errors(PROGRAM):
        options = parse(Dashboard, sys.argv[1:], prog=PROGRAM, description=Dashboard.__doc__)
        run(options)


def run(options: Dashboard) -> None:
    """Raises `UserError` where it can't begin."""
    server = options.server
    for reason in server.ignored:
        if reason.startswith("VISDOM_USERNAME"):  # nobody gets a server without the login that was asked for
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
    serve(server, expand(options.env_path), runs)


def serve(server: VisdomServer, env_path: Path, runs: list[RecordedRun]) -> None:
    """Runs a Visdom server until Ctrl-C. Raises `UserError` where its port or folder is not to be had."""
    with only_visdom():
        import visdom.server.app as visdom_app
        from tornado.ioloop import IOLoop

    _place_assets()
    env_path = env_path.absolute()
    with clear_write_errors(env_path):
        env_path.mkdir(parents=True, exist_ok=True)
    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # not each file that the page lacks, at each visit
    visdom_app.tornado_settings["autoreload"] = False  # debug mode, which Visdom sets, would watch all source files
    application = visdom_app.Application(
        port=server.port,
        base_url=server.base_url.rstrip("/"),
        env_path=f"{env_path}/",
        user_credential=_credential(server),
    )
    try:
        application.listen(server.port, address=server.host, max_buffer_size=2**30)
    except OSError as error:
        raise UserError(f"cannot listen at {server.host}, port {server.port}: {error.strerror or error}") from None
    if hasattr(os, "nice"):
        os.nice(19)  # drawing takes next to no time from training
    print(one_line(f"Visdom at {server.address}, curves kept in {env_path}; Ctrl-C stops it"), flush=True)
    if runs:
        threading.Thread(target=_replay_here, args=(runs, server), daemon=True).start()
    try:
        IOLoop.current().start()
    except KeyboardInterrupt:
        print("stopped")


def _replay_here(runs: list[RecordedRun], server: VisdomServer) -> None:
    try:
        _replay(runs, server)
    except (Unreachable, UserError) as reason:
        warn(str(reason))


def _replay(runs: list[RecordedRun], server: VisdomServer) -> None:
    """Raises `Unreachable`."""
    for recorded in runs:
        comparison = comparison_name(recorded.config, recorded.fact("dataset_digest"))
        names = environment_name(recorded.folder), comparison
        drawing = Drawing(server.connect(), *names, trace_name(recorded.framework, recorded.config))
        picture = Picture(recorded.dataset)
        for event in recorded.events:
            picture.take(event)
        drawing.complete(picture)
        places = " and ".join(f"{server.address}/env/{name}" for name in names)
        lacks = "" if recorded.dataset else f"; {recorded.config.dataset} is gone: no images, no labels"
        print(one_line(f"{recorded.folder}: {places}{lacks}"), flush=True)


def _is_local(host: str) -> bool:
    """Raises `UserError` where there is no such host."""
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise UserError(f"--host {host}: {error.strerror or error}") from None
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


def _listens(server: VisdomServer) -> bool:
    try:
        socket.create_connection((server.host, server.port), 3).close()
    except OSError:
        return False
    return True


def _place_assets() -> None:
    static = assets.static_folder()
    try:
        assets.place(static, ASSETS_SECONDS)
    except OSError as error:
        warn(f"cannot write what the page needs into {static}: {error.strerror}")
    if lacks := assets.features(assets.missing(static)):
        print(f"the page will lack: {', '.join(lacks)}", flush=True)


def _credential(server: VisdomServer) -> dict[str, str] | None:
    """As Visdom wants it: its own hash of the hash that its page and client send."""
    if not server.username:
        return None
    from visdom.server.defaults import DEFAULT_ENV_PATH
    from visdom.utils.server_utils import hash_password

    assert server.password is not None
    cookie = Path(f"{DEFAULT_ENV_PATH}COOKIE_SECRET")
    with clear_write_errors(cookie):
        cookie.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(cookie, "x", opener=_private) as file:
            file.write(secrets.token_hex(32))
    hashed = hashlib.sha256(server.password.encode()).hexdigest()
    return {"username": server.username, "password": hash_password(hashed)}


def _private(path: str, flags: int) -> int:
    """Opens a new file that nobody else may read."""
    return os.open(path, flags, 0o600)


if __name__ == "__main__":
    main()
