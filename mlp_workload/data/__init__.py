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


def load(source: str, transpose: bool | None = None, prepare: bool = True) -> Dataset:
    """The data set that `source` names: "mnist", "idx:DIR" or "tfds:NAME"; one of TFDS is made there, if `prepare`.

    `transpose` tells whether the images are stored transposed, and are turned upright. If None, EMNIST's are, by its
    name.

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
    if transpose is False:
        return replace(dataset, transposed=False)
    if dataset.transposed:
        return dataset.exchanged(TURNED, False)
    return dataset.exchanged("--transpose-images: the images are turned upright", False) if transpose else dataset
