"""Predicts the digits in images with a trained network in PyTorch: `python -m reference_torch.predict --help`."""

from mlp_workload.interface import Network
from mlp_workload.predict.command import run_predict
from mlp_workload.predict.trained import Trained


def load_network(trained: Trained) -> Network:
    """Imports PyTorch and returns the network. Wrong images are reported before this import."""
    from reference_torch.network import Network

    return Network(trained)


def main() -> None:
    run_predict("python -m reference_torch.predict", load_network)


if __name__ == "__main__":
    main()
