"""Equinox and Haiku models as sides of a pair, and the Flax models of `transformers`."""

import importlib
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import twincheck as tc
from mlp_workload.errors import UserError
from tests.tolerances import FORWARD_BACKWARD

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
KEY = jax.random.key(0)


def ones(outputs: list[Any]) -> list[Any]:
    return [np.ones(array.shape) for array in outputs]


def assert_runs(side: Any, expected: Any, *paths: str) -> None:
    """Asserts that a pass gives what the model itself gives, every gradient, and the calls of these modules."""
    pass_ = side.run("float32", None, ones)
    FORWARD_BACKWARD["float32"].assert_close(pass_.outputs[0], expected)
    assert set(pass_.gradients) == side.trainable
    assert all(np.isfinite(gradient).all() for gradient in pass_.gradients.values())
    calls = {str(call): call for call in pass_.calls}
    for path in paths:
        assert calls[path].input_gradients, path
        assert calls[path].output_gradients, path


class Block(eqx.Module):
    norm: eqx.nn.LayerNorm
    dense: eqx.nn.Linear

    def __init__(self, key: Any) -> None:
        self.norm, self.dense = eqx.nn.LayerNorm(4), eqx.nn.Linear(4, 4, key=key)

    def __call__(self, x: Any) -> Any:
        return x + jnp.tanh(self.dense(self.norm(x)))


class Stack(eqx.Module):
    layers: Block

    def __init__(self, key: Any) -> None:
        self.layers = eqx.filter_vmap(Block)(jax.random.split(key, 3))

    def __call__(self, x: Any) -> Any:
        arrays, rest = eqx.partition(self.layers, eqx.is_array)
        return jax.lax.scan(lambda x, layer: (eqx.combine(layer, rest)(x), None), x, arrays)[0]


class Stateful(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, mode: Any) -> None:
        self.dense, self.norm = eqx.nn.Linear(4, 4, key=KEY), eqx.nn.BatchNorm(4, "batch", mode=mode)

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.dense(x), state)


def test_equinox() -> None:
    block = Block(KEY)
    expected = jax.vmap(block)(X)
    assert_runs(tc.equinox(block, X), expected, "the model", "norm", "dense")
    assert_runs(tc.equinox(block, X, call=lambda m, x: jax.vmap(m)(x)), expected, "norm", "dense")
    assert_runs(tc.equinox(block, X, call=lambda m, x: eqx.filter_vmap(eqx.filter_checkpoint(m))(x)), expected, "dense")
    jitted = eqx.filter_jit(lambda m, x: jax.vmap(m)(x))
    assert_runs(tc.equinox(block, X, call=jitted), expected, "norm", "dense")


def test_equinox_layers_under_scan() -> None:
    stack = Stack(KEY)
    expected = jax.vmap(stack)(X.astype(np.float64))
    assert_runs(tc.equinox(stack, X), expected, "layers.0", "layers.2.norm", "layers.2.dense")


def test_equinox_inference_mode() -> None:
    model = eqx.nn.Sequential([eqx.nn.Linear(4, 4, key=KEY), eqx.nn.Dropout(0.5), eqx.nn.Lambda(jnp.tanh)])
    expected = jax.vmap(eqx.nn.inference_mode(model))(X)
    assert_runs(tc.equinox(model, X), expected, "layers.0", "layers.1", "layers.2")


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_equinox_state_pairs_with_torch(mode: str) -> None:
    reference = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4, momentum=0.5))
    reference(torch.tensor(X))
    model = eqx.nn.make_with_state(Stateful)(mode)
    pair = tc.pair(tc.torch(reference, X), tc.equinox(model, X))
    assert {"norm.mean", "norm.var"} <= {weight.jax for weight in pair.weights}
    assert pair.check().same


def haiku_model(x: Any, train: bool) -> Any:
    x = hk.nets.MLP([8, 4], activation=jnp.tanh)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, train)
    return hk.experimental.layer_stack(3)(lambda x: jnp.tanh(hk.Linear(4)(x)))(x)


def test_haiku_with_state() -> None:
    model = hk.transform_with_state(haiku_model)
    params, state = model.init(KEY, X, True)
    expected, _ = model.apply(params, state, None, X, False)
    side = tc.haiku(model, params, {"x": X, "train": False}, state)
    assert_runs(side, expected, "mlp", "mlp.linear_1", "batch_norm", "__layer_stack_no_per_layer.linear.2")
    assert {"batch_norm.mean", "batch_norm.var"} <= set(side.parameters)


def test_haiku_without_state() -> None:
    for model in (
        hk.transform(lambda x: hk.Linear(3)(x)),
        hk.without_apply_rng(hk.transform(lambda x: hk.Linear(3)(x))),
    ):
        params = model.init(KEY, X)
        assert_runs(tc.haiku(model, params, X), X @ params["linear"]["w"], "linear")


def test_haiku_recurrence() -> None:
    def run(x: Any) -> Any:
        core = hk.GRU(4)
        return hk.dynamic_unroll(core, x, core.initial_state(None))[0]

    model = hk.transform(run)
    params = model.init(KEY, X)
    assert_runs(tc.haiku(model, params, X), model.apply(params, None, X), "gru", "gru (call 4)")


