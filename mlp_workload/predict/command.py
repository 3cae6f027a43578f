"""The command of both frameworks that predicts the digits or letters in pictures."""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt

from mlp_workload.cli.parse import Metavar, Positional, run_command
from mlp_workload.errors import UserError, one_line
from mlp_workload.files import clear_write_errors, expand
from mlp_workload.interface import Network
from mlp_workload.predict import draw_server, image_file
from mlp_workload.predict.trained import Trained
from mlp_workload.sinks.console import Output


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Prints a line for each image: the three likeliest classes, and the path of a picture of what the network saw.

    Takes PNG or JPEG of any size, with one digit or letter, dark on light or light on dark. If an image cannot be read
    or is empty, an error says so, the other images are answered, and the exit status is 2.
    """

    run: Annotated[Path, Positional("RUN")]
    """Predicts with the finished run in this folder, of either trainer."""
    images: Annotated[tuple[Path, ...], Positional("IMAGE")] = ()
    """Reads these PNG or JPEG files."""
    seen: Annotated[Path | None, Metavar("DIR")] = None
    """Keeps what the network saw in this folder, as PNG files; by default in RUN/seen."""
    draw: bool = False
    """Serves a page instead, for this machine's browsers, on which you draw a digit and both frameworks answer."""
    port: int | None = None
    """Serves the page of --draw at this port; 0 takes any free one, and the default is 8098."""

    def __post_init__(self) -> None:
        if self.draw == bool(self.images):
            raise UserError("IMAGE or --draw: one of them" + (", not both" if self.draw else " is needed"))
        for flag, value in (("--seen", self.seen if self.draw else None), ("--port", None if self.draw else self.port)):
            if value is not None:
                raise UserError(f"{flag} is for {'images, not for' if self.draw else 'the page of'} --draw")
        if self.port is not None and not 0 <= self.port < 2**16:
            raise UserError(f"--port must be from 0 to 65535, got {self.port}")


def run_predict(program: str, load_network: Callable[[Trained], Network]) -> None:
    """Parses the process's arguments and predicts. `load_network` imports the framework."""

    def run(options: Predict) -> None:
        trained = Trained.load(options.run)
        if options.draw:
            draw_server.serve(trained, 8098 if options.port is None else options.port)
        elif not predict(options, trained, load_network, program):
            sys.exit(2)

    run_command(program, Predict, run)


def predict(options: Predict, trained: Trained, load_network: Callable[[Trained], Network], program: str) -> bool:
    """Predicts the images; returns whether all could be read. Raises `UserError` if a seen image can't be written."""
    _ = trained.image_format  # warns or raises once
    seen: dict[Path, npt.NDArray[np.uint8]] = {}
    for path in options.images:
        try:
            seen[path] = trained.see(image_file.read(expand(path)), str(path))
        except UserError as error:
            print(f"{program}: error: {error}", file=sys.stderr)
    if seen:
        probabilities = load_network(trained).predict(np.stack(list(seen.values()))).probabilities
        output = Output()
        for (path, image), of_classes in zip(seen.items(), probabilities, strict=True):
            kept = keep(image, expand(options.seen or trained.folder / "seen"), path.stem)
            output.print(one_line(f"{path}: {likeliest(of_classes, trained.class_names)}; seen: {kept}"))
    return len(seen) == len(set(options.images))


def keep(image: npt.NDArray[np.uint8], folder: Path, name: str) -> Path:
    """Writes `name`.png, or `name`-2.png and so on if another image has that name; returns the path.

    Raises `UserError` if it can't be written.
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    content = buffer.getvalue()
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{name}.png", 1
    while True:
        with clear_write_errors(path):
            try:
                with path.open("xb") as file:
                    file.write(content)
                return path
            except FileExistsError:
                if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
                    return path
        number += 1
        path = folder / f"{name}-{number}.png"


def likeliest(probabilities: Sequence[float] | npt.NDArray[np.floating], names: Sequence[str]) -> str:
    """Returns the names of the three likeliest classes with their probabilities."""
    order = np.argsort(-np.asarray(probabilities), kind="stable")[:3]
    return ", ".join(f"{names[k]} {probabilities[k]:.1%}" for k in order)
