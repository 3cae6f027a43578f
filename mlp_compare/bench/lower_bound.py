"""Lower bound of an epoch: the matrix products of its steps alone, by each library.

A step has three products per layer: forward, gradient of the weights, gradient of the inputs. The first layer needs no
gradient of its inputs. With 784-200-200-10 these are 879,200 floating-point operations per example, where a
multiplication and an addition count as two. The operands are made once and may stay in cache. A training step cannot
have that, so the bound is not a target.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.weights import Parameters

Array = npt.NDArray[np.floating[Any]]


class Layer(NamedTuple):
    """Operands of one layer: inputs (batch, fan_in), weights (fan_out, fan_in), output gradients (batch, fan_out)."""

    inputs: Array
    weights: Array
    gradients: Array


def operations(widths: Sequence[int], examples: int) -> int:
    """Returns the floating-point operations of the products for `examples` examples."""
    products = [2 * fan_in * fan_out for fan_in, fan_out in pairwise(widths)]
    return examples * (3 * sum(products) - products[0])


class NumPy:
    """Products of a step, with the part of a trainer that the benchmark needs; batches must divide the set."""

    packages: Sequence[str] = ("numpy",)
    _product: Any = staticmethod(np.matmul)

    def __init__(self, config: Config, dataset: Dataset, initial: Parameters | None) -> None:
        rng = np.random.default_rng(0)
        n = self._batch_size = config.batch_size

        def draw(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(config.dtype)

        widths = config.widths(dataset.pixels, dataset.classes)
        self._layers: Any = [Layer(draw(n, a), draw(b, a), draw(n, b)) for a, b in pairwise(widths)]
        self._out: Any = [(layer.gradients.copy(), layer.weights.copy(), layer.inputs.copy()) for layer in self._layers]
        self.device = self._load(config)

    def _load(self, config: Config) -> str:
        """Moves the operands to the device and returns its name."""
        return "cpu"

    def compile(self) -> None:
        """Does nothing: only JAX compiles."""

    def train_steps(self, order: npt.NDArray[np.int32]) -> None:
        for _ in range(len(order) // self._batch_size):
            for number, ((x, w, d), (outputs, dw, dx)) in enumerate(zip(self._layers, self._out, strict=True)):
                self._product(x, w.T, out=outputs)
                self._product(d.T, x, out=dw)
                if number:
                    self._product(d, w, out=dx)


class Torch(NumPy):
    packages = ("torch",)

    def _load(self, config: Config) -> str:
        import torch

        from reference_torch.device import device_name, find_device

        device, self._product = find_device(config), torch.mm
        self._layers, self._out = (
            [[torch.tensor(array, device=device) for array in arrays] for arrays in layers]
            for layers in (self._layers, self._out)
        )
        return device_name(device)

    def train_steps(self, order: npt.NDArray[np.int32]) -> None:
        import torch

        super().train_steps(order)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


class Jax(NumPy):
    """Products in one compiled loop.

    Each turn adds 0 times the results of the previous one to an operand; otherwise XLA would remove the loop.
    """

    packages = ("jax", "jaxlib")

    def _load(self, config: Config) -> str:
        import jax

        from jax_mlp.device import device_name, find_device, product_precision

        device, self._precision = find_device(config), product_precision(config)
        self._layers = jax.device_put(tuple(self._layers), device)
        assert self._layers[0].inputs.dtype == config.dtype, "JAX_ENABLE_X64 is for float64"
        return device_name(device)

    def compile(self) -> None:
        import jax

        self._epoch = jax.jit(jax_products, static_argnums=(1, 2))

    def train_steps(self, order: npt.NDArray[np.int32]) -> None:
        import jax

        jax.block_until_ready(self._epoch(self._layers, len(order) // self._batch_size, self._precision))


def jax_products(layers: Any, steps: int, precision: Any) -> Any:
    """Computes the products `steps` times and returns the operands, unchanged."""
    import jax
    from jax import lax

    def product(a: jax.Array, a_axis: int, b: jax.Array, b_axis: int) -> jax.Array:
        return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision)

    def step(layers: Any, _: Any) -> tuple[Any, None]:
        results = []
        for number, (x, w, d) in enumerate(layers):
            results += [product(x, 1, w, 1), product(d, 0, x, 0)]
            if number:
                results.append(product(d, 1, w, 0))
        zero = 0 * sum(result[0, 0] for result in lax.optimization_barrier(results))
        return jax.tree.map(lambda array: array.at[0, 0].add(zero), layers), None

    return lax.scan(step, layers, None, length=steps)[0]
