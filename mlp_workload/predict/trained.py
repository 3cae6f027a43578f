"""The trained network of a run of either framework, as files have it."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.config import Config
from mlp_workload.data import Dataset
from mlp_workload.data.framing import MNIST, ImageFormat
from mlp_workload.data.shipped import MNIST_DIGEST
from mlp_workload.errors import UserError, warn
from mlp_workload.events import RunResumed, RunStarted
from mlp_workload.files import expand, shell_quoted
from mlp_workload.predict.digit import SHAPE, find_digit
from mlp_workload.predict.image_file import Grey
from mlp_workload.run.folder import read_config
from mlp_workload.run.recorded import load_if_present
from mlp_workload.sinks.json_lines import read_starts
from mlp_workload.weights import Parameters, check, layer_widths, load_layers, parameter_shapes


@dataclass(frozen=True)
class Trained:
    """Configuration and parameters of a finished run; the parameters have the configuration's dtype."""

    folder: Path
    config: Config
    parameters: Parameters

    @classmethod
    def load(cls, folder: Path) -> "Trained":
        """Loads a run. Raises `UserError` if its files are missing, or its weights do not fit its configuration."""
        folder = expand(folder)
        config = read_config(folder)
        path = folder / "weights.safetensors"
        if not os.path.lexists(path):
            raise UserError(f"{folder}: the run is not finished; --resume {shell_quoted(folder)} goes on")
        parameters = load_layers(path)
        pixels, *_, classes = layer_widths(parameters)
        check(parameters, parameter_shapes(config.widths(pixels, classes)), str(path))
        for name, array in parameters.items():
            if array.dtype != config.dtype:
                raise UserError(f"{path}: {name} is {array.dtype}, but the run's config.json says {config.dtype}")
        return cls(folder, config, parameters)

    @property
    def widths(self) -> tuple[int, ...]:
        return layer_widths(self.parameters)

    @property
    def on_cpu(self) -> Config:
        """The run's configuration on one CPU, which every machine has."""
        return replace(
            self.config, device="cpu", gpu=None, devices=1, split_hidden=1, matmul_precision="highest",
            deterministic=False,
        )  # fmt: skip

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes from the run's record, else from the data set, else numbers.

        Raises `UserError` if the record does not name each class.
        """
        if "class_names" in self._facts:
            names = self._facts["class_names"]
            if not isinstance(names, list) or len(names) != self.widths[-1] or not all(type(n) is str for n in names):
                raise UserError(f"{self.folder}: its events do not name its {self.widths[-1]} classes")
            return tuple(names)
        return self._dataset.class_names if self._dataset else tuple(map(str, range(self.widths[-1])))

    @cached_property
    def known_images(self) -> ImageFormat | None:
        """Format of the training images from the run's record, else from the data set; None if that is gone.

        Raises `UserError` if the record is not valid.
        """
        if "images" in self._facts:
            try:
                recorded = ImageFormat.from_json(self._facts["images"])
            except ValueError as error:
                raise UserError(f"{self.folder}: what its events say of its images is {error}") from None
            if math.prod(recorded.shape) != self.widths[0]:
                raise UserError(f"{self.folder}: its events say images of another size than its network takes")
            return recorded
        if self._facts.get("dataset_digest") == MNIST_DIGEST:
            return ImageFormat(SHAPE, False, MNIST)
        return self._dataset.image_format if self._dataset else None

    @cached_property
    def image_format(self) -> ImageFormat:
        """Format of the images, assumed with a warning if it is not known. Also warns if they are transposed.

        Raises `UserError` if the number of pixels is no square, so that no format can be assumed.
        """
        if images := self.known_images:
            if images.transposed:
                warn(f"{self.folder} was trained on transposed images: pictures are transposed for its network")
            return images
        side = math.isqrt(self.widths[0])
        if side * side != self.widths[0]:
            raise UserError(f"{self.folder}: {self.config.dataset}, which has the size of its images, is gone")
        gone = f"{self.folder}: {self.config.dataset} is gone, and the run has no record of its images"
        if (side, side) == SHAPE:
            warn(f"{gone}; pictures are drawn as MNIST draws digits")
            return ImageFormat(SHAPE, False, MNIST)
        warn(f"{gone}; pictures of {side}x{side} are taken as they are")
        return ImageFormat((side, side), False, None)

    @property
    def layout(self) -> str:
        """Order and polarity of the network's pixels, as far as known, such as "rows of 28x28, light on dark"."""
        if (images := self.known_images) is None:
            return ""
        height, width = images.shape[::-1] if images.transposed else images.shape
        polarity = f", {images.framing.polarity}" if images.framing else ""
        return f"rows of {width}x{height}{', transposed' if images.transposed else ''}{polarity}"

    @cached_property
    def _starts(self) -> list[RunStarted | RunResumed]:
        """The run's starts; empty if its events are gone or, with a warning, if they can't be read."""
        path = self.folder / "events.jsonl"
        try:
            return read_starts(path) if os.path.lexists(path) else []
        except UserError as error:
            warn(f"{error}; the run is taken as one without a record")
            return []

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        """Facts of the run's start, updated by those of each resumption."""
        return {name: value for event in self._starts for name, value in event.facts.items()}

    @cached_property
    def _dataset(self) -> Dataset | None:
        """The data set of the run; None if it is gone."""
        config = self._starts[-1].config if self._starts else self.config
        dataset = load_if_present(config.dataset, config.transpose_images)
        if dataset is not None and isinstance(digest := self._facts.get("dataset_digest"), str):
            return dataset.as_trained(digest, self._facts.get("images"))
        fits = dataset is not None and (dataset.pixels, dataset.classes) == (self.widths[0], self.widths[-1])
        return dataset if fits else None

    def see(self, picture: Grey, source: str) -> npt.NDArray[np.uint8]:
        """Returns the image that the network gets for a picture (height, width).

        If the training images are ink on even paper, `find_digit` gives it their polarity, size and centre. Otherwise
        a picture of their size is taken as it is. Raises `UserError`, naming the `source`, if there is no digit, or the
        size is wrong.
        """
        images = self.image_format
        if images.framing is not None:
            try:
                image = find_digit(picture, images.shape, images.framing)
            except UserError as error:
                raise UserError(f"{source}: {error}") from None
        elif picture.shape == images.shape:
            image = np.rint(picture).astype(np.uint8)
        else:
            here, there = ("{1}x{0}".format(*shape) for shape in (picture.shape, images.shape))
            raise UserError(
                f"{source}: {here}, but the run's images are {there}, and have no even background to fit it on"
            )
        return np.ascontiguousarray(image.T) if images.transposed else image
