"""Names and layouts of one model's tensors, given to another's."""

import numpy as np
import pytest

from mlp_workload.errors import UserError
from twincheck.trace import Trace, rename

TRACE = Trace({"a": np.zeros((2, 3, 4)), "b": np.arange(6).reshape(2, 3), "c": np.ones(1)}, {"framework": "jax"})


def test_rename_gives_names_and_layouts_and_leaves_out_what_is_none():
    renamed = rename(TRACE, {"c": None, "b": ("a", (1, 0)), "a": "b"})
    assert list(renamed.tensors) == ["b", "a"], "in the order of the trace"
    assert renamed.tensors["b"].shape == (2, 3, 4)
    assert (renamed.tensors["a"] == TRACE.tensors["b"].T).all()
    assert renamed.facts == {"framework": "jax"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "a", "b": "b"}, "the mapping has no name for c"),
        ({"a": "a", "b": "b", "c": "c", "d": None}, "the mapping names d, and the trace has a, b, c"),
        ({"a": "a", "b": "b", "c": "a"}, "the mapping has a twice, the second time for c"),
        (
            {"a": ("a", (0, 1)), "b": "b", "c": "c"},
            r"the mapping orders the axes of a as \(0, 1\), and its shape is \(2, 3, 4\)",
        ),
        (
            {"a": "a", "b": ("b", (1, 1)), "c": "c"},
            r"the mapping orders the axes of b as \(1, 1\), and its shape is \(2, 3\)",
        ),
    ],
)
def test_rename_refuses_what_is_not_one_to_one(names, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        rename(TRACE, names)