def test_transformers() -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.FlaxBertModel(config, input_shape=(1, 3))
    ids = np.array([[1, 2, 3]])
    side = tc.linen(model, inputs={"input_ids": ids})
    path = "encoder.layer.0.attention.self.query"
    assert_runs(side, model(input_ids=ids).last_hidden_state, path, "encoder.layer.0.output.LayerNorm")
    assert f"{path}.kernel" in side.parameters


TRANSFORMED = hk.transform(lambda x: hk.Linear(3)(x))
TRANSFORMED_WITH_STATE = hk.transform_with_state(lambda x: hk.Linear(3)(x))
BAD: dict[str, tuple[Any, str]] = {
    "equinox class": (lambda: tc.equinox(Block, X), r"an instance, equinox\(Block\(\.\.\.\)"),
    "equinox function": (lambda: tc.equinox(jnp.tanh, X), r"an eqx\.Module, or \(model, state\), not "),
    "equinox without state": (
        lambda: tc.equinox(Stateful("ema"), X),
        "has state: give both, as eqx",
    ),
    "equinox shapes": (lambda: tc.equinox(Block(KEY), X.T).run(), "the equinox model failed on its inputs: "),
    "haiku function": (lambda: tc.haiku(haiku_model, {}, X), r"what hk\.transform\(f\) returns, not function"),
    "haiku params": (lambda: tc.haiku(TRANSFORMED, X, X), r"haiku's params must map modules .*, not ndarray"),
    "haiku flat params": (lambda: tc.haiku(TRANSFORMED, {"w": X}, X), "haiku's params must map modules to arrays"),
    "haiku without state": (lambda: tc.haiku(TRANSFORMED_WITH_STATE, {}, X), "needs the state of an hk.transform_with"),
    "haiku other params": (lambda: tc.haiku(TRANSFORMED, {"a": {"w": X}}, X).run(), "haiku model failed.*ValueError"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_line_says_what_to_write(kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


class TorchNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))  # type: ignore[no-any-return]


def trained(jax_side: Any) -> Any:
    def loss(output: Any, targets: Any) -> Any:
        return ((output - targets) ** 2).mean()

    torch.manual_seed(0)
    return tc.train(
        tc.pair(tc.torch(TorchNorm(), X, train=True), jax_side),
        [(X, X[:, :3]), (2 * X + 1, X[:, :3])],
        4,
        torch_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        optax=optax.sgd(0.1),
        torch_loss=loss,
        jax_loss=loss,
    )


class EquinoxNorm(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, momentum: float) -> None:
        self.linear = eqx.nn.Linear(4, 3, key=KEY)
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch", momentum=momentum)

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(self.linear(x), state)


def equinox_norm(momentum: float, call: Any = None) -> Any:
    return tc.equinox(eqx.nn.make_with_state(EquinoxNorm)(momentum), X, call, train=True)


def haiku_norm(momentum: float) -> Any:
    def model(x: Any) -> Any:
        return hk.BatchNorm(True, True, momentum, name="norm")(hk.Linear(3, name="linear")(x), is_training=True)

    transformed = hk.transform_with_state(model)
    params, state = transformed.init(KEY, X)
    return tc.haiku(transformed, params, X, state)


def batched(both: Any, x: Any) -> Any:
    model, state = both
    return jax.vmap(lambda x: model(x, state), out_axes=(0, None), axis_name="batch")(x)


@pytest.mark.parametrize("side", [equinox_norm, haiku_norm, lambda momentum: equinox_norm(momentum, batched)])
def test_running_statistics_are_compared_in_training(side: Any) -> None:
    result = trained(side(0.9))
    assert [finding.name for finding in result.findings] == ["batch-norm-running-variance"], str(result)
    result = trained(side(0.8))
    assert [finding.name for finding in result.findings] == ["batch-norm-momentum", "batch-norm-running-variance"], str(
        result
    )


def test_running_statistics_that_are_not_compared_are_named() -> None:
    result = trained(equinox_norm(0.9, lambda both, x: batched(both, x)[0]))
    assert "running statistics of equinox are not compared: norm.mean, norm.var" in result.notes


IMAGES = np.random.default_rng(0).standard_normal((1, 4, 5, 5)).astype(np.float32)


def equinox_enlarging(channels: int) -> Any:
    layers = [
        eqx.nn.ConvTranspose2d(4, channels, 4, stride=2, padding=1, key=KEY),
        eqx.nn.Conv2d(channels, 2, 1, key=KEY),
    ]
    return tc.equinox(eqx.nn.Sequential(layers), IMAGES)


def haiku_enlarging(channels: int) -> Any:
    def enlarge(x: Any) -> Any:
        return hk.Conv2D(2, 1)(hk.Conv2DTranspose(channels, 4, stride=2, padding=((2, 2), (2, 2)))(x))

    transformed, x = hk.without_apply_rng(hk.transform(enlarge)), IMAGES.transpose(0, 2, 3, 1)
    return tc.haiku(transformed, transformed.init(KEY, x), x)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("port", [equinox_enlarging, haiku_enlarging])
def test_a_transposed_convolution_has_its_kernel_mirrored(port: Any, channels: int) -> None:
    torch.manual_seed(0)
    original = torch.nn.Sequential(
        torch.nn.ConvTranspose2d(4, channels, 4, stride=2, padding=1), torch.nn.Conv2d(channels, 2, 1)
    )
    report = tc.pair(tc.torch(original, IMAGES), port(channels)).check()
    assert report.same, str(report)
