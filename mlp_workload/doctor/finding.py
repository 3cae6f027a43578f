"""What a check found."""

from dataclasses import asdict, dataclass
from typing import Literal

from mlp_workload.errors import one_line

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line: what was `seen` of what `name` says, and the `fix`.

    A note is what works as it is, such as something optional that is not there. Only what is wrong makes an exit
    status of 1.
    """

    state: State
    name: str
    seen: str
    fix: str | None = None

    def __str__(self) -> str:
        """The line, without the state."""
        return one_line(f"{self.name}: {self.seen}" + (f"; fix: {self.fix}" if self.fix else ""))

    def as_json(self) -> dict[str, str | None]:
        return asdict(self)
