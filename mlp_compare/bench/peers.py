"""Other libraries with the same mathematics, for comparison: `pip install '.[bench]'`.

Each class has the part of `mlp_workload.interface.Trainer` that the benchmark needs, for plain SGD. `compile` converts
the images to normalised floats, as users of these libraries do, and `prepare` puts them in order.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.config import LEAKY_RELU_SLOPE, Config
from mlp_workload.data import Dataset
from mlp_workload.weights import Parameters


class _Peer:
    """Common part of the classes: their arguments, inputs and order."""

    device = "cpu"

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters) -> None:
        self._config, self._dataset, self._initial = config, dataset, initial

    def prepare(self, order: npt.NDArray[Any]) -> Any:
        return self._x[order], self._y[order]

    def compile(self) -> None:
        train, config = self._dataset.train, self._config
        self._x, self._y = train.images.reshape(len(train), -1).astype(config.dtype) / 255, train.labels
        self._x -= config.pixel_mean
        self._x /= config.pixel_std


class Keras(_Peer):
    """`model.fit` of Keras 3. The backend is set before Keras is imported, once per process."""

    backend = "jax"

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters) -> None:
        os.environ["KERAS_BACKEND"] = self.backend
        import keras

        super().__init__(config, dataset, initial)
        self.packages = ("keras", self.backend)
        keras.config.set_floatx(config.dtype)
        widths = config.widths(dataset.pixels, dataset.classes)
        layers: list[Any] = [keras.Input((widths[0],))]
        for width, activation in zip(widths[1:], config.activations(len(widths) - 1), strict=True):
            layers.append(keras.layers.Dense(width))
            if activation == "relu":
                layers.append(keras.layers.ReLU())
            elif activation == "leaky_relu":
                layers.append(keras.layers.LeakyReLU(negative_slope=LEAKY_RELU_SLOPE))
        self._model = keras.Sequential(layers)
        self._model.set_weights([array.T if array.ndim == 2 else array for array in initial.values()])
        self._model.compile(
            keras.optimizers.SGD(config.learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )

    def compile(self) -> None:
        """Makes Keras compile, which it does in the first step, by a step with a learning rate of 0."""
        super().compile()
        rate = self._model.optimizer.learning_rate
        value = float(rate)
        rate.assign(0.0)
        self.train_steps(self.prepare(np.arange(self._config.batch_size)))
        rate.assign(value)

    def train_steps(self, ordered: Any) -> None:
        self._model.fit(*ordered, batch_size=self._config.batch_size, shuffle=False, verbose=0)

    def state(self) -> Parameters:
        arrays = [array.T if array.ndim == 2 else array for array in self._model.get_weights()]
        return dict(zip(self._initial, arrays, strict=True))


class KerasTorch(Keras):
    backend = "torch"


class ScikitLearn(_Peer):
    """`MLPClassifier` of scikit-learn, with ReLU and no activation on the logits."""

    packages = ("scikit-learn",)

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters) -> None:
        from sklearn.neural_network import MLPClassifier

        super().__init__(config, dataset, initial)
        self._model = MLPClassifier(
            config.hidden,
            activation="relu",
            solver="sgd",
            alpha=0.0,
            batch_size=config.batch_size,
            learning_rate_init=config.learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
        )

    def compile(self) -> None:
        """Sets the weights after a first batch, because the model has none before it."""
        super().compile()
        first = self.prepare(np.arange(self._config.batch_size))
        self._model.partial_fit(*first, classes=np.arange(self._dataset.classes))
        for array, initial in zip(self._arrays(), self._initial.values(), strict=True):
            array[:] = initial

    def train_steps(self, ordered: Any) -> None:
        self._model.partial_fit(*ordered)

    def state(self) -> Parameters:
        return dict(zip(self._initial, self._arrays(), strict=True))

    def _arrays(self) -> list[npt.NDArray[np.floating[Any]]]:
        """Returns views of the model's parameters in the canonical layout."""
        pairs = zip(self._model.coefs_, self._model.intercepts_, strict=True)
        return [array for weight, bias in pairs for array in (weight.T, bias)]
