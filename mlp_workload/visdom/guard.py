"""Guards Visdom's handlers: who may send requests, and which files they may touch.

Visdom itself answers every web page that a browser has open, takes any path as the name of an environment, and handles
websocket messages before a login. `GuardedApplication` checks each request before a handler sees it, so routes of later
versions are guarded too. `confine` checks each file that Visdom's code opens.
"""

import errno
import os
import re
import secrets
import sys
from collections import UserDict
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError, RequestHandler, decode_signed_value, stream_request_body

from mlp_workload.errors import escaped, one_line, warn
from mlp_workload.visdom.server import host_headers

LARGEST_BODY = 2**25
"""Most bytes of a request; the environment of a run is below a megabyte."""
LARGEST_LOGIN = 2**12
"""Most bytes of a request without login."""
COOKIE = "user_password"
"""Name of Visdom's login cookie."""


class GuardedApplication(Application):
    """Mixin before Visdom's `Application`: refuses requests of other sites, and without the login if there is one.

    Args:
        hosts: names of this server, from `host_headers`. The address at which a request arrives is one too.
        allowed: more names. A proxy in front may pass on their Origin with a Host of its own.
        credential: user name and password, as Visdom stores them; None for a server without login.
    """

    state: Any
    base_url: str

    def __init__(
        self, hosts: Collection[str], allowed: Collection[str], credential: Mapping[str, str] | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._hosts, self._allowed = frozenset(hosts) | frozenset(allowed), frozenset(allowed)
        self._pages = re.compile(rf"{re.escape(self.base_url)}(/|/env/.*|/compare/.*)?")
        if hidden := sorted(name for name in self.state if not _is_name(name)):
            reason = "their names have a leading dot, a drive letter, a backslash or control characters"
            warn(f"environments that are not shown, since {reason}: {', '.join(map(repr, hidden))}")
        self.state = Environments({name: content for name, content in self.state.items() if _is_name(name)})
        if credential:
            # Visdom's constructor would keep the key in a readable file in the home folder.
            self.user_credential, self.login_enabled = credential, True
            self.settings["cookie_secret"] = secrets.token_hex(32)

    def load_user_settings(self) -> dict[str, str]:
        """Loads the style sheet, Visdom's only user setting; empty if it can't be read."""
        try:
            return super().load_user_settings()  # type: ignore[misc,no-any-return]
        except (OSError, ValueError) as error:
            warn(f"going on without the style sheets, style.css: {error}")
            return {"user_css": ""}

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        if refusal := self._refusal(request):
            return self.get_handler_delegate(request, _Refusal, refusal)
        return super().find_handler(request, **options)

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: type[RequestHandler], *arguments: Any, **options: Any
    ) -> Any:
        handler = _with_one_line_errors(target_class)  # type: ignore[arg-type]  # mypy asks whether instances are hashable
        return super().get_handler_delegate(request, handler, *arguments, **options)

    def _refusal(self, request: HTTPServerRequest) -> dict[str, Any]:
        """Returns the status and reason of a refusal; empty if a handler may see the request."""
        headers = request.headers
        host, origin = headers.get("Host", "").lower(), headers.get("Origin")
        arrived_at = request.connection.stream.socket.getsockname()[:2]  # type: ignore[union-attr]
        if host not in self._hosts | host_headers(*arrived_at):
            return _unknown("does not answer to the name", host)
        if origin is not None:
            scheme, _, site = origin.lower().partition("://")
            if scheme not in ("http", "https") or site not in self._allowed | {host}:
                return _unknown("does not answer pages of", site)
        # Browsers send no Origin for images, scripts and frames of another page.
        is_link = (
            request.method == "GET"
            and headers.get("Sec-Fetch-Dest") == "document"
            and self._pages.fullmatch(request.path) is not None
        )
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not is_link:
            advice = "open its page in a tab of its own, not in a frame"
            return {"status": 403, "reason": f"this server does not answer pages of other sites; {advice}"}
        cookie = request.cookies.get(COOKIE)
        secret = self.settings.get("cookie_secret", "")
        if self.login_enabled and not (cookie and decode_signed_value(secret, COOKIE, cookie.value)):
            request.connection.set_max_body_size(LARGEST_LOGIN)  # type: ignore[union-attr]
            for_login = self.base_url, f"{self.base_url}/"
            if request.path not in for_login and not request.path.startswith(self.settings["static_url_prefix"]):
                return {"status": 401, "reason": "log in first, at the page of this server"}
        return {}


def _unknown(refusal: str, host: str) -> dict[str, Any]:
    if not re.fullmatch(r"[\w.:\[\]-]{1,100}", host, re.ASCII):
        return {"status": 403, "reason": "this server answers under its own names only, and to its own pages"}
    advice = f"if that is a name of this server, start the dashboard with --allow-host {host}"
    return {"status": 403, "reason": f"this server {refusal} {host}; {advice}"}


@stream_request_body
class _Refusal(RequestHandler):
    """Answers with a status and one line before the body is read, and discards the body."""

    def initialize(self, status: int, reason: str) -> None:
        self._status, self._line = status, reason

    def prepare(self) -> None:
        self.set_status(self._status, self._line)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self._line}\n")

    def data_received(self, chunk: bytes) -> None:
        pass


class _OneLineErrors(RequestHandler):
    """Mixin before a handler that reports errors in one line, to the client and in the terminal."""

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("Content-Security-Policy", "frame-ancestors 'self'")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")

    def send_error(self, status_code: int = 500, **options: Any) -> None:
        """Answers 400 for exceptions that Visdom did not expect, except those of disk and memory."""
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


@cache
def _with_one_line_errors(handler: type[RequestHandler]) -> type[RequestHandler]:
    return type(handler.__name__, (_OneLineErrors, handler), {})


def check_name(name: object) -> str:
    """Returns the name of an environment. Raises `ValueError` for one that a file system could take for a path."""
    if not isinstance(name, str) or not _is_name(name):
        raise ValueError(f"not a name of an environment: {name!r}")
    return name


def _is_name(name: str) -> bool:
    """Returns whether `name` has no separators, control characters, leading dot or drive letter."""
    return escaped(name) == name and re.fullmatch(r"(?!\s*(\.|[A-Za-z]:))[^/\\\n]+", name) is not None


class Environments(UserDict[str, Any]):
    """Visdom's environments by name. A bad name raises `ValueError` before Visdom makes a path of it.

    An environment's file is read at its first use. Otherwise Visdom 0.2.4 would write null for unread environments, and
    empty the file before reading it. A damaged file raises `ValueError` too.
    """

    def __contains__(self, name: object) -> bool:
        if (content := self.data.get(check_name(name))) is not None and hasattr(content, "lazy_load_data"):
            content.lazy_load_data()
        return name in self.data

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self.data[name]

    def __setitem__(self, name: str, content: Any) -> None:
        super().__setitem__(check_name(name), content)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(check_name(name))


def confine(folder: Path) -> None:
    """Keeps all file changes of Visdom's server in this process inside `folder`, from now on.

    It may read other files, such as those of its page, but no data (.json), and nothing through a link out of `folder`.
    `PermissionError` is raised before a file is touched.
    """
    named, real = os.path.abspath(folder), os.path.realpath(folder)
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    names = ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate")
    changing = {f"os.{name}" for name in names}

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            paths, changes = arguments[:1], bool(arguments[2] & writes)
        elif event in changing:
            paths, changes = arguments, True
        else:
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not str(frame.f_globals.get("__name__")).startswith("visdom."):
            frame = frame.f_back
        if frame is None:
            return
        for path in [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]:
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
