"""Kinds of models, inputs and outputs that a side of a pair can have: each works, or one line says what to write."""

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx

import twincheck as tc
from mlp_workload.errors import UserError
from tests.tolerances import FORWARD_BACKWARD, MODEL_FLOAT64

X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
IDS = np.array([[0, 2, 1], [2, 2, 0]])


def ones(outputs: list[Any]) -> list[Any]:
    return [np.ones(array.shape) for array in outputs]


def assert_runs(side: Any, expected: Any, *paths: str) -> None:
    """Asserts that a pass gives what the model itself gives, every gradient, and the calls of these modules."""
    pass_ = side.run("float32", None, ones)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(expected)]
    assert len(pass_.outputs) == len(leaves)
    for ours, theirs in zip(pass_.outputs, leaves, strict=True):
        FORWARD_BACKWARD["float32"].assert_close(ours, theirs)
    assert set(pass_.gradients) == side.trainable
    assert all(np.isfinite(gradient).all() for gradient in pass_.gradients.values())
    calls = {str(call): call for call in pass_.calls}
    for path in paths:
        assert calls[path].inputs, path
        assert calls[path].outputs, path
        if calls[path].inputs[0].dtype == np.float32:
            assert calls[path].input_gradients, path
            assert calls[path].output_gradients, path


class Pair(NamedTuple):
    first: Any
    second: Any


@flax.struct.dataclass
class Output:
    logits: Any
    hidden: Any = None


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + jnp.tanh(self.dense(x))


class NnxStack(nnx.Module):
    """Three layers in one module, a leading axis of its parameters, with or without remat."""

    def __init__(self, *, remat: bool = False) -> None:
        self.layers = nnx.vmap(NnxBlock)(nnx.Rngs(0).split(3))
        self.remat = remat

    def __call__(self, x: Any) -> Any:
        def layer(x: Any, block: NnxBlock) -> Any:
            return block(x)

        body = nnx.remat(layer) if self.remat else layer
        return nnx.scan(body, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


class NnxModel(nnx.Module):
    """A model whose call is handed in."""

    def __init__(self, run: Any, **modules: Any) -> None:
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(self, *inputs, **keywords)


def dense() -> nnx.Linear:
    return nnx.Linear(4, 4, rngs=rngs())


def masked(model: Any, x: Any, mask: Any = None, scale: float = 1.0) -> Any:
    return model.a(x) * scale if mask is None else jnp.where(mask, model.a(x), 0.0)


def gru(cell: Any = nnx.GRUCell) -> nnx.RNN:
    return nnx.RNN(cell(4, 4, rngs=rngs()))


NNX: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "one array": (dense(), X, ("the model",)),
    "a tuple": (NnxModel(masked, a=dense()), (X, X > 0), ("a", "the model")),
    "keyword arguments": (NnxModel(masked, a=dense()), {"x": X, "mask": X > 0}, ("a",)),
    "None and a number": (NnxModel(masked, a=dense()), {"x": X, "mask": None, "scale": 2.0}, ("a",)),
    "integers": (nnx.Embed(3, 4, rngs=rngs()), IDS, ("the model",)),
    "a dict returned": (NnxModel(lambda m, x: {"y": m.a(x), "n": None}, a=dense()), X, ("a",)),
    "a tuple returned": (NnxModel(lambda m, x: (m.a(x), (x, None)), a=dense()), X, ("a",)),
    "a named tuple returned": (NnxModel(lambda m, x: Pair(m.a(x), x), a=dense()), X, ("a",)),
    "a dataclass returned": (NnxModel(lambda m, x: Output(m.a(x)), a=dense()), X, ("a",)),
    "integers returned": (NnxModel(lambda m, x: (m.a(x), m.a(x).argmax(-1)), a=dense()), X, ("a",)),
    "bfloat16 weights": (nnx.Linear(4, 4, param_dtype=jnp.bfloat16, dtype=jnp.float32, rngs=rngs()), X, ("the model",)),
    "layers under scan": (NnxStack(), X, ("layers.0", "layers.1.dense", "layers.2.dense")),
    "layers under scan and remat": (NnxStack(remat=True), X, ("layers.0", "layers.2.dense")),
    "remat": (NnxModel(lambda m, x: nnx.remat(lambda b, x: b(x))(m.b, x), b=NnxBlock(rngs())), X, ("b", "b.dense")),
    "jit": (NnxModel(lambda m, x: nnx.jit(lambda b, x: b(x))(m.b, x), b=NnxBlock(rngs())), X, ("b", "b.dense")),
    "vmap": (NnxModel(lambda m, x: jax.vmap(m.b)(x), b=NnxBlock(rngs())), X, ("b", "b.dense")),
    "rnn": (NnxModel(lambda m, x: m.r(x[None]), r=gru()), X, ("r", "r.cell", "r.cell (call 4)")),
    "both directions": (
        NnxModel(lambda m, x: m.r(x[None]), r=nnx.Bidirectional(gru(), gru())),
        X,
        ("r", "r.forward_rnn.cell", "r.backward_rnn.cell"),
    ),
    "batch norm": (nnx.BatchNorm(4, use_running_average=True, rngs=rngs()), X, ("the model",)),
    "dropout": (NnxModel(lambda m, x: m.d(m.a(x)), a=dense(), d=nnx.Dropout(0.0, rngs=rngs())), X, ("a", "d")),
}


