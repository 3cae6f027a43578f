"""Exports a run's network as ONNX: `python -m mlp_workload.export_onnx --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.files import new_file, write_atomically
from mlp_workload.predict.trained import Trained
from mlp_workload.sinks.console import Output


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the network of a run as an ONNX model from images (batch, pixels), uint8, to logits (batch, classes).

    The model normalises the pixels and computes in the run's dtype.
    """

    run: Annotated[Path, Positional("RUN")]
    """Exports the finished run in this folder, of either trainer."""
    output: Annotated[Path, Positional("OUT")]
    """Writes the model to this new file, such as mlp.onnx."""


def main() -> None:
    run_command("python -m mlp_workload.export_onnx", Export, run)


def run(options: Export) -> None:
    """Writes the model. Raises `UserError` if there is no such run or OUT can't be written; then OUT is not created."""
    from mlp_workload.predict.onnx_model import onnx_model  # `main` reports a missing onnx

    trained = Trained.load(options.run)
    model = onnx_model(trained.config, trained.parameters)
    with new_file("OUT", options.output) as output:
        assert output is not None
        write_atomically(output, model.SerializeToString())
    pixels, *_, classes = trained.widths
    layout = f" ({trained.layout})" if trained.layout else ""
    shapes = f"images (batch, {pixels}) uint8{layout} to logits (batch, {classes}) {trained.config.dtype}"
    Output().print(f"{output}: {shapes}")


if __name__ == "__main__":
    main()
