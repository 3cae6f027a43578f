"""Records a pass of each model in a process of its own, and names the first tensor in which the two differ."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.port_your_model.common import Mistake
from examples.port_your_model.names import FLAX, TORCH_ONLY
from mlp_workload.cli.parse import run_command
from mlp_workload.errors import UserError
from twincheck import Comparison, Trace, compare, rename, uniform


@dataclass(frozen=True)
class Arguments:
    mistake: Mistake = "none"
    """Plants this mistake in the port."""


def recorded(side: str, folder: Path, mistake: Mistake) -> Trace:
    """What the program `side` records; where it ends badly, this one ends likewise."""
    trace, weights = folder / f"{side}.safetensors", folder / "weights.safetensors"
    files = ("--trace", str(trace), "--weights", str(weights), "--mistake", mistake)
    command = [sys.executable, "-m", f"{__package__}.{side}", *files]
    status = subprocess.run(command, process_group=0).returncode  # Ctrl-C ends this program, which ends that one
    if status < 0:
        raise UserError(f"{side} was ended by signal {-status}")
    if status:
        sys.exit(status)
    return Trace.load(trace)


def comparison(torch: Trace, flax: Trace) -> Comparison:
    torch = rename(torch, {**{name: name for name in torch.tensors}, **TORCH_ONLY})
    return compare(torch, rename(flax, FLAX), uniform("float64"))


def main(arguments: Arguments) -> bool:
    """Returns whether the models agree."""
    with TemporaryDirectory() as folder:
        torch, flax = (recorded(side, Path(folder), arguments.mistake) for side in ("torch_model", "flax_model"))
    found = comparison(torch, flax)
    if found.first is not None:
        print(f"torch and Flax differ first at {found.first}")
        return False
    print(f"torch and Flax agree in all {len(found.differences)} tensors")
    return True


if __name__ == "__main__":
    run_command(f"python -m {__package__}.compare_models", Arguments, main, description=__doc__)
