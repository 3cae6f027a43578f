"""Each patch turns the wrong model of its pair into the right one, and leaves nothing behind."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from jax.nn import gelu
from planted_nets import JaxNet, Pair, channels_last, load, modules, to_jax
from planted_pairs import HYPOTHESIS_PAIRS
from tolerances import FORWARD_BACKWARD, PATCHED

from twincheck.causes import evidence, precision, recurrent
from twincheck.causes.replace import calls_of
from twincheck.causes.settings import SETTINGS
from twincheck.causes.table import BY_NAME, CAUSES, HYPOTHESES
from twincheck.diagnosis import TIED

TESTED_APART = {"matmul-precision"}
"""It makes no difference on a CPU."""


def built(pair: Pair) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    model, inputs = pair.torch()
    if pair.float64:
        model = model.double()
    return model, inputs


def loaded(pair: Pair, model: torch.nn.Module, net: nnx.Module) -> nnx.Module:
    if pair.float64:
        nnx.update(net, jax.tree.map(lambda a: a.astype(jnp.float64), nnx.state(net, nnx.Param)))
        for module in modules(net):
            if hasattr(module, "dtype"):
                object.__setattr__(module, "dtype", jnp.float64)
    load(model, net)
    return net


def apart(ours: jax.Array, theirs: torch.Tensor) -> float:
    a, b = np.asarray(ours, np.float64), channels_last(theirs).astype(np.float64)
    if a.shape != b.shape or np.isnan(a).any():
        return np.inf
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.long("compiles two models for each cause")
@pytest.mark.parametrize("pair", HYPOTHESIS_PAIRS, ids=lambda pair: pair.cause)
def test_the_patch_turns_wrong_into_right(pair: Pair) -> None:
    model, inputs = built(pair)
    with torch.no_grad():
        theirs = model(*inputs)
    xs = to_jax(inputs)
    right, wrong = (loaded(pair, model, net) for net in (pair.right(), pair.wrong()))
    patch = BY_NAME[pair.cause].patch
    assert patch is not None
    agrees = PATCHED["float64" if pair.float64 else "float32"]
    differs = 5 * agrees

    assert apart(right(*xs), theirs) < agrees
    before = apart(wrong(*xs), theirs)
    assert before > differs

    load(model, wrong)  # training mode has changed the running statistics
    with patch(modules(wrong)) as patched:
        assert apart(wrong(*xs), theirs) < agrees
    assert patched.used > 0
    if pair.cause == "dropout-on":  # draws anew
        assert apart(wrong(*xs), theirs) > differs
    else:
        np.testing.assert_equal(apart(wrong(*xs), theirs), before)


def test_every_patch_has_a_pair() -> None:
    assert {pair.cause for pair in HYPOTHESIS_PAIRS} | TESTED_APART == {cause.name for cause in HYPOTHESES}


def test_matmul_precision() -> None:
    layer, x = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 2))
    patch = BY_NAME["matmul-precision"].patch
    assert patch is not None
    assert "HIGHEST" not in str(jax.make_jaxpr(lambda x: layer(x) @ jnp.ones((3, 1)))(x))
    with patch([layer]) as patched:
        assert str(jax.make_jaxpr(lambda x: layer(x) @ jnp.ones((3, 1)))(x)).count("HIGHEST") == 4
    assert patched.used == 1


def mlp(x: jax.Array, act: Any = gelu) -> jax.Array:
    return act(x)


def with_keyword(x: jax.Array, *, act: Any = jax.nn.gelu) -> jax.Array:
    return act(x)


def closed(act: Any) -> Any:
    return lambda x: act(x)


TABLE = {"gelu": jax.nn.gelu, "partial": functools.partial(jax.nn.gelu, approximate=True)}
LIST = [jax.nn.gelu]
PAIR_OF_FUNCTIONS = (jax.nn.gelu, jax.nn.relu)
MADE = closed(jax.nn.gelu)


class Holds(nnx.Module):
    """Holds an activation in each way that a model can."""

    fixed = staticmethod(jax.nn.gelu)

    def __init__(self) -> None:
        self.own = jax.nn.gelu
        self.items = nnx.List([jax.nn.gelu])
        self.table = nnx.static({"a": jax.nn.gelu})
        self.pair = (jax.nn.gelu, 1)
        self.sequential = nnx.Sequential(jax.nn.gelu)


HOLDS = Holds()
WAYS = {
    "attribute of jax.nn": lambda x: jax.nn.gelu(x),
    "attribute of nnx": lambda x: nnx.gelu(x),
    "attribute of linen": lambda x: linen.gelu(x),
    "imported name": lambda x: gelu(x),
    "default argument": lambda x: mlp(x),
    "keyword default": lambda x: with_keyword(x),
    "closure": lambda x: MADE(x),
    "dict": lambda x: TABLE["gelu"](x),
    "partial": lambda x: TABLE["partial"](x),
    "list": lambda x: LIST[0](x),
    "tuple": lambda x: PAIR_OF_FUNCTIONS[0](x),
    "module's attribute": lambda x: HOLDS.own(x),
    "module's list": lambda x: HOLDS.items[0](x),
    "module's dict": lambda x: HOLDS.table["a"](x),
    "module's tuple": lambda x: HOLDS.pair[0](x),
    "Sequential": lambda x: HOLDS.sequential(x),
    "static method": lambda x: HOLDS.fixed(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_function_is_found_wherever_it_is_held(way: str) -> None:
    x = jnp.linspace(-3.0, 3.0, 31)
    exact = jax.nn.gelu(x, approximate=False)
    before = WAYS[way](x)
    patch = BY_NAME["gelu-tanh"].patch
    assert patch is not None
    with patch(modules(HOLDS)) as patched:
        np.testing.assert_array_equal(WAYS[way](x), exact)
        assert patched.used == 1
    np.testing.assert_array_equal(WAYS[way](x), before)
    assert np.abs(before - exact).max() > 1e-4


class LinenBlock(linen.Module):
    """A frozen dataclass with an activation as its field."""

    act: Any = jax.nn.gelu

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.LayerNorm()(self.act(linen.Dense(4)(x) * 3) * 1e-2)


def test_linen() -> None:
    block, x = LinenBlock(), jnp.ones((2, 3)) * jnp.asarray([[1.0], [2.0]])
    variables = block.init(jax.random.key(0), x)
    wrong = block.apply(variables, x)
    right = LinenBlock(act=functools.partial(jax.nn.gelu, approximate=False)).apply(variables, x)
    for name in ("gelu-tanh", "norm-epsilon"):
        patch = BY_NAME[name].patch
        assert patch is not None
        with patch([block]) as patched:
            changed = block.apply(variables, x)
        assert patched.used == 1
        assert np.abs(changed - wrong).max() > 1e-7
        if name == "gelu-tanh":
            np.testing.assert_array_equal(changed, right)
        np.testing.assert_array_equal(block.apply(variables, x), wrong)


@pytest.mark.parametrize("cause", HYPOTHESES, ids=lambda cause: cause.name)
def test_a_patch_that_touches_nothing_says_so(cause: Any) -> None:
    with cause.patch(modules(HOLDS)) as patched:
        jnp.ones((2, 2)) + 1
    assert patched.used == 0


def test_a_function_that_is_called_is_known_by_all_its_names() -> None:
    names = {"flax.linen.max_pool", "flax.nnx.max_pool", "flax.nnx.avg_pool", "jax.Array.astype"}
    called = set[str]()
    with calls_of(names, called)(modules(HOLDS)):
        nnx.max_pool(jnp.ones((1, 4, 4, 1)), (2, 2)).astype(jnp.float16)
    assert called == {"flax.linen.max_pool", "flax.nnx.max_pool", "jax.Array.astype"}


def test_a_patch_is_undone_after_an_error() -> None:
    original = jax.nn.gelu
    patch = BY_NAME["gelu-tanh"].patch
    assert patch is not None

    def fail() -> None:
        with patch([HOLDS]):
            assert jax.nn.gelu is not original
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert jax.nn.gelu is original
    assert HOLDS.own is original
    assert gelu is original


def test_every_cause_can_be_found() -> None:
    found = {setting.cause for setting in SETTINGS} | evidence.CAUSES | recurrent.CAUSES | {TIED}
    found |= {"batch-norm-running-variance"}  # in training
    assert set(BY_NAME) == found | {cause.name for cause in HYPOTHESES}


def test_the_table() -> None:
    assert len({cause.name for cause in CAUSES}) == len(CAUSES) >= 40
    for cause in CAUSES:
        assert cause.says.endswith(".")
        assert len(cause.says.split()) <= 30, cause.name
        assert cause.fix
        assert cause.torch_reference.startswith("https://docs.pytorch.org/")
        assert cause.jax_reference.startswith("https://")


def test_a_net_is_what_it_says() -> None:
    net = JaxNet(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), lambda net, x: x * 2, nnx.Linear(3, 2, rngs=nnx.Rngs(1)))
    x = jnp.ones((1, 2))
    np.testing.assert_array_equal(net(x), net.after(net.between(x)))


def test_smoothed_labels_are_torchs() -> None:
    logits, labels = np.random.default_rng(0).standard_normal((5, 4)), np.array([0, 3, 1, 2, 3])
    with precision.label_smoothing(0.1)([]):
        ours = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), jnp.asarray(labels))
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=0.1
    )
    FORWARD_BACKWARD["float32"].assert_close(ours, theirs)
