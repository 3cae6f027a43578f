"""What every source of data becomes: grey uint8 images with their labels."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mlp_workload.data.framing import ImageFormat, measure
from mlp_workload.errors import UserError

T = TypeVar("T", bound=np.generic)
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int32]

_SHOWN = 10
"""Names of classes in a warning."""


@dataclass(frozen=True)
class Examples:
    """Images (n, height, width) uint8, 0 black to 255 white, and their labels (n,) int32."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A training and a test set over the same classes.

    `source` is the specification that it was loaded from, such as "mnist" or "idx:/data/kmnist"; `class_names[k]`
    is the name of label k. A label without any example, such as 0 in EMNIST letters, keeps its place.

    If `transposed`, the axes of each image are exchanged. `notes` are lines for the user about how the set was read.

    Raises `UserError` where the two sets do not fit together: unlike image shapes, no examples, images and labels of
    unlike number, or a label outside the classes. A class that only one of the two sets contains is a warning.
    """

    source: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    transposed: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, examples in (("training", self.train), ("test", self.test)):
            self._check_examples(name, examples)
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise UserError(f"{self.source}: training images are {_size(self.train)}, test images {_size(self.test)}")

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def pixels(self) -> int:
        """Inputs of the network: height times width."""
        return int(np.prod(self.train.images.shape[1:]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shapes, pixels and labels of both sets, in their order."""
        sha256 = hashlib.sha256()
        for examples in (self.train, self.test):
            sha256.update(repr(examples.images.shape).encode())
            sha256.update(examples.images.tobytes())
            sha256.update(examples.labels.astype("<i4").tobytes())
        return sha256.hexdigest()

    @cached_property
    def image_format(self) -> ImageFormat:
        """How the training images look, for pictures that a trained network is given."""
        images = self.upright(self.train.images)
        return ImageFormat((images.shape[1], images.shape[2]), self.transposed, measure(images))

    def upright(self, images: npt.NDArray[T]) -> npt.NDArray[T]:
        """`images` (..., height, width) of this set, or what has their shape, as people read them."""
        return images.swapaxes(-2, -1) if self.transposed else images

    def turned(self, note: str) -> "Dataset":
        """This set with the axes of each image exchanged, and one more of the `notes`."""
        train, test = (
            Examples(np.ascontiguousarray(part.images.swapaxes(1, 2)), part.labels) for part in (self.train, self.test)
        )
        return replace(self, train=train, test=test, transposed=not self.transposed, notes=(*self.notes, note))

    def with_digest(self, digest: str) -> "Dataset | None":
        """The set that has `digest`: this one, or its transposed images, on which version 0.1 trained. Else None."""
        if self.digest == digest:
            return self
        stored = self.turned("trained on the images as they are stored, transposed: the run keeps these")
        return stored if stored.digest == digest else None

    def _check_examples(self, name: str, examples: Examples) -> None:
        images, labels = examples.images, examples.labels
        if images.ndim != 3 or images.dtype != np.uint8:
            raise UserError(
                f"{self.source}: {name} images must be grey uint8 (n, height, width), got {images.dtype} {images.shape}"
            )
        if len(images) != len(labels):
            raise UserError(f"{self.source}: {len(images)} {name} images but {len(labels)} labels")
        if images.size == 0:
            raise UserError(f"{self.source}: the {name} set is empty, images {images.shape}")
        outside = np.flatnonzero((labels < 0) | (labels >= self.classes))
        if outside.size:
            first = outside[0]
            raise UserError(f"{self.source}: {name} label {first} is {labels[first]}, expected 0 to {self.classes - 1}")

    @cached_property
    def warnings(self) -> list[str]:
        """Classes that only one of the two sets contains, one warning for each set."""
        train, test = np.unique(self.train.labels), np.unique(self.test.labels)
        one_sided = [
            ("test", self.test, np.setdiff1d(test, train), "cannot be learned"),
            ("training", self.train, np.setdiff1d(train, test), "is never tested"),
        ]
        return [
            f"only the {name} set has class {self._names(labels)} (first at "
            f"{np.isin(examples.labels, labels).argmax()}), which {effect}; a stray label, or two files that do not "
            "belong together?"
            for name, examples, labels, effect in one_sided
            if labels.size
        ]

    def _names(self, labels: npt.NDArray[np.integer[Any]]) -> str:
        more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
        return ", ".join(self.class_names[label] for label in labels[:_SHOWN]) + more


def _size(examples: Examples) -> str:
    _, height, width = examples.images.shape
    return f"{height}x{width}"
