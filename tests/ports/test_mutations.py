"""Each mutation of `mutations.py` changes what its model computes, in the pass that it says."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from mutations import MUTATIONS, Mutation, Shows, make_pair

from examples.ports.pairs import JaxSide

Values = dict[str, np.ndarray]


@cache
def original(pair: str, kind: str) -> JaxSide:
    """Returns a side in float64 whose weights are not 0 or 1, so that each of them counts."""
    side = make_pair(pair, "float64").jax[kind]
    generator = np.random.default_rng(0)

    def moved(x: Any) -> Any:
        floating = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)
        return x + generator.normal(0, 0.1, x.shape) if floating else x

    if not isinstance(side.model, nnx.Module):
        return side._replace(model=jax.tree.map(moved, side.model))
    nnx.update(side.model, jax.tree.map(moved, nnx.state(side.model)))
    return side


def fresh(side: JaxSide) -> JaxSide:
    model = nnx.clone(side.model) if isinstance(side.model, nnx.Module) else jax.tree.map(lambda x: x, side.model)
    return side._replace(model=model)


def named(tree: Any) -> Values:
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def gradients(side: JaxSide) -> Values:
    """Returns the gradients of the output's sum of squares."""

    def loss(model: Any) -> jax.Array:
        return (side.call(model, *side.inputs) ** 2).sum()

    if isinstance(side.model, nnx.Module):
        return named(nnx.grad(loss)(side.model))
    module, variables = side.model
    return named(jax.grad(lambda variables: loss((module, variables)))(variables))


def computed(side: JaxSide, shows: Shows) -> Values:
    """Returns the output or, by the pass that shows the mutation, gradients or running statistics."""
    if shows == "backward":
        return gradients(side)
    if shows == "training":
        side.model.train()
    output = side.call(side.model, *side.inputs)
    return named(nnx.state(side.model, nnx.BatchStat)) if shows == "training" else {"output": np.asarray(output)}


@cache
def expected(pair: str, kind: str, shows: Shows) -> Values:
    return computed(fresh(original(pair, kind)), shows)


def mismatch(mutation: Mutation, shows: Shows) -> float:
    """Returns the largest difference, in the size of its array."""
    side = fresh(original(mutation.pair, mutation.kind))
    actual = computed(side._replace(model=mutation.plant(side.model)), shows)
    assert all(np.isfinite(x).all() for x in actual.values())
    right = expected(mutation.pair, mutation.kind, shows)
    return max(float(np.abs(actual[name] - x).max() / np.abs(x).max()) for name, x in right.items())


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_changes_what_the_model_computes(mutation: Mutation) -> None:
    assert mismatch(mutation, mutation.shows) > 1e-9  # rounding is near 1e-15
    if mutation.shows in ("backward", "training"):
        assert mismatch(mutation, "forward") == 0


def test_names_are_unique() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 60
