"""Measures how a data set's images are drawn, so that a user's picture can be made similar."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FAINT = 0.1
"""Fraction of the ink's contrast up to which a pixel counts as paper."""
_OUTLIERS = 0.001
"""Fraction of the images that a maximum ignores."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Framing:
    """How ink is drawn on even paper: their grey levels, 0 to 255, and the most pixels of the ink's longer side, `box`.

    The centre of mass, or of the bounding box, is at `centre` (row, column), counted from 0, or up to `off_centre`
    pixels from it along an axis.
    """

    paper: float
    ink: float
    box: int
    centred_by: Literal["mass", "box"]
    centre: tuple[float, float]
    off_centre: float

    def coverage(self, image: npt.NDArray[Any]) -> Floats:
        """Returns the fraction of ink of each pixel, from 0 for paper to 1; negative beyond the paper's grey level."""
        return np.asarray((image - self.paper) / (self.ink - self.paper), np.float64)

    @property
    def polarity(self) -> str:
        return "light on dark" if self.ink > self.paper else "dark on light"


MNIST = Framing(paper=0, ink=255, box=20, centred_by="mass", centre=(14.0, 14.0), off_centre=0.6)


def measure(images: npt.NDArray[np.uint8]) -> Framing | None:
    """Returns the framing of `images` (n, height, width); None without even paper, as in photographs."""
    count = max(1, min(1000, 2**23 // math.prod(images.shape[1:])))  # 32 MiB in float32
    sample = images[:: -(-len(images) // count)].astype(np.float32)
    border = np.concatenate([sample[:, [0, -1]].reshape(-1), sample[:, :, [0, -1]].reshape(-1)])
    paper = float(np.median(border))
    difference = sample - paper
    sign = 1 if difference.sum() >= 0 else -1
    contrast = float(np.quantile((sign * difference).max(axis=(1, 2)), 0.99))
    # Of the border's pixels about 0.2 are paper in photographs, and 0.89 in Fashion-MNIST.
    if contrast < 1 or (np.abs(border - paper) <= FAINT * contrast).mean() < 0.6:
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
        off_centre=round(float(np.quantile(distances, 1 - _OUTLIERS)) + 0.1, 2),
    )


def centre_of_mass(coverage: Floats) -> Floats:
    """Returns the centres (..., 2), row and column from 0, of images (..., height, width)."""
    total = coverage.sum(axis=(-2, -1))
    rows, columns = (coverage.sum(axis=axis) @ np.arange(coverage.shape[-3 - axis]) for axis in (-1, -2))
    return np.stack([rows / total, columns / total], axis=-1)


def _boxes(drawn: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Returns centres (n, 2) and longer sides (n,) of the bounding boxes in images (n, height, width)."""
    centres, sides = [], []
    for axis in (2, 1):
        lines = np.asarray(drawn.any(axis=axis))
        first, last = lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1)
        centres.append((first + last) / 2)
        sides.append(last - first + 1)
    return np.stack(centres, axis=1), np.maximum(*sides).astype(np.float64)


@dataclass(frozen=True)
class ImageFormat:
    """Format of a run's training images, recorded so that pictures can be made similar without the data set.

    `shape` (height, width) is that of an upright image. If `transposed`, the network takes the transposed image.
    """

    shape: tuple[int, int]
    transposed: bool
    framing: Framing | None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields with lists instead of tuples, as JSON has them."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_json(cls, value: Any) -> "ImageFormat":
        """Reads the result of `to_json`. Raises `ValueError` if it is not valid."""
        try:
            (height, width), framing = value["shape"], value["framing"]
            if type(height) is not int or type(width) is not int or height < 1 or width < 1:
                raise ValueError("a shape is two whole numbers above 0")
            if not isinstance(value["transposed"], bool):
                raise ValueError("transposed must be true or false")
            shape = height, width
            return cls(shape, value["transposed"], None if framing is None else _framing(shape, framing))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not an image format ({error!r})") from error


def _framing(shape: tuple[int, int], value: Mapping[str, Any]) -> Framing:
    paper, ink, off_centre = (float(value[name]) for name in ("paper", "ink", "off_centre"))
    row, column = map(float, value["centre"])
    box, centred_by = value["box"], value["centred_by"]
    ranges = ((paper, 255), (ink, 255), (row, shape[0]), (column, shape[1]), (off_centre, max(shape)))
    sound = all(0 <= number <= most for number, most in ranges) and abs(ink - paper) >= 1
    if not sound or type(box) is not int or not 1 <= box <= max(shape) or centred_by not in ("mass", "box"):
        raise ValueError("a number is out of its range")
    return Framing(paper, ink, box, centred_by, (row, column), off_centre)
