"""Where a Visdom server is, and a client that never waits long for it and hears every refusal."""

import contextlib
import ipaddress
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mlp_workload.errors import UserError

PORT = 8097
"""Visdom's own default."""
CONNECT_SECONDS, READ_SECONDS = 3.0, 5.0
LARGEST_ANSWER = 2**28
"""Bytes; the environment of a run is below a megabyte."""


class Unreachable(Exception):
    """No Visdom server answers, or it refuses; says which and why in a few words."""


class ServerError(Unreachable):
    """It answers, and could not do what it was asked."""


@dataclass(frozen=True)
class VisdomServer:
    """`base_url` starts with a slash. Where there is no `username` the server asks for none."""

    host: str = "localhost"
    port: int = PORT
    base_url: str = "/"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_flags(cls, prefix: str, **flags: str | int | None) -> "VisdomServer":
        """The server that a command's `flags` name, host, port, base_url, username and password.

        What is None comes from VISDOM_HOST, VISDOM_PORT and so on. Raises `UserError`, naming the flag, with `prefix`
        in front of its name, or the variable.
        """

        def value(name: str, default: str | None) -> tuple[str | None, str]:
            variable = f"VISDOM_{name.upper()}"
            if flags[name] is None and variable in os.environ:
                return os.environ[variable], variable
            return (default if flags[name] is None else str(flags[name])), f"--{prefix}{name.replace('_', '-')}"

        (host, host_flag), (port, port_flag) = value("host", "localhost"), value("port", str(PORT))
        base_url, base_url_flag = value("base_url", "/")
        (username, username_flag), (password, _) = value("username", None), value("password", None)
        assert host is not None
        assert port is not None
        assert base_url is not None
        if not re.fullmatch(r"[\w.-]+|[\da-fA-F:]+", host):
            raise UserError(f"{host_flag} must be a name or an address, got {host!r}")
        if not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"{port_flag} must be from 1 to 65535, got {port}")
        if not base_url.startswith("/"):
            raise UserError(f"{base_url_flag} must start with a slash, got {base_url}")
        if username and not password:
            raise UserError(f"{username_flag} needs --{prefix}password, or VISDOM_PASSWORD in the environment")
        return cls(host, int(port), base_url.rstrip("/") or "/", username or None, password or None)

    @property
    def address(self) -> str:
        return f"http://{self.quoted_host}:{self.port}{self.base_url.rstrip('/')}"

    @property
    def quoted_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def connect(self) -> Any:
        """A `visdom.Visdom` of which every request takes a few seconds at most and raises `Unreachable` where it fails.

        Proxies that the environment names are not asked for a local server. Raises `Unreachable` where no Visdom server
        answers within that time.
        """
        try:
            with socket.create_connection((self.host, self.port), CONNECT_SECONDS) as connection:
                local = ipaddress.ip_address(connection.getpeername()[0]).is_loopback
        except OSError as error:
            raise Unreachable(f"no Visdom server at {self.address} ({error.strerror or error})") from error
        try:
            client = _client_class()(self, local)
        except ModuleNotFoundError as error:
            if error.name != "visdom":
                raise
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
    with only_visdom():
        import requests
        import visdom

    base: Any = visdom.Visdom  # its stubs lag behind it

    class Client(base):  # type: ignore[misc]
        def __init__(self, server: VisdomServer, local: bool) -> None:
            self._address = server.address
            self._own_session = requests.Session()
            self._own_session.trust_env = not local
            # Nothing is sent from the constructor: it would warn that nothing comes back over a socket.
            super().__init__(
                f"http://{server.quoted_host}",
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
                try:
                    self._post(f"{server.address}/", "user name or password are not the server's", json=login)
                except ServerError:
                    raise Unreachable(f"the Visdom server at {self._address} has no login") from None

        def _handle_post(self, url: str, data: Any = None) -> str:
            return self._post(url, "it refuses, as servers do that want a password", data=data or {})

        def _post(self, url: str, refusal: str, **content: Any) -> str:
            try:
                answer = self._own_session.post(
                    url, timeout=(CONNECT_SECONDS, READ_SECONDS), stream=True, allow_redirects=False, **content
                )
            except requests.Timeout:
                raise Unreachable(f"the Visdom server at {self._address} does not answer") from None
            except requests.RequestException as error:
                raise Unreachable(f"no Visdom server at {self._address} ({type(error).__name__})") from error
            with answer:
                # Visdom before 0.3 refuses by an empty 400; one with a text is a request that makes no sense.
                if answer.status_code == 401 or (answer.status_code == 400 and not self._read(answer)):
                    raise Unreachable(f"the Visdom server at {self._address}: {refusal}")
                if not answer.ok:
                    raise ServerError(f"what is at {self._address} answers {answer.status_code} {answer.reason}")
                return self._read(answer).decode()

        def _read(self, answer: Any) -> bytes:
            """All of it, unless it has no end."""
            content, deadline = bytearray(), time.monotonic() + READ_SECONDS
            try:
                for part in answer.iter_content(2**16):
                    content += part
                    if len(content) > LARGEST_ANSWER or time.monotonic() > deadline:
                        raise Unreachable(f"what is at {self._address} does not come to an end")
            except requests.RequestException as error:
                raise Unreachable(f"no Visdom server at {self._address} ({type(error).__name__})") from error
            return bytes(content)

    return Client


class _Hide:
    """A finder that finds some packages nowhere."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in self._names:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


@contextlib.contextmanager
def only_visdom() -> Iterator[None]:
    """To import visdom in, without what it takes along where it finds it: torch, to draw tensors, which the JAX process
    is to stay free of, and openTSNE, which loads scikit-learn."""
    hide = _Hide("torch", "openTSNE")
    sys.meta_path.insert(0, hide)
    try:
        yield
    finally:
        sys.meta_path.remove(hide)
