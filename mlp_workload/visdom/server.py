"""Address of a Visdom server, and a client with short time limits that reports every refusal."""

import contextlib
import hashlib
import http.client
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mlp_workload.errors import UserError
from mlp_workload.visdom import timed_http

PORT = 8097
"""Visdom's default port."""


class Unreachable(Exception):
    """No Visdom server answers, or it refuses; the message says which and why."""


class NothingThere(Unreachable):
    """Nothing accepts a connection at the server's address."""


class NotVisdom(Unreachable):
    """Something else answers at the server's address."""


class ServerError(Unreachable):
    """The server answers a request with the error `status`."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


_SETTINGS = {
    "host": ("localhost", r"[\w.-]+|[\da-fA-F:]+", "a name or an address"),
    "port": (str(PORT), r"0*(?!0)\d{1,5}", "from 1 to 65535"),
    "base_url": ("/", r"/[!-~]*", "a path of ASCII characters that starts with a slash"),
    "username": ("", r"[^\ud800-\udfff]*", "text"),
    "password": ("", r"[^\ud800-\udfff]*", "text"),
}
"""Default of each setting, the pattern of its values, and the pattern in words."""


@dataclass(frozen=True)
class VisdomServer:
    """Address and login of a Visdom server. `base_url` starts with a slash; `username` is None without login."""

    host: str = "localhost"
    port: int = PORT
    base_url: str = "/"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ignored: tuple[str, ...] = ()
    """A sentence for each environment variable that was ignored, with the reason."""

    @classmethod
    def from_flags(cls, options: object, prefix: str = "") -> "VisdomServer":
        """Returns the server of the flags host, port, base_url, username and password, fields of `options`.

        `prefix` begins their names. A flag that is None gets the value of its variable, such as VISDOM_HOST, or its
        default. Variables with bad values are ignored. Raises `UserError`, naming the flag, if it has a bad value.
        """
        flags = {name: getattr(options, prefix + name) for name in _SETTINGS}
        dashed = f"--{prefix.replace('_', '-')}"
        values = {name: default for name, (default, _, _) in _SETTINGS.items()}
        ignored: list[str] = []
        variables = _variables(flags["host"] is not None or flags["port"] is not None)
        for name in _SETTINGS:
            if (given := flags[name]) is not None:
                if reason := _reason(name, given):
                    raise UserError(f"{dashed}{name.replace('_', '-')} {reason}")
                values[name] = str(given)
            elif (variable := variables.get(name)) is not None:
                if reason := _reason(name, variable):
                    ignored.append(f"VISDOM_{name.upper()} {reason}")
                else:
                    values[name] = variable
        if values["username"] and not values["password"]:
            if flags["username"] is not None:
                raise UserError(f"{dashed}username needs {dashed}password, or VISDOM_PASSWORD in the environment")
            ignored.append("VISDOM_USERNAME needs VISDOM_PASSWORD")
            values["username"] = ""
        host, port, base_url, username, password = values.values()
        return cls(host, int(port), base_url.rstrip("/") or "/", username or None, password or None, tuple(ignored))

    @property
    def address(self) -> str:
        return f"http://{quoted(self.host)}:{self.port}{self.base_url.rstrip('/')}"

    def connect(self) -> Any:
        """Returns a `visdom.Visdom` whose requests take a few seconds at most and raise `Unreachable` if they fail.

        Raises `Unreachable` if no Visdom server answers within that time.
        """
        cookie = self._log_in() if self.username else ""
        try:
            environments = json.loads(self.post("/env_state", "{}", cookie))
        except (ValueError, RecursionError):
            environments = None
        if not isinstance(environments, list | dict):  # list before Visdom 0.3, then dict
            raise NotVisdom(f"what answers at {self.address} is not a Visdom server")
        try:
            return _client_class()(self, cookie)
        except ModuleNotFoundError as error:
            if error.name != "visdom":
                raise
            raise Unreachable("visdom is not installed: make setup, or pip install '.[visdom]'") from error

    def _log_in(self) -> str:
        """Logs in and returns the cookie."""
        assert self.password is not None
        hashed = hashlib.sha256(self.password.encode()).hexdigest()  # as Visdom's page sends it
        login = json.dumps({"username": self.username, "password": hashed})
        try:
            return self._answer("/", login, "", "user name or password are not the server's").cookies
        except ServerError as error:
            if error.status in (400, 500):  # Visdom without login fails so, with and without our guard
                raise Unreachable(f"the Visdom server at {self.address} has no login") from None
            raise

    def post(self, path: str, body: str, cookie: str) -> str:
        """Sends `body` to `path` below the base URL and returns the answer's text. Raises `Unreachable`."""
        return self._answer(path, body, cookie, "it refuses, and may need a password").text

    def _answer(self, path: str, body: str, cookie: str, refusal: str) -> timed_http.Answer:
        """Sends `body` to `path`. Errors never contain text from the server."""
        whole_path = self.base_url.rstrip("/") + path
        headers = {"Cookie": cookie} if cookie else {}
        try:
            answer = timed_http.post(self.host, self.port, whole_path, body.encode(), headers)
        except timed_http.NoConnection as error:
            raise NothingThere(f"no Visdom server at {self.address} ({error})") from error
        except TimeoutError:
            raise Unreachable(f"the Visdom server at {self.address} does not answer") from None
        except OSError as error:
            raise Unreachable(f"no Visdom server at {self.address} ({error.strerror or error})") from error
        except timed_http.Endless:
            raise NotVisdom(f"what is at {self.address} answers without an end") from None
        except timed_http.NotHttp:
            raise NotVisdom(f"what answers at {self.address} is not a Visdom server") from None
        # Visdom before 0.3 refuses with an empty 400; with a text it means a bad request.
        if answer.status == 401 or (answer.status == 400 and not answer.text):
            raise Unreachable(f"the Visdom server at {self.address}: {refusal}")
        if answer.status == 403:  # only the guard of our dashboard answers so
            advice = f"start the dashboard with --allow-host {quoted(self.host)}:{self.port}"
            raise Unreachable(f"the Visdom server at {self.address} does not answer to this name: {advice}")
        if not 200 <= answer.status < 300:
            phrase = http.client.responses.get(answer.status, "")
            raise ServerError(f"what is at {self.address} answers {answer.status} {phrase}".rstrip(), answer.status)
        return answer


