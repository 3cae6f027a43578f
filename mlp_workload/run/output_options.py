"""Options of a run's output, and the sinks that follow from them. None changes a number."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.errors import UserError, warn
from mlp_workload.events import Event, Sink
from mlp_workload.sinks.console import Console
from mlp_workload.sinks.json_lines import JsonLines
from mlp_workload.sinks.visdom import Visdom
from mlp_workload.visdom.server import Unreachable, VisdomServer


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of a run's output besides its folder."""

    visdom: Literal["auto", "off", "required"] = "auto"
    """Draws live curves on a Visdom server if one answers (auto), never (off), or trains only with one (required)."""
    visdom_host: str | None = None
    """Host of the Visdom server; by default VISDOM_HOST from the environment, or localhost."""
    visdom_port: int | None = None
    """Port of the Visdom server; by default VISDOM_PORT from the environment, or 8097."""
    visdom_base_url: str | None = None
    """Path of the Visdom server, its -base_url; by default VISDOM_BASE_URL from the environment, or /."""
    visdom_username: str | None = None
    """Name for a Visdom server with login; by default VISDOM_USERNAME from the environment."""
    visdom_password: str | None = field(default=None, repr=False)
    """Password for a server with login; better set VISDOM_PASSWORD, which other users of the machine cannot read."""
    tensorboard: bool = False
    """Writes scalars for TensorBoard to the run folder's tensorboard/."""
    profile: int | None = None
    """Traces this many steps, up to the end of the first epoch, with the framework's profiler into the run folder's
    profile/, for Perfetto and TensorBoard."""
    quiet: bool = False
    """Prints only warnings, on standard error."""

    def __post_init__(self) -> None:
        if self.profile is not None and self.profile < 1:
            raise UserError(f"--profile must be at least 1, got {self.profile}")
        ignored = self.server.ignored if self.visdom != "off" else ()
        if ignored and self.visdom == "required":
            raise UserError(ignored[0])

    @property
    def server(self) -> VisdomServer:
        """Raises `UserError`, naming the flag, if it makes no sense."""
        return VisdomServer.from_flags(self, "visdom_")

    def as_before(self, folder: Path) -> "OutputOptions":
        """Returns these options, with TensorBoard if the run in `folder` has it; warns if that can't be written."""
        if self.tensorboard or not any((folder / "tensorboard").glob("events*")):
            return self
        if importlib.util.find_spec("tensorboardX") is None:
            warn(f"{folder / 'tensorboard'} stays as it is: tensorboardX is not installed")
            return self
        return replace(self, tensorboard=True)

    def check(self) -> None:
        """Raises `UserError` if a required server does not answer, `ModuleNotFoundError` without tensorboardX."""
        if self.tensorboard:
            import tensorboardX  # noqa: F401
        if self.visdom == "required":
            try:
                self.server.connect()
            except Unreachable as reason:
                raise UserError(f"--visdom required: {reason}") from None

    def sinks(
        self, config: Config, dataset: Dataset, folder: Path, framework: str, past: Sequence[Event] = ()
    ) -> Iterator[Sink]:
        """Yields the sinks of a run into `folder`; events.jsonl comes first, since the others can be made from it.

        `past` are the events that it has already.
        """
        yield from self.files(folder, past)
        yield Console(folder, self.quiet)
        if self.visdom != "off":
            server = self.server
            for reason in server.ignored:
                warn(f"{reason}; it is ignored")
            visdom = Visdom(server, config, dataset, folder, framework, self.quiet)
            for event in past:
                visdom.emit(event)
            yield visdom

    def files(self, folder: Path, past: Sequence[Event] = ()) -> Iterator[Sink]:
        """Yields the sinks that write into `folder`."""
        yield JsonLines(folder / "events.jsonl", resumed=bool(past))
        if self.tensorboard:
            from mlp_workload.sinks.tensorboard import TensorBoard

            tensorboard = TensorBoard(folder / "tensorboard")
            for event in past:
                tensorboard.emit(event)
            yield tensorboard
