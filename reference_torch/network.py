"""Prediction by a trained network in PyTorch."""

import numpy as np
import numpy.typing as npt
import torch

from mlp_workload.interface import Prediction
from mlp_workload.predict.trained import Trained
from reference_torch.device import find_device
from reference_torch.model import build_model
from reference_torch.step import normalize
from reference_torch.weights import load_canonical


class Network:
    """A trained network; see `mlp_workload.interface.Network`."""

    def __init__(self, trained: Trained) -> None:
        self._config = trained.on_cpu
        find_device(self._config)
        with torch.random.fork_rng(devices=[]):  # drawing initial weights leaves the caller's generator alone
            self._model = build_model(self._config, trained.widths)
        load_canonical(self._model, trained.parameters)

    @torch.no_grad()
    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        x = normalize(self._config, torch.tensor(images.reshape(len(images), -1)))
        *hidden, logits = [x for _, x in self._model.intermediates(x)][1::2]
        return Prediction(logits.softmax(dim=-1).numpy(), tuple(x.numpy() for x in hidden))
