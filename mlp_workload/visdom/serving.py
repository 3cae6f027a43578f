"""Creates the dashboard's guarded Visdom server; it also works without a home folder or a user name."""

import getpass
import hashlib
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mlp_workload.files import clear_write_errors
from mlp_workload.visdom.server import VisdomServer, only_visdom

if TYPE_CHECKING:
    from tornado.httpserver import HTTPServer


def http_server(
    server: VisdomServer, folder: Path, hosts: Collection[str] = (), allowed: Collection[str] = ()
) -> "HTTPServer":
    """Returns a Visdom server that keeps its curves in `folder` and does not listen yet.

    It accepts the addresses at which requests arrive, and `hosts` and `allowed` of `GuardedApplication`. A process can
    have only one such server. Raises `UserError` if the folder can't be used.
    """
    try:  # Visdom needs a user name and a home folder, which a container may lack
        getpass.getuser()
    except (ImportError, KeyError, OSError):
        os.environ["LOGNAME"] = "user"
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(folder)
    with only_visdom():
        import visdom.server.defaults as defaults

        defaults.DEFAULT_ENV_PATH = f"{folder}/"  # Visdom 0.2 reads this, whatever env_path is
        import visdom.server.app as visdom_app
        from tornado.httpserver import HTTPServer
        from visdom.utils.server_utils import hash_password

        from mlp_workload.visdom import guard

    class Application(guard.GuardedApplication, visdom_app.Application):
        pass

    logging.getLogger("tornado").setLevel(logging.CRITICAL)  # else it logs each missing file at each visit
    visdom_app.tornado_settings["autoreload"] = False  # Visdom sets debug mode, which would watch all source files
    guard.confine(folder)
    credential = None
    if server.username and server.password:
        # Visdom takes its hash of the hash that its page and client send.
        hashed = hash_password(hashlib.sha256(server.password.encode()).hexdigest())
        credential = {"username": server.username, "password": hashed}
    with clear_write_errors(folder):
        application = Application(
            hosts=hosts,
            allowed=allowed,
            credential=credential,
            port=server.port,
            base_url=server.base_url.rstrip("/"),
            env_path=f"{folder}/",
        )
    return HTTPServer(application, max_body_size=guard.LARGEST_BODY)