@pytest.mark.parametrize("kind", NNX)
def test_nnx(kind: str) -> None:
    model, inputs, paths = NNX[kind]
    if isinstance(inputs, dict):
        expected = model(**inputs)
    else:
        expected = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    assert_runs(tc.nnx(model, inputs), expected, *paths)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        return x + linen.tanh(linen.Dense(4)(x)), None


class LinenStack(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        axes: dict[str, Any] = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = linen.scan(LinenBlock, length=3, **axes)(name="layers")(x, None)
        return linen.remat(linen.Dense)(4, name="out")(x)


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        x = linen.BatchNorm(use_running_average=not train, name="norm")(linen.Dense(4, name="dense")(x))
        return linen.Dropout(0.5, deterministic=not train)(x)


LINEN: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "one array": (linen.Dense(3), (X,), ("the model",)),
    "integers": (linen.Embed(3, 4), (IDS,), ("the model",)),
    "batch norm and dropout": (LinenNorm(), (X,), ("dense", "norm")),
    "layers under scan, remat": (LinenStack(), (X,), ("layers.0.Dense_0", "layers.2.Dense_0", "out")),
    "rnn": (linen.RNN(linen.GRUCell(4)), (X[None],), ("the model", "cell", "cell (call 4)")),
    "partitioned": (linen.Dense(3, kernel_init=linen.with_partitioning(linen.initializers.ones, (None,))), (X,), ()),
}


@pytest.mark.parametrize("kind", LINEN)
def test_linen(kind: str) -> None:
    module, inputs, paths = LINEN[kind]
    variables = module.init(jax.random.key(0), *inputs)
    assert_runs(tc.linen(module, variables, inputs), module.apply(variables, *inputs), *paths)


def test_linen_bound_frozen_and_by_keyword() -> None:
    module = LinenNorm()
    variables = module.init(jax.random.key(0), X)
    expected = module.apply(variables, X)
    assert_runs(tc.linen(module.bind(variables), inputs=X), expected, "norm")
    assert_runs(tc.linen(module, flax.core.freeze(variables), {"x": X, "train": False}), expected, "norm")
    assert_runs(tc.linen(module, variables, X, call=lambda m, x: {"y": m(x)}), expected, "norm")


def test_function_with_sown_values() -> None:
    params = {"a": {"w": jnp.ones((4, 3))}, "b": [jnp.zeros(3)]}

    def model(params: Any, x: Any) -> Any:
        return jnp.tanh(tc.sow("hidden", x @ params["a"]["w"])) + params["b"][0][None]

    side = tc.function(model, params, X)
    assert_runs(side, model(params, X))
    [call] = side.run("float32", None, ones).calls
    assert str(call) == "hidden"
    assert call.output_gradients[0].shape == (5, 3)
    assert set(side.parameters) == {"a.w", "b.0"}


