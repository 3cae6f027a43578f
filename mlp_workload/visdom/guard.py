"""The guard around Visdom's handlers: who may ask, and which files an answer may touch.

Visdom itself answers every web page that a browser has open, takes any path as the name of an environment, and handles
the messages of a websocket before its login. `GuardedApplication` checks each request before a handler sees it, so a
route that a later Visdom adds is guarded too. `confine` checks each file that Visdom's code opens.
"""

import errno
import os
import re
import secrets
import sys
from collections import UserDict
from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler, decode_signed_value, stream_request_body

from mlp_workload.errors import one_line

LARGEST_BODY = 2**25
"""Bytes of a request; the environment of a run is below a megabyte."""
LARGEST_LOGIN = 2**12
"""Bytes of a request from somebody who has not logged in."""
COOKIE = "user_password"
"""Visdom's cookie of those who have logged in."""


class GuardedApplication(Application):
    """Mixin before Visdom's `Application`: refuses requests of other sites and, with a login, of strangers.

    Args:
        hosts: "name:port" in lower case, as the Host and Origin headers may say it. The address at which a request
            arrives is allowed besides.
        credential: user name and password, as Visdom stores them; None for a server without login.
    """

    state: Any
    base_url: str

    def __init__(self, hosts: Collection[str], credential: Mapping[str, str] | None, **options: Any) -> None:
        super().__init__(**options)
        self._hosts = frozenset(hosts)
        self.state = Environments({name: content for name, content in self.state.items() if _is_name(name)})
        if credential:
            # Not through Visdom's constructor, which wants the key in a file, readable in the home folder.
            self.user_credential, self.login_enabled = credential, True
            self.settings["cookie_secret"] = secrets.token_hex(32)

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        refusal = self._refusal(request)
        if refusal:
            return self.get_handler_delegate(request, _Refusal, refusal)
        return super().find_handler(request, **options)

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: type[RequestHandler], *arguments: Any, **options: Any
    ) -> Any:
        return super().get_handler_delegate(request, _with_one_line_errors(target_class), *arguments, **options)

    def _refusal(self, request: HTTPServerRequest) -> dict[str, Any]:
        """The status and the reason; nothing for a request that a handler may see."""
        hosts, headers = self._hosts | _arrived_at(request), request.headers
        host, origin = headers.get("Host", "").lower(), headers.get("Origin")
        if host not in hosts:
            return _unknown("to the name", host)
        if origin is not None and origin.lower().partition("://")[::2] not in {
            (scheme, known) for scheme in ("http", "https") for known in hosts
        }:
            return _unknown("pages of", origin.partition("://")[2])
        # Browsers send no Origin for images, scripts and frames of another page.
        is_link = request.method == "GET" and headers.get("Sec-Fetch-Dest") == "document"
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_link:
            return {"status": 403, "reason": "this server does not answer pages of other sites"}
        if self.login_enabled and not self._is_logged_in(request):
            request.connection.set_max_body_size(LARGEST_LOGIN)  # type: ignore[union-attr]
            if not self._is_for_login(request.path):
                return {"status": 401, "reason": "log in first, at the page of this server"}
        return {}

    def _is_logged_in(self, request: HTTPServerRequest) -> bool:
        cookie = request.cookies.get(COOKIE)
        return bool(cookie and decode_signed_value(self.settings["cookie_secret"], COOKIE, cookie.value))

    def _is_for_login(self, path: str) -> bool:
        return path in (self.base_url, f"{self.base_url}/") or path.startswith(self.settings["static_url_prefix"])


def _arrived_at(request: HTTPServerRequest) -> set[str]:
    """The machine's own address and port of a connection, as a browser would name it."""
    address, port = request.connection.stream.socket.getsockname()[:2]  # type: ignore[union-attr]
    return {f"[{address}]:{port}" if ":" in address else f"{address}:{port}"}


