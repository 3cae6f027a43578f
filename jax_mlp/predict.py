"""Predicts the digits in images with a trained network in JAX: `python -m jax_mlp.predict --help`."""

from jax_mlp.startup import import_jax
from mlp_workload.environment.compile_cache import keep_compiled_programs
from mlp_workload.interface import Network
from mlp_workload.predict.command import run_predict
from mlp_workload.predict.trained import Trained


def load_network(trained: Trained) -> Network:
    """Imports JAX and returns the network. Wrong images are reported before this import."""
    import_jax()
    from jax_mlp.network import Network

    return Network(trained)


def main() -> None:
    keep_compiled_programs()
    run_predict("python -m jax_mlp.predict", load_network)


if __name__ == "__main__":
    main()
