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
            images, labels = examples.images, examples.labels
            if images.ndim != 3 or images.dtype != np.uint8:
                expected = f"{name} images must be grey uint8 (n, height, width)"
                raise UserError(f"{self.source}: {expected}, got {images.dtype} {images.shape}")
            if len(images) != len(labels):
                raise UserError(f"{self.source}: {len(images)} {name} images but {len(labels)} labels")
            if images.size == 0:
                raise UserError(f"{self.source}: the {name} set is empty, images {images.shape}")
            for first in np.flatnonzero((labels < 0) | (labels >= self.classes)):
                label = f"{name} label {first} is {labels[first]}"
                raise UserError(f"{self.source}: {label}, expected 0 to {self.classes - 1}")
        train, test = ("{1}x{2}".format(*examples.images.shape) for examples in (self.train, self.test))
        if train != test:
            raise UserError(f"{self.source}: training images are {train}, test images {test}")

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

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings about files that were left out, and about classes that only one of the sets contains."""
        warnings = [*self.passed_over]
        for name, own, other, effect in (
            ("test", self.test.labels, self.train.labels, "cannot be learned"),
            ("training", self.train.labels, self.test.labels, "is never tested"),
        ):
            if (labels := np.setdiff1d(own, other)).size:
                more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
                names = ", ".join(self.class_names[label] for label in labels[:10]) + more
                warnings.append(
                    f"only the {name} set has class {names} (example {np.isin(own, labels).argmax()}), which {effect}; "
                    "a stray label, or two files that do not belong together?"
                )
        return warnings
