"""Where images come from. Every source ends in the same `Dataset`."""

from dataclasses import replace

from mlp_workload.data.dataset import Dataset, Examples
from mlp_workload.data.emnist import TURNED
from mlp_workload.data.idx import load_idx
from mlp_workload.data.shipped import load_mnist
from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

__all__ = ["Dataset", "Examples", "check_source", "load"]


def check_source(source: str) -> None:
    """Raises `UserError` where `source` is not of a form that `load` knows."""
    kind, _, rest = source.partition(":")
    if source != "mnist" and not (kind in ("idx", "tfds") and rest):
        raise UserError(f"expected mnist, idx:DIR or tfds:NAME, got {source!r}")


def load(source: str, transpose: bool = False, prepare: bool = True) -> Dataset:
    """The data set that `source` names: "mnist", "idx:DIR" or "tfds:NAME"; one of TFDS is made there, if `prepare`.

    EMNIST, which is stored transposed, is turned upright; with `transpose` any other set is turned too.

    Raises `UserError` where there is no such set, it is damaged, or it is not made of grey images in classes.
    """
    check_source(source)
    kind, _, rest = source.partition(":")
    if kind == "idx":
        dataset = load_idx(rest)
    elif kind == "tfds":
        dataset = load_tfds(rest, prepare)
    else:
        dataset = load_mnist()
    if dataset.transposed:
        return dataset.turned(TURNED)
    if transpose:
        return replace(dataset, transposed=True).turned("--transpose-images: the images are turned upright")
    return dataset
