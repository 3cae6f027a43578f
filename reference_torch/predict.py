"""Takes images for digits, by a run's network in PyTorch: `python -m reference_torch.predict --help`."""

from mlp_workload.interface import Network
from mlp_workload.predict.command import run_predict
from mlp_workload.predict.trained import Trained


def load_network(trained: Trained) -> Network:
    """PyTorch, imported only now: a wrong image is answered before that."""
    from reference_torch.network import Network

    return Network(trained)


def main() -> None:
    run_predict("python -m reference_torch.predict", load_network)


if __name__ == "__main__":
    main()
