"""Data sets of grey uint8 images with labels, and their checks."""

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
"""Most names of classes in a warning."""


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

    Attributes:
        source: where it was loaded from, such as "mnist" or "idx:/data/kmnist".
        class_names: name of each label, also of labels without examples, such as 0 in EMNIST letters.
        transposed: whether rows and columns of each image are exchanged.
        remarks: how the set was read, for the user.
        passed_over: files that were left out, and why.
        turned: why rows and columns were exchanged after reading, if they were.

    Raises `UserError` if image shapes or numbers of images and labels differ, a set is empty, or a label is outside the
    classes. A class that only one of the sets contains causes a warning.
    """

    source: str
    train: Examples
    test: Examples
    class_names: tuple[str, ...]
    transposed: bool = False
    remarks: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    turned: str | None = None

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
        """Number of the network's inputs: height times width."""
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
        """Shape and framing of the training images, to make a user's pictures similar."""
        images = self.upright(self.train.images)
        return ImageFormat((images.shape[1], images.shape[2]), self.transposed, measure(images))

    def upright(self, images: npt.NDArray[T]) -> npt.NDArray[T]:
        """Returns arrays (..., height, width) in the layout of this set's images as people read them."""
        return images.swapaxes(-2, -1) if self.transposed else images

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the user about how the set was read."""
        return self.remarks if self.turned is None else (*self.remarks, self.turned)

    def exchanged(self, turned: str, transposed: bool) -> "Dataset":
        """Returns this set with rows and columns of each image exchanged, for the reason `turned`."""
        train, test = (
            Examples(np.ascontiguousarray(part.images.swapaxes(1, 2)), part.labels) for part in (self.train, self.test)
        )
        return replace(self, train=train, test=test, transposed=transposed, turned=turned)

    def as_trained(self, digest: str, images: Any) -> "Dataset | None":
        """Returns the set with `digest`: this one, or this one with rows and columns exchanged. None if neither has it.

        `images` is the `ImageFormat` that the run recorded. Version 0.1 recorded none and turned no images, so it
        trained on transposed images if this set's were turned after reading.
        """
        recorded = images.get("transposed") if isinstance(images, dict) else None
        if self.digest == digest:
            return self if recorded is None else replace(self, transposed=recorded is True)
        if recorded is None and self.turned is None:
            return None
        transposed = recorded is not False
        layout = "transposed" if transposed else "upright"
        turned = self.exchanged(f"rows and columns are exchanged: the run was trained on {layout} images", transposed)
        return turned if turned.digest == digest else None

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
        """Warnings about files that were left out, and about classes that only one of the sets contains."""
        train, test = np.unique(self.train.labels), np.unique(self.test.labels)
        one_sided = [
            ("test", self.test, np.setdiff1d(test, train), "cannot be learned"),
            ("training", self.train, np.setdiff1d(train, test), "is never tested"),
        ]
        return [*self.passed_over] + [
            f"only the {name} set has class {self._names(labels)} (example "
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
