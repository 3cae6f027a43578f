"""A handwritten digit in a picture, made what MNIST's digits are.

"The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio. The resulting images contain grey levels as a result of the anti-aliasing technique used
by the normalization algorithm. The images were centered in a 28x28 image by computing the center of mass of the
pixels, and translating the image so as to position this point at the center of the 28x28 field."
(Y. LeCun, C. Cortes, C. J. C. Burges: The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/)

In pixels counted from 0 that centre is (14, 14): in each of MNIST's 70,000 images the centre of mass is within 0.52 of
it, the digit's longer side is 19 or 20, and at least 94 % of the frame is black. Other sets use other numbers, which
`mlp_workload.data.framing` measures.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.data.framing import FAINT, MNIST, Framing, centre_of_mass
from mlp_workload.errors import UserError
from mlp_workload.predict.image_file import Grey, bounds

SHAPE = (28, 28)
"""Shape of MNIST's images."""
_FRAME = 0.05
"""Share of the picture's sides that is taken for paper at first."""
_FITTED_SIDE = 100
"""Pixels a side, at most, of those that the paper's brightness is found by."""
_FAINTEST = 24.0
"""Grey levels of ink over paper."""
_EDGE = 0.05
"""Of the ink in the middle of a stroke, down to which its edge reaches."""
_SPECK = 0.05
"""Of the largest stroke's area; what is smaller is dirt."""

Digit = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]


def find_digit(grey: Grey, shape: tuple[int, int] = SHAPE, framing: Framing = MNIST) -> Digit:
    """The digit in a picture (height, width), 0 black to 255 white, as a data set draws it: `shape`, by its `framing`.

    A picture that is so already, or with light and dark exchanged, is taken pixel for pixel. Else the digit is what
    departs from the paper, whose light may be uneven, to the side where more does.

    Raises `UserError` where nothing does.
    """
    for picture in (grey, 255 - grey):
        if is_already(picture, shape, framing):
            return np.rint(picture).astype(np.uint8)
    coverage = _placed(_in_box(_ink(grey), shape, framing.box), shape, framing)
    return np.rint(framing.paper + (framing.ink - framing.paper) * coverage).astype(np.uint8)


def is_already(picture: Grey, shape: tuple[int, int] = SHAPE, framing: Framing = MNIST) -> bool:
    """Whether it is `shape` and by paper, size and centre drawn as `framing` says."""
    if picture.shape != shape:
        return False
    frame = np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()])
    coverage = framing.coverage(picture)
    if (np.abs(frame - framing.paper) <= 1).mean() < 0.5 or not 0.5 <= coverage.max() <= 1 + FAINT:
        return False
    drawn = np.where(coverage > FAINT, coverage, 0)
    off_centre = np.abs(_centre(drawn, framing) - framing.centre).max()
    return bool(_side(drawn) <= framing.box and off_centre <= framing.off_centre)


def _centre(coverage: Grey, framing: Framing) -> Vector:
    """(row, column), in pixels counted from 0, of what the framing centres by."""
    if framing.centred_by == "mass":
        return centre_of_mass(coverage)
    return np.array([(bound.start + bound.stop - 1) / 2 for bound in bounds(coverage)])


def _ink(grey: Grey) -> Grey:
    """How much of each pixel is ink, 0 to 1, of the strokes alone, cut to their bounds.

    Raises `UserError` where there is none.
    """
    departure = grey - _paper(grey)
    step = np.diff(departure.ravel(), prepend=departure[0, 0])
    noise = min(_deviation(departure), _deviation(step) / 2**0.5)  # the first is too much where ink fills the picture
    smooth = _around(departure, np.add) / 9 if noise >= 1 else departure
    threshold = max(_FAINTEST, 3 * noise)
    if smooth[np.abs(smooth) > threshold].sum() < 0:
        departure, smooth = -departure, -smooth
    if smooth.max() <= threshold:
        raise UserError("no digit: the picture is blank")
    strokes = _strokes(smooth > max(threshold, smooth.max() / 3))
    near = _around(strokes, np.logical_or)
    full = np.quantile(departure[strokes], 0.75)
    ink = np.where(strokes | (near & (departure > max(_EDGE * full, 3 * noise))), np.clip(departure / full, 0, 1), 0)
    return ink[bounds(ink)]


