"""How a data set's images are drawn, measured from their pixels, so that a user's picture can be made alike."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

FAINT = 0.1
"""Share of the ink's contrast up to which a pixel counts as paper."""
_SAMPLE = 1000
"""Images, evenly spread over the set, that are measured at most."""
_SAMPLE_PIXELS = 2**23
"""Pixels of all of these together, at most: 32 MiB in float32."""
_EVEN = 0.6
"""Share of the border's pixels that must be paper; in photographs it is about 0.2, in Fashion-MNIST 0.89."""
_OUTLIERS = 0.001
"""Share of the images that are ignored when the largest of a quantity is taken."""
_SLACK = 0.1
"""Pixels that are added to the measured distance from the centre."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Framing:
    """Ink on an even paper: grey levels `paper` and `ink`, from 0 to 255.

    The longer side of the ink has at most `box` pixels. Its centre of mass, or the centre of its bounding box, is at
    `centre` (row, column), counted from 0, and at most `off_centre` pixels away from it.
    """

    paper: float
    ink: float
    box: int
    centred_by: Literal["mass", "box"]
    centre: tuple[float, float]
    off_centre: float

    def coverage(self, image: npt.NDArray[Any]) -> Floats:
        """Share of ink of each pixel, from 0 for paper to 1; what is on the far side of the paper is negative."""
        return np.asarray((image - self.paper) / (self.ink - self.paper), np.float64)

    @property
    def polarity(self) -> str:
        return "light on dark" if self.ink > self.paper else "dark on light"


MNIST = Framing(paper=0, ink=255, box=20, centred_by="mass", centre=(14.0, 14.0), off_centre=0.6)


def measure(images: npt.NDArray[np.uint8]) -> Framing | None:
    """The framing of `images` (n, height, width); None if they have no even paper, as photographs have none."""
    count = max(1, min(_SAMPLE, _SAMPLE_PIXELS // math.prod(images.shape[1:])))
    sample = images[:: -(-len(images) // count)].astype(np.float32)
    border = np.concatenate([sample[:, [0, -1]].reshape(-1), sample[:, :, [0, -1]].reshape(-1)])
    paper = float(np.median(border))
    difference = sample - paper
    sign = 1 if difference.sum() >= 0 else -1
    contrast = float(np.quantile((sign * difference).max(axis=(1, 2)), 0.99))
    if contrast < 1 or (np.abs(border - paper) <= FAINT * contrast).mean() < _EVEN:
        return None
    coverage = np.clip(sign * difference / contrast, 0, 1)
    coverage = coverage[coverage.max(axis=(1, 2)) > FAINT]
    box_centres, sides = _boxes(coverage > FAINT)
    off_centre = {}
    for name, centres in (("box", box_centres), ("mass", centre_of_mass(coverage))):
        centre: Floats = np.rint(2 * np.median(centres, axis=0)) / 2
        off_centre[name] = centre, np.max(np.abs(centres - centre), axis=1)
    centred_by: Literal["mass", "box"] = "mass" if off_centre["mass"][1].mean() < off_centre["box"][1].mean() else "box"
    (row, column), distances = off_centre[centred_by]
    return Framing(
        paper=paper,
        ink=paper + sign * contrast,
        box=math.ceil(np.quantile(sides, 1 - _OUTLIERS)),
        centred_by=centred_by,
        centre=(float(row), float(column)),
        off_centre=round(float(np.quantile(distances, 1 - _OUTLIERS)) + _SLACK, 2),
    )


def centre_of_mass(coverage: Floats) -> Floats:
    """(..., 2), rows and columns counted from 0, of each image (..., height, width)."""
    total = coverage.sum(axis=(-2, -1))
    rows, columns = (coverage.sum(axis=axis) @ np.arange(coverage.shape[-3 - axis]) for axis in (-1, -2))
    return np.stack([rows / total, columns / total], axis=-1)


def _boxes(drawn: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The centre (n, 2) and the longer side (n,) of the bounding box in each image (n, height, width)."""
    centres, sides = [], []
    for axis in (2, 1):
        lines = np.asarray(drawn.any(axis=axis))
        first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
        centres.append((first + last) / 2)
        sides.append(last - first + 1)
    return np.stack(centres, axis=1), np.maximum(*sides).astype(np.float64)


@dataclass(frozen=True)
class ImageFormat:
    """What a run records of its training images, so that a picture can be made alike when the data set is gone.

    `shape` (height, width) is that of an upright image; if `transposed`, the network takes it with its axes exchanged.
    """

    shape: tuple[int, int]
    transposed: bool
    framing: Framing | None

    def to_json(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(json.dumps(asdict(self))))  # with lists, as it is read back

    @classmethod
    def from_json(cls, value: Any) -> "ImageFormat":
        """Reads what `to_json` wrote. Raises `ValueError` if it makes no sense."""
        try:
            shape, framing = _shape(value["shape"]), value["framing"]
            if not isinstance(value["transposed"], bool):
                raise ValueError("transposed must be true or false")
            return cls(shape, value["transposed"], None if framing is None else _framing(shape, framing))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not an image format ({error!r})") from error


def _framing(shape: tuple[int, int], value: Mapping[str, Any]) -> Framing:
    paper, ink, off_centre = (float(value[name]) for name in ("paper", "ink", "off_centre"))
    row, column = map(float, value["centre"])
    sound = (
        0 <= paper <= 255
        and 0 <= ink <= 255
        and abs(ink - paper) >= 1
        and type(value["box"]) is int
        and 1 <= value["box"] <= max(shape)
        and value["centred_by"] in ("mass", "box")
        and 0 <= row <= shape[0]
        and 0 <= column <= shape[1]
        and 0 <= off_centre <= max(shape)
    )
    if not sound:
        raise ValueError("a number is out of its range")
    return Framing(paper, ink, value["box"], value["centred_by"], (row, column), off_centre)


def _shape(value: Any) -> tuple[int, int]:
    height, width = value
    if type(height) is not int or type(width) is not int or height < 1 or width < 1:
        raise ValueError("a shape is two whole numbers above 0")
    return height, width
