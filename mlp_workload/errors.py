"""Errors that the user can fix, and text made safe for a terminal."""

import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterator

LONGEST = 2000
"""Most characters of an error's line."""

NO_THREADS = "the system allows no more processes and threads: raise ulimit -u, or the container's limit of pids"


def warn(message: str) -> None:
    """Prints a warning to standard error. A failure to print, such as a full disk, is ignored."""
    with contextlib.suppress(OSError):
        print(f"warning: {one_line(message)}", file=sys.stderr)


class UserError(Exception):
    """An error that the user can fix, described in one line.

    Every command prints the message without a traceback and ends with exit status 2. Unprintable characters of quoted
    files and flags are escaped, and long messages are shortened in the middle.
    """

    def __str__(self) -> str:
        return one_line(str(self.args[0]))


class BadVariable(UserError):
    """An environment variable has a value that the program can't work with."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(variable, reason)  # so that it can be pickled between processes
        self.variable = variable

    def __str__(self) -> str:
        return one_line(": ".join(self.args))


class PeerLost(UserError):
    """Another process of this run ended or can't be reached; the message is that of the framework's error."""

    def __str__(self) -> str:
        sentence = re.split(r"\n|\. ", self.args[0].strip())[0]
        sentence = re.sub(r"\[\S*/\S*\] ", "", sentence)  # lines of the framework's source
        return one_line(f"another process of this run ended, or can't be reached ({sentence})")


def one_line(text: str) -> str:
    """Returns `text` in one line of about `LONGEST` characters at most, with control characters escaped."""
    return _shortened(escaped(re.sub(r"\s*[\t\n\r]\s*", " ", _shortened(text))))


def escaped(text: str) -> str:
    """Returns `text` with all characters escaped that control a terminal or reorder a line; line ends are kept.

    All text from servers and other people's files passes through here before it is shown.
    """

    def visible(match: re.Match[str]) -> str:
        character = match[0]
        is_joiner = character in "\u200c\u200d"  # of letters and emoji
        is_visible = character.isprintable() or is_joiner or unicodedata.category(character) == "Zs"
        return character if is_visible else character.encode("unicode_escape").decode()

    return re.sub(r"[^\n -~]", visible, text)


def refusal(error: Exception) -> str:
    """Returns in plain words why a parser raised `error`."""
    match error:
        case RecursionError():
            return "nested too deeply"
        case UnicodeDecodeError():
            return "not UTF-8"
        case KeyError():
            return f"{error.args[0]!r} is missing"
        case AttributeError() | TypeError() | IndexError():
            return "a part has the wrong form"
    return str(error) or type(error).__name__


def why_ended(status: int, stderr: str) -> str:
    """Returns the line of `stderr` that explains why a process ended with `status`.

    This is the last exception's own line, with a compiler's first error if there is one; torch and JAX print general
    advice after it. Without an exception it is the last line.
    """
    lines = [line for line in stderr.splitlines() if line.strip()]
    exception = r"^Traceback \(most recent call last\):\n(?:[ \t].*\n)*(\S.*)"  # after the indented lines of the calls
    if status != 1 or not (exceptions := list(re.finditer(exception, stderr, re.M))):
        return lines[-1] if lines else f"ended with status {status}"
    last = exceptions[-1]
    compiler = re.search(r"^.* error: .*$", stderr[last.end() :], re.M)
    return last[1] + (f" ({compiler[0]})" if compiler else "")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1000]} ... {text[-900:]}"


@contextlib.contextmanager
def clear_memory_errors() -> Iterator[None]:
    """Turns out-of-memory errors, in both frameworks a `RuntimeError` of many lines, into a `UserError`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error), re.I):
            raise
        raise UserError("not enough memory: try smaller --hidden or --batch-size, or --device cpu") from error
