"""The result of one check."""

from dataclasses import dataclass
from typing import Literal

from mlp_workload.errors import one_line

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was `seen` of the thing called `name`, and its `fix`.

    A note is no error, such as an optional package that is missing. Only the state wrong leads to exit status 1.
    """

    state: State
    name: str
    seen: str
    fix: str | None = None

    def __str__(self) -> str:
        return one_line(f"{self.name}: {self.seen}" + (f"; fix: {self.fix}" if self.fix else ""))
