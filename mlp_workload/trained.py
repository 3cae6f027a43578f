"""The network that a run left: what is needed to compute with it, whichever framework trained it."""

import math
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlp_workload import chain
from mlp_workload.config import Config
from mlp_workload.digit import SIZE, find_digit
from mlp_workload.errors import UserError
from mlp_workload.files import expand
from mlp_workload.image_file import Grey
from mlp_workload.recorded_run import RecordedRun
from mlp_workload.run_folder import read_config
from mlp_workload.weights import Parameters, check, parameter_shapes


@dataclass(frozen=True)
class Trained:
    """`parameters` are in the dtype that `config` says."""

    folder: Path
    config: Config
    parameters: Parameters

    @classmethod
    def load(cls, folder: Path) -> "Trained":
        """Raises `UserError` where there is no run, its weights are not there, or are not those of such a run."""
        folder = expand(folder)
        config = read_config(folder)
        path = folder / "weights.safetensors"
        if not os.path.lexists(path):
            raise UserError(f"{folder}: the run is not finished; --resume {folder} goes on")
        parameters = chain.load(path)
        pixels, *_, classes = chain.widths(parameters)
        check(parameters, parameter_shapes(config.widths(pixels, classes)), str(path))
        for name, array in parameters.items():
            if array.dtype != config.dtype:
                raise UserError(f"{path}: {name} is {array.dtype}, but the run's config.json says {config.dtype}")
        return cls(folder, config, parameters)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of all layers, input and output included."""
        return chain.widths(self.parameters)

    @property
    def on_cpu(self) -> Config:
        """The run's configuration for one CPU, on which every machine can compute its network."""
        return replace(
            self.config, device="cpu", gpu=None, devices=1, split_hidden=1, matmul_precision="highest",
            deterministic=False,
        )  # fmt: skip

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """As the data set has them; numbers where it is gone."""
        if self.config.dataset != "mnist" and (dataset := RecordedRun.load(self.folder).dataset):
            return dataset.class_names
        return tuple(map(str, range(self.widths[-1])))

    @cached_property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the data set's images; a square where it is gone.

        Raises `UserError` where it is gone and there is no such square.
        """
        if self.config.dataset != "mnist" and (dataset := RecordedRun.load(self.folder).dataset):
            return dataset.test.images.shape[1], dataset.test.images.shape[2]
        side = math.isqrt(self.widths[0])
        if side * side != self.widths[0]:
            raise UserError(f"{self.folder}: {self.config.dataset}, which has the size of its images, is gone")
        return side, side

    def see(self, picture: Grey, source: str) -> npt.NDArray[np.uint8]:
        """The image, as those of its training are, that the network gets of a picture (height, width).

        Trained on MNIST, that is by `find_digit`. Else a picture of the size of the training's images is taken as it
        is, and another by `find_digit` where that makes this size.

        Raises `UserError`, naming the `source`, where there is no digit, or another size is needed.
        """
        if self.config.dataset != "mnist":
            if picture.shape == self.image_shape:
                return np.rint(picture).astype(np.uint8)
            if self.image_shape != (SIZE, SIZE):
                here, there = ("{1}x{0}".format(*shape) for shape in (picture.shape, self.image_shape))
                raise UserError(f"{source}: {here}, but the run's images are {there}, and only digits are made smaller")
        try:
            return find_digit(picture)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
