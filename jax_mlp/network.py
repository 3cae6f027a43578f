"""Prediction by a trained network in JAX."""

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from jax_mlp.device import find_device
from jax_mlp.model import Params, build_model
from jax_mlp.step import normalize
from jax_mlp.weights import from_canonical
from mlp_workload.interface import Prediction
from mlp_workload.predict.trained import Trained


class Network:
    """A trained network; see `mlp_workload.interface.Network`."""

    def __init__(self, trained: Trained) -> None:
        config = trained.on_cpu
        self._device, self._is_double = find_device(config), config.dtype == "float64"
        with jax.enable_x64(self._is_double), jax.default_device(self._device):
            graph, shapes = nnx.split(nnx.eval_shape(lambda: build_model(config, trained.widths)))
            self._params = jax.device_put(from_canonical(shapes, trained.parameters), self._device)

        def predict(params: Params, images: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
            model = nnx.merge(graph, params)
            *hidden, logits = [x for _, x in model.intermediates(normalize(config, images))][1::2]
            return jax.nn.softmax(logits), hidden

        self._predict = jax.jit(predict)

    def predict(self, images: npt.NDArray[np.uint8]) -> Prediction:
        with jax.enable_x64(self._is_double), jax.default_device(self._device):
            probabilities, activations = jax.device_get(self._predict(self._params, images.reshape(len(images), -1)))
        return Prediction(np.asarray(probabilities), tuple(map(np.asarray, activations)))
