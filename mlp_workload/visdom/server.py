"""Where a Visdom server is, and a client that never waits long for it and hears every refusal."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mlp_workload.errors import UserError

PORT = 8097
"""Visdom's own default."""
CONNECT_SECONDS, READ_SECONDS = 3.0, 5.0
LOCAL = ("localhost", "127.0.0.1", "::1")


class Unreachable(Exception):
    """No Visdom server answers, or it refuses; says which and why in a few words."""


@dataclass(frozen=True)
class VisdomServer:
    """`base_url` starts with a slash. Where there is no `username` the server asks for none."""

    host: str = "localhost"
    port: int = PORT
    base_url: str = "/"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(
        cls, host: str | None, port: int | None, base_url: str | None, username: str | None, password: str | None
    ) -> "VisdomServer":
        """What is None comes from VISDOM_HOST, VISDOM_PORT and so on. Raises `UserError`, naming what is wrong."""
        try:
            number = int(os.environ.get("VISDOM_PORT", PORT)) if port is None else port
        except ValueError:
            raise UserError(f"VISDOM_PORT must be a number, got {os.environ['VISDOM_PORT']}") from None
        if not 0 < number < 2**16:
            raise UserError(f"--visdom-port must be from 1 to 65535, got {number}")
        base_url = base_url or os.environ.get("VISDOM_BASE_URL", "/")
        if not base_url.startswith("/"):
            raise UserError(f"--visdom-base-url must start with a slash, got {base_url}")
        username = username or os.environ.get("VISDOM_USERNAME")
        password = password or os.environ.get("VISDOM_PASSWORD")
        if username and not password:
            raise UserError("--visdom-username needs --visdom-password, or VISDOM_PASSWORD in the environment")
        host = host or os.environ.get("VISDOM_HOST", "localhost")
        return cls(host, number, base_url.rstrip("/") or "/", username, password)

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}{self.base_url.rstrip('/')}"

    def connect(self) -> Any:
        """A `visdom.Visdom` of which every request takes a few seconds at most and raises `Unreachable` where it fails.

        It counts them as `requests`. Proxies that the environment names are not asked for a local server. Raises
        `Unreachable` where no Visdom server answers within that time.
        """
        try:
            socket.create_connection((self.host, self.port), CONNECT_SECONDS).close()
        except OSError as error:
            raise Unreachable(f"no Visdom server at {self.address} ({error.strerror or error})") from error
        try:
            client = _client_class()(self)
        except ModuleNotFoundError as error:
            raise Unreachable("visdom is not installed: make setup, or pip install '.[visdom]'") from error
        try:
            environments = client.get_env_list()
        except ValueError:
            environments = None
        if not isinstance(environments, list | dict):  # before and since Visdom 0.3
            raise Unreachable(f"what answers at {self.address} is not a Visdom server")
        return client


@cache
def _client_class() -> Any:
    """Made when it is needed: importing visdom takes a while, and many do without."""
    with _torch_hidden():
        import requests
        import visdom

    base: Any = visdom.Visdom  # its stubs lag behind it

    class Client(base):  # type: ignore[misc]
        def __init__(self, server: VisdomServer) -> None:
            self.requests = 0
            self._address = server.address
            self._own_session = requests.Session()
            self._own_session.trust_env = server.host not in LOCAL
            # Nothing is sent from the constructor: it would warn that nothing comes back over a socket.
            super().__init__(
                f"http://{server.host}",
                port=server.port,
                base_url=server.base_url,
                username=server.username,
                password=server.password,
                use_incoming_socket=False,
                raise_exceptions=True,
                send=False,
            )
            self.send = True
            if server.username:
                login = {"username": server.username, "password": self.password}
                self._post(f"{server.address}/", "user name or password are not the server's", json=login)

        def _handle_post(self, url: str, data: Any = None) -> str:
            return self._post(url, "it refuses, as servers do that want a password", data=data or {})

        def _post(self, url: str, refusal: str, **content: Any) -> str:
            self.requests += 1
            try:
                answer = self._own_session.post(url, timeout=(CONNECT_SECONDS, READ_SECONDS), **content)
            except requests.Timeout:
                raise Unreachable(f"the Visdom server at {self._address} does not answer") from None
            except requests.RequestException as error:
                raise Unreachable(f"no Visdom server at {self._address} ({type(error).__name__})") from error
            if answer.status_code == 400:
                raise Unreachable(f"the Visdom server at {self._address}: {refusal}")
            if not answer.ok:
                raise Unreachable(f"what is at {self._address} answers {answer.status_code} {answer.reason}")
            text: str = answer.text
            return text

    return Client


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """Visdom imports torch where it finds it, to draw tensors. Here it gets arrays, and JAX's process no torch."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]
