"""Converts weights between safetensors and torch's files: `python -m reference_torch.convert --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlp_workload.cli.parse import Positional, run_command
from mlp_workload.errors import UserError
from mlp_workload.files import expand, new_file, write_atomically
from mlp_workload.sinks.console import Output
from mlp_workload.weights import layer_widths, load_layers, save_weights

_TORCH = (".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Converts a run's weights.safetensors into a state_dict of the tutorial's nn.Module, or the state_dict of a stack
    of linear layers into a file for --initial-weights.

    The suffixes .safetensors and .pt or .pth tell the direction. The numbers stay the same, byte for byte; float16 and
    bfloat16 are widened to float32.
    """

    source: Annotated[Path, Positional("IN")]
    """Reads this .safetensors, .pt or .pth file, and runs no code in it."""
    target: Annotated[Path, Positional("OUT")]
    """Writes this new file, of the other kind."""

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            if path.suffix not in (".safetensors", *_TORCH):
                raise UserError(f"{path}: expected a name that ends in .safetensors, .pt or .pth")
        if (self.source.suffix in _TORCH) == (self.target.suffix in _TORCH):
            raise UserError(f"{self.source}, {self.target}: expected a .safetensors file and a .pt or .pth file")


def main() -> None:
    run_command("python -m reference_torch.convert", Conversion, run)


def run(options: Conversion) -> None:
    """Converts IN to OUT. Raises `UserError` if IN can't be read or OUT can't be written; then OUT is not created."""
    from reference_torch import state_dict  # torch is imported after the names are checked

    source = expand(options.source)
    from_torch = source.suffix in _TORCH
    parameters = state_dict.read(source) if from_torch else load_layers(source)
    with new_file("OUT", options.target) as target:
        assert target is not None
        if from_torch:
            save_weights(target, parameters)
        else:
            write_atomically(target, state_dict.content(parameters))
    widths = "-".join(map(str, layer_widths(parameters)))
    Output().print(f"{target}: the weights of {widths}")


if __name__ == "__main__":
    main()
