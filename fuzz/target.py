"""A target of the fuzzer, and its promise."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlp_workload.errors import LONGEST, UserError, escaped


@dataclass(frozen=True)
class Target:
    """Something here that reads what others wrote.

    `read` hands a content to it, by way of files in the folder, and asserts what must hold of what comes back; whatever
    the content is, it may raise nothing but `UserError`. `seeds` are contents that it takes, `words` what such are
    made of.
    """

    read: Callable[[bytes, Path], None]
    seeds: tuple[bytes, ...]
    words: tuple[str, ...] = ()

    def hold(self, content: bytes, folder: Path) -> UserError | None:
        """The one line by which `content` is refused, or None; anything else is a finding, and raised."""
        try:
            self.read(content, folder)
        except UserError as error:
            line = str(error)
            assert line.strip(), "a refusal without a word"
            assert "\n" not in line, "not one line"
            assert escaped(line) == line, f"steers the terminal: {line!r}"
            assert len(line) <= LONGEST, f"{len(line)} characters"
            return error
        return None