def quoted(host: str) -> str:
    """Returns `host` as in a URL."""
    return f"[{host}]" if ":" in host else host


def host_headers(host: str, port: int) -> set[str]:
    """Returns the Host headers that browsers may send for `host` and `port`; they omit default ports."""
    name = quoted(host).lower()
    return {f"{name}:{port}", *([name] if port in (80, 443) else [])}


def _variables(address_is_given: bool) -> dict[str, str]:
    """Returns the non-empty variables VISDOM_HOST and so on, by the settings' names.

    Kubernetes sets VISDOM_PORT=tcp://10.96.12.7:8097 for a service named visdom. Host and port are taken from it only
    if neither is given elsewhere.
    """
    variables = {name: value for name in _SETTINGS if (value := os.environ.get(f"VISDOM_{name.upper()}"))}
    if service := re.fullmatch(r"tcp://\[?([^][/]+)\]?:(\d+)", variables.get("port", "")):
        del variables["port"]
        if not address_is_given and "host" not in variables:
            variables |= {"host": service[1], "port": service[2]}
    return variables


def _reason(name: str, value: str | int) -> str | None:
    """Returns the rule that `value` breaks, as the end of a sentence; None if it is valid."""
    _, pattern, rule = _SETTINGS[name]
    if re.fullmatch(pattern, str(value)) and (name != "port" or int(value) < 2**16):
        return None
    return f"must be {rule}" + ("" if name == "password" else f", got {value!r}")


@cache
def _client_class() -> Any:
    """Creates the client's class on first use, because importing visdom takes long."""
    with only_visdom():
        import visdom

    base: Any = visdom.Visdom  # its stubs are out of date

    class Client(base):  # type: ignore[misc]
        def __init__(self, server: VisdomServer, cookie: str) -> None:
            self._at, self.cookie = server, cookie
            # With send=True the constructor would warn that no socket answers.
            super().__init__(
                f"http://{quoted(server.host)}",
                port=server.port,
                base_url=server.base_url,
                use_incoming_socket=False,
                raise_exceptions=True,
                send=False,
            )
            self.send = True

        def _handle_post(self, url: str, data: Any = None) -> str:
            path = url.removeprefix(f"{self.server}:{self.port}{self.base_url}")
            return self._at.post(path, data or "{}", self.cookie)

    return Client


class _Hide:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in ("torch", "openTSNE"):
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


@contextlib.contextmanager
def only_visdom() -> Iterator[None]:
    """Hides packages that visdom would import: torch, which the JAX process must not load, and openTSNE."""
    hide = _Hide()
    sys.meta_path.insert(0, hide)
    try:
        yield
    finally:
        sys.meta_path.remove(hide)
