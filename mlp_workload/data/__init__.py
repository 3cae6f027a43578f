"""Loads images from MNIST, IDX files or TFDS into one `Dataset`."""

from dataclasses import replace

from mlp_workload.data.dataset import Dataset, Examples
from mlp_workload.data.emnist import TURNED
from mlp_workload.data.idx import load_idx
from mlp_workload.data.shipped import load_mnist
from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

__all__ = ["Dataset", "Examples", "check_source", "load"]


def check_source(source: str) -> None:
    """Raises `UserError` unless `source` has a form that `load` takes."""
    kind, _, rest = source.partition(":")
    if source != "mnist" and not (kind in ("idx", "tfds") and rest):
        raise UserError(f"expected mnist, idx:DIR or tfds:NAME, got {source!r}")


def load(source: str, transpose: bool | None = None, prepare: bool = True) -> Dataset:
    """Loads the data set `source`: "mnist", "idx:DIR" or "tfds:NAME".

    If `prepare`, TFDS prepares a set that is missing. `transpose` turns images upright that are stored transposed; if
    None, those of EMNIST, by its name. Raises `UserError` if the set is missing, damaged, or not of grey images with
    class labels.
    """
    check_source(source)
    match source.partition(":"):
        case "idx", _, folder:
            dataset = load_idx(folder)
        case "tfds", _, name:
            dataset = load_tfds(name, prepare)
        case _:
            dataset = load_mnist()
    if transpose is False:
        return replace(dataset, transposed=False)
    if dataset.transposed:
        return dataset.exchanged(TURNED, False)
    return dataset.exchanged("--transpose-images: the images are turned upright", False) if transpose else dataset