def _unknown(kind: str, host: str) -> dict[str, Any]:
    name = host if re.fullmatch(r"[\w.:\[\]-]{1,100}", host, re.ASCII) else ""
    advice = f"to allow it, start the dashboard with --allow-host {name or 'NAME'}"
    return {"status": 403, "reason": f"this server does not answer {kind} {name or 'another site'}; {advice}"}


@stream_request_body
class _Refusal(RequestHandler):
    """Answers by a status and one line before the body is read, and keeps nothing of the body."""

    def initialize(self, status: int, reason: str) -> None:
        self._status, self._line = status, reason

    def prepare(self) -> None:
        self.set_status(self._status, self._line)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self._line}\n")

    def data_received(self, chunk: bytes) -> None:
        pass


class _OneLineErrors(RequestHandler):
    """Mixin before a handler: its errors are one line each, to the client and in the terminal."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", "frame-ancestors 'self'")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def send_error(self, status_code: int = 500, **options: Any) -> None:
        """Answers 400 for an exception that Visdom did not foresee, unless the disk is the cause."""
        _, error, _ = options.get("exc_info", (None, None, None))
        if error is not None and not isinstance(error, HTTPError):
            of_request = (errno.ENOENT, errno.ENAMETOOLONG, errno.EPERM)
            is_ours = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in of_request)
            status_code = 500 if is_ours else 400
        super().send_error(status_code, **options)

    def write_error(self, status_code: int, **options: Any) -> None:
        _, error, _ = options.get("exc_info", (None, None, None))
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self._reason if error is None or isinstance(error, HTTPError) else _line(error)}\n")

    def log_exception(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, HTTPError):
            print(one_line(f"refused: {self.request.method} {self.request.path}: {_line(error)}"), file=sys.stderr)


def _line(error: BaseException) -> str:
    return one_line(f"Visdom cannot do this ({type(error).__name__}: {error})")


def _with_one_line_errors(handler: type[RequestHandler]) -> type[RequestHandler]:
    return type(handler.__name__, (_OneLineErrors, handler), {})


def check_name(name: object) -> str:
    """Returns the name of an environment. Raises `ValueError` for one that a file system could take for a path."""
    if not isinstance(name, str) or not _is_name(name):
        raise ValueError(f"not a name of an environment: {name!r}")
    return name


def _is_name(name: str) -> bool:
    """Whether it has neither separators nor control characters, and no leading dot or drive letter."""
    return name.isprintable() and re.fullmatch(r"(?!\s*(\.|[A-Za-z]:))[^/\\]+", name) is not None


class Environments(UserDict[str, Any]):
    """Visdom's environments by name. Every use of a bad name raises `ValueError`, before Visdom makes a path of it."""

    def __contains__(self, name: object) -> bool:
        return check_name(name) in self.data

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(check_name(name))

    def __setitem__(self, name: str, content: Any) -> None:
        super().__setitem__(check_name(name), content)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(check_name(name))


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {f"os.{name}" for name in ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate")}


def confine(folder: Path) -> None:
    """Keeps all that Visdom's server does in this process inside `folder`, from now on.

    It may read other files, such as those of its page, but no data (.json), and nothing through a link out of `folder`.
    The `PermissionError` is raised before the file is touched.
    """
    named, real = os.path.abspath(folder), os.path.realpath(folder)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            paths, changes = [path], bool(flags & _WRITES)
        elif event in _CHANGES:
            paths, changes = [argument for argument in arguments if not isinstance(argument, int)], True
        else:
            return
        if not _is_called_by_visdom():
            return
        for path in map(os.fsdecode, filter(lambda path: isinstance(path, str | bytes | os.PathLike), paths)):
            name = os.path.basename(path).removesuffix(".json")
            if _is_inside(os.path.realpath(path), real):
                is_allowed = event == "os.mkdir" or _is_name(name)
            else:
                is_allowed = not (changes or path.endswith(".json") or _is_inside(os.path.abspath(path), named))
            if not is_allowed:
                raise PermissionError(errno.EPERM, f"{path} leads out of the folder of the curves")

    sys.addaudithook(check)


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _is_called_by_visdom() -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith("visdom."):
        frame = frame.f_back
    return frame is not None