class Sown(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return tc.sow("end", torch.tanh(self.a(x)) * 2)


@pytest.mark.parametrize(("factor", "out"), [(2.0, []), (3.0, ["end"])])
def test_sown_values_are_compared(factor: float, out: list[str]) -> None:
    def model(params: Any, x: Any) -> Any:
        a = tc.sow("a", x @ params["kernel"] + params["bias"][None])
        return tc.sow("end", jnp.tanh(a) * factor) * 1.0

    params = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
    report = tc.pair(tc.torch(Sown(), X), tc.function(model, params, X)).check()
    assert [place.after for place in report.out if place.kind == "module"] == out


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return x + torch.tanh(self.dense(x))


def test_a_stack_pairs_with_layers() -> None:
    """The right weights reach the right layers, and all places agree."""
    pair = tc.pair(tc.torch(torch.nn.Sequential(*[TorchBlock() for _ in range(3)]), X), tc.nnx(NnxStack(), X))
    report = pair.check()
    assert [link.torch[0].call.path for link in report.pairing.links] == ["0.dense", "1.dense", "2.dense"]
    assert report.same, report


@dataclass
class TorchOutput:
    logits: Any
    hidden: Any = None


class Returning(torch.nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.dense, self.run = torch.nn.Linear(4, 4), run

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.run(self.dense, *inputs, **keywords)


def frozen() -> torch.nn.Module:
    return torch.nn.Linear(4, 4).requires_grad_(False)


def partly_compiled() -> torch.nn.Module:
    return torch.nn.Sequential(torch.compile(torch.nn.Linear(4, 4)), torch.nn.ReLU(inplace=True))


TORCH: dict[str, tuple[Any, Any, int]] = {
    "one array": (TorchBlock, X, 1),
    "a tensor": (TorchBlock, torch.tensor(X), 1),
    "compiled": (lambda: torch.compile(TorchBlock()), X, 1),
    "partly compiled": (partly_compiled, X, 1),
    "bfloat16": (lambda: TorchBlock().bfloat16(), torch.tensor(X, dtype=torch.bfloat16), 1),
    "frozen": (frozen, X, 1),
    "no gradient": (lambda: Returning(torch.no_grad()(lambda m, x: m(x))), X, 1),
    "keywords": (lambda: Returning(lambda m, *, x, mask: m(x) * mask), {"x": X, "mask": X > 0}, 1),
    "None": (lambda: Returning(lambda m, x, mask: m(x)), (X, None), 1),
    "a dict": (lambda: Returning(lambda m, x: {"y": m(x), "n": None, "i": m(x).argmax(-1)}), X, 2),
    "a dataclass": (lambda: Returning(lambda m, x: TorchOutput(m(x), (x, x))), X, 3),
    "integers": (lambda: torch.nn.Embedding(3, 4), IDS, 1),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize("kind", TORCH)
def test_torch(kind: str) -> None:
    make, inputs, outputs = TORCH[kind]
    model = make()
    expected = expected_of(model, inputs)
    side = tc.torch(model, inputs)
    found = side.run("float64").outputs
    assert len(found) == len(expected) == outputs
    pass_ = side.run("float64", None, ones)
    assert pass_.calls[0].inputs
    for arrays in (found, pass_.outputs):
        for ours, theirs in zip(arrays, expected, strict=True):
            MODEL_FLOAT64.assert_close(ours, theirs)
    assert any(gradient.any() for gradient in pass_.gradients.values()) == (kind != "no gradient")
    assert all(np.isfinite(gradient).all() for gradient in pass_.gradients.values())


def expected_of(model: torch.nn.Module, inputs: Any) -> list[Any]:
    """Returns what the model itself gives out in float64, run without a side."""

    def wide(value: Any) -> Any:
        tensor = torch.as_tensor(value) if value is not None else None
        return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor

    model = copy.deepcopy(model).double().eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        if isinstance(inputs, dict):
            output = model(**{name: wide(value) for name, value in inputs.items()})
        else:
            output = model(*map(wide, inputs if isinstance(inputs, tuple) else (inputs,)))
    if isinstance(output, TorchOutput):
        output = (output.logits, output.hidden)
    if isinstance(output, dict):
        output = tuple(output.values())  # in their own order, which jax.tree would sort
    return [tensor.numpy() for tensor in jax.tree.leaves(output)]


def bound() -> Any:
    return linen.Dense(3).bind({"params": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}})


def meta() -> torch.nn.Module:
    with torch.device("meta"):
        return torch.nn.Linear(4, 4)


def lazy() -> torch.nn.Module:
    return torch.nn.LazyLinear(4)


BAD: dict[str, tuple[Any, str]] = {
    "torch class": (lambda: tc.torch(TorchBlock, X), r"instance, torch\(TorchBlock\(\.\.\.\)"),
    "not a module": (lambda: tc.torch(np.tanh, X), r"torch\.nn\.Module, not ufunc"),
    "meta": (lambda: tc.torch(meta(), X), "weight is on the meta device"),
    "lazy": (lambda: tc.torch(lazy(), X), "weight has no shape yet: run the model on its inputs once"),
    "torch shapes": (lambda: tc.torch(TorchBlock(), X.T).run(), "torch model failed on its inputs: RuntimeError: mat1"),
    "torch keyword": (lambda: tc.torch(TorchBlock(), {"y": X}).run(), "TypeError: .*unexpected keyword argument 'y'"),
    "torch nothing": (lambda: tc.torch(Returning(lambda m, x: None), X).run(), "returned NoneType: let call= return"),
    "nnx class": (lambda: tc.nnx(NnxBlock, X), r"instance, nnx\(NnxBlock\(\.\.\., rngs=nnx\.Rngs\(0\)\)"),
    "linen as nnx": (lambda: tc.nnx(linen.Dense(3), X), r"an nnx\.Module, not Dense"),
    "nnx shapes": (lambda: tc.nnx(dense(), X.T).run(), "flax.nnx model failed on its inputs: TypeError: dot_general"),
    "nnx arguments": (lambda: tc.nnx(dense(), (X, X)).run(), "TypeError: .*inputs= takes one array, a tuple"),
    "nnx call": (lambda: tc.nnx(dense(), X, call=lambda m: m(X)).run(), "TypeError: .*call=lambda model, x"),
    "nnx nothing": (lambda: tc.nnx(NnxModel(lambda m, x: "text", a=dense()), X).run(), "returned str: let call="),
    "linen class": (lambda: tc.linen(LinenNorm, {}, X), r"instance and its variables, linen\(LinenNorm"),
    "nnx as linen": (lambda: tc.linen(dense(), {}, X), r"flax\.linen\.Module, not Linear"),
    "no variables": (lambda: tc.linen(linen.Dense(3), inputs=X), "needs the variables of a module that isn't bound"),
    "bare params": (lambda: tc.linen(linen.Dense(3), {"kernel": X}, X), r'\{"params": params\}, not a dict of kernel'),
    "variables no mapping": (lambda: tc.linen(linen.Dense(3), X, X), "not a ndarray"),
    "no inputs": (lambda: tc.linen(bound()), r"needs the model's inputs: linen\(\.\.\., inputs=x\)"),
    "linen shapes": (lambda: tc.linen(bound(), inputs=X.T).run(), "flax.linen model failed on its inputs: ScopeParam"),
    "no function": (lambda: tc.function(X, {}, X), r"a function of \(params, inputs\), not ndarray"),
    "no params": (lambda: tc.function(lambda p, x: x, "params", X), "a pytree of arrays, not str"),
    "function fails": (lambda: tc.function(lambda p, x: p["b"], {"a": X}, X).run(), "function model failed.*KeyError"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_one_line_says_what_to_write(kind: str) -> None:
    make, message = BAD[kind]
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
