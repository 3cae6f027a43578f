"""MNIST, shipped in this package, so that training needs no network."""

from pathlib import Path

import numpy as np

from mlp_workload.data.dataset import Dataset, Examples
from mlp_workload.data.idx import read_idx

SHA256 = {  # of the decompressed files, as MNIST's mirrors publish them
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_DIGEST = "ec9a6bf343ca86bfd5476c7a6f8325814e21cfc3e29223486ce340ee12175c47"
"""`Dataset.digest` of MNIST."""
TRAIN_EXAMPLES, PIXELS, CLASSES = 60_000, 784, 10
"""Sizes of MNIST."""
FOLDER = Path(__file__).parent / "mnist"


def load_mnist(folder: Path = FOLDER) -> Dataset:
    """Loads MNIST: 60,000 training and 10,000 test digits of 28x28 pixels.

    Raises `UserError` if one of the four files differs from the published one.
    """

    def examples(split: str) -> Examples:
        names = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
        images, labels = (
            read_idx(folder / f"{name}.gz", ndim, SHA256[name]) for name, ndim in zip(names, (3, 1), strict=True)
        )
        return Examples(images, labels.astype(np.int32))

    return Dataset("mnist", examples("train"), examples("t10k"), tuple(map(str, range(CLASSES))))