def _side(picture: npt.NDArray[Any]) -> int:
    """The longer one of its bounds, in pixels."""
    return int(max(bound.stop - bound.start for bound in bounds(picture)))


def _paper(grey: Grey) -> Grey:
    """Its brightness: a polynomial of second degree, first through the frame, by least absolute departures."""
    rows, columns = (np.linspace(-1, 1, n) for n in grey.shape)
    down, right = (-(-n // _FITTED_SIDE) for n in grey.shape)
    terms, values = _terms(rows[::down], columns[::right]), grey[::down, ::right].ravel()
    frame = np.abs(terms[:, 1:3]).max(axis=1) >= 1 - 2 * _FRAME
    departure = np.zeros_like(values)
    for _ in range(10):
        coefficients = _fitted(terms, values, frame / (np.abs(departure) + 1))
        departure = values - terms @ coefficients
    for _ in range(5):
        is_paper = np.abs(departure) <= max(_FAINTEST / 2, 3 * _deviation(departure))
        coefficients = _fitted(terms, values, is_paper)
        departure = values - terms @ coefficients
    return (_terms(rows, columns) @ coefficients).reshape(grey.shape)


def _terms(rows: Vector, columns: Vector) -> Grey:
    """(pixels, 6)."""
    y, x = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _fitted(terms: Grey, values: Vector, weights: npt.NDArray[Any]) -> Vector:
    """Coefficients (terms,) by weighted least squares."""
    weighted = terms * weights[:, None]
    return np.asarray(np.linalg.lstsq(weighted.T @ terms, weighted.T @ values)[0])


def _deviation(departure: Grey) -> float:
    """By the median, which strokes on less than half the picture leave alone."""
    return float(1.4826 * np.median(np.abs(departure)))


def _around(array: npt.NDArray[Any], combine: np.ufunc) -> npt.NDArray[Any]:
    """Of each pixel and its eight neighbours; beyond the picture, the nearest in it."""
    padded = np.pad(array, 1, "edge")
    rows = combine(combine(padded[:-2], padded[1:-1]), padded[2:])
    return np.asarray(combine(combine(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]))


def _strokes(mask: Mask) -> Mask:
    """Of the connected parts of `mask`, each known by its first pixel's number, those that are large.

    Where one lies inside the picture, those that touch its frame, such as a shadow's or the desk's, do not count.
    """
    outside = mask.size
    parts = np.where(mask, np.arange(outside).reshape(mask.shape), outside)
    while True:
        first = np.where(mask, _around(parts, np.minimum), outside)
        first = np.append(first, outside)[first]  # what the first knows by now
        if np.array_equal(first, parts):
            break
        parts = first
    areas = np.bincount(parts[mask], minlength=outside + 1)
    inside = areas.copy()
    for border in (parts[[0, -1]], parts[:, [0, -1]]):
        inside[border] = 0
    if inside.max() >= _SPECK * areas.max():
        areas = inside
    return np.asarray(mask & (areas[parts] >= _SPECK * areas.max()))


def _in_box(ink: Grey, shape: tuple[int, int], box: int) -> Grey:
    """`ink` scaled to fit the box and the image, its fullest pixel 1."""
    from PIL import Image

    scale = min(box / max(ink.shape), *(size / n for size, n in zip(shape, ink.shape, strict=True)))
    height, width = (max(1, round(n * scale)) for n in ink.shape)
    small = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), Image.Resampling.BOX), float)
    return np.asarray(small / small.max())


def _placed(ink: Grey, shape: tuple[int, int], framing: Framing) -> Grey:
    """`ink` in an empty image of `shape`, its centre where the framing has it."""
    height, width = shape
    field = np.zeros((3 * height, 3 * width))
    top, left = np.floor(np.array(shape) + framing.centre - _centre(ink, framing) + 0.5).astype(int)
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field[height:-height, width:-width]
