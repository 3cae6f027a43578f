"""Logits, losses and gradients of both frameworks against NumPy in float64, from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import FORWARD_BACKWARD

import jax_mlp.loss
import jax_mlp.model
import jax_mlp.weights
import reference_torch.loss
import reference_torch.model
import reference_torch.weights
from examples.numpy_side.mlp import forward_backward
from mlp_workload.config import PRESETS, Config
from mlp_workload.initial import initial_parameters

WIDTHS = (784, 200, 200, 10)


def jax_side(config: Config, parameters, x, labels):
    model = nnx.eval_shape(lambda: jax_mlp.model.build_model(config, WIDTHS))
    jax_mlp.weights.load_canonical(model, parameters)
    graph, params = nnx.split(model)

    def loss(params):
        logits = nnx.merge(graph, params)(jnp.asarray(x))
        return jax_mlp.loss.cross_entropy(logits, jnp.asarray(labels), config.label_smoothing).mean, logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), float(value), jax_mlp.weights.to_canonical(gradients)


def torch_side(config: Config, parameters, x, labels):
    model = reference_torch.model.build_model(config, WIDTHS)
    reference_torch.weights.load_canonical(model, parameters)
    logits = model(torch.tensor(x))
    loss = reference_torch.loss.cross_entropy(logits, torch.tensor(labels), config.label_smoothing).mean
    loss.backward()
    names = reference_torch.weights.to_canonical(model)
    gradients = {name: tensor.grad.numpy() for name, tensor in zip(names, model.parameters(), strict=True)}
    return logits.detach().numpy(), loss.item(), gradients


SIDES = {"jax": jax_side, "torch": torch_side}
side = pytest.mark.parametrize("side", SIDES)


@side
@pytest.mark.parametrize(
    ("preset", "last_activation", "dtype", "label_smoothing"),
    [
        ("relu", "same", "float64", 0.1),
        ("leaky", "same", "float32", 0.0),
        ("leaky", "none", "float64", 0.0),
        ("relu", "none", "float32", 0.1),
        ("relu", "same", "float64", 0.0),
        ("leaky", "none", "float32", 0.1),
    ],
)
def test_forward_and_backward_match_numpy(side, preset, last_activation, dtype, label_smoothing, mnist):
    values = PRESETS[preset].__dict__ | {
        "dtype": dtype, "last_activation": last_activation, "label_smoothing": label_smoothing
    }  # fmt: skip
    config = Config(**values)
    parameters = initial_parameters(config.initialization, WIDTHS, seed=7)
    x, labels = mnist.train.images[:50].reshape(50, 784) / 255, mnist.train.labels[:50].astype(np.int64)
    activations = [config.activation] * 2 + [config.logits_activation]
    expected = forward_backward(parameters, activations, x, labels, label_smoothing)
    logits, loss, gradients = SIDES[side](config, parameters, x.astype(dtype), labels)

    assert logits.shape == (50, 10)
    assert logits.dtype == dtype
    FORWARD_BACKWARD[dtype].assert_close(logits, expected["logits"])
    FORWARD_BACKWARD[dtype].assert_close(loss, expected["loss"])
    assert list(gradients) == list(parameters)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        FORWARD_BACKWARD[dtype].assert_close(gradient, expected[f"{name}.grad"])


@side
def test_relu_preset_with_the_last_bias_at_minus_100_learns_nothing(side, mnist):
    config = PRESETS["relu"]
    parameters = initial_parameters(config.initialization, WIDTHS, seed=0)
    parameters["layers.2.bias"] -= 100
    x, labels = mnist.train.images[:200].reshape(200, 784) / np.float32(255), mnist.train.labels[:200].astype(np.int64)
    logits, loss, gradients = SIDES[side](config, parameters, x, labels)
    assert (logits == 0).all()
    assert round(loss, 6) == 2.302585
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_at_exactly_zero_leaky_relu_has_torchs_slope():
    x = torch.zeros(1, requires_grad=True)
    torch.nn.functional.leaky_relu(x).backward()
    assert x.grad.item() == pytest.approx(0.01)
    assert jax.grad(jax_mlp.model.leaky_relu)(0.0) == 0.01
    assert jax.grad(jax.nn.leaky_relu)(0.0) == 1.0, "JAX has come round to torch's rule: leaky_relu can go"


def test_at_exactly_zero_relu_has_slope_zero_in_both():
    x = torch.zeros(1, requires_grad=True)
    torch.nn.functional.relu(x).backward()
    assert x.grad.item() == jax.grad(jax.nn.relu)(0.0) == 0


@pytest.mark.parametrize("hidden", [(), (5,), (3, 4, 5)])
def test_any_widths(hidden):
    for preset in PRESETS:
        config = Config(**PRESETS[preset].__dict__ | {"hidden": hidden})
        widths = config.widths(20, 7)
        logits = nnx.eval_shape(lambda c=config, w=widths: jax_mlp.model.build_model(c, w)(jnp.zeros((2, 20))))
        assert logits.shape == (2, 7)
        assert reference_torch.model.build_model(config, widths)(torch.zeros(2, 20)).shape == (2, 7)


def test_every_product_asks_for_ieee_precision():
    """Forward and backward: on recent GPUs JAX would take TF32, torch would not. A CPU's numbers can't show it."""
    model = nnx.eval_shape(lambda: jax_mlp.model.build_model(Config(), (20, 6, 6, 4)))
    graph, params = nnx.split(model)
    gradient = jax.grad(lambda params, x: nnx.merge(graph, params)(x).sum())
    text = str(jax.make_jaxpr(gradient)(params, jnp.zeros((2, 20), jnp.float32)))
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 8
    assert torch.get_float32_matmul_precision() == "highest"
