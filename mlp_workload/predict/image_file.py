"""Reads PNG and JPEG files of any origin."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlp_workload.errors import UserError
from mlp_workload.files import read_at_most

LARGEST_IMAGE = 64_000_000
"""Most pixels of an image. They take up to 0.5 GB; few cameras have more."""
WORKING_SIDE = 200
"""Most pixels of the longer side; larger images are scaled down."""

Grey = npt.NDArray[np.float64]


def read(path: Path) -> Grey:
    """Reads an image file; see `decode`. Raises `UserError` if there is no such file, or `decode` refuses it."""
    return decode(read_at_most(path, 64 * 2**20), str(path))


def decode(content: bytes, source: str) -> Grey:
    """Returns the brightness (height, width) of a PNG or JPEG, 0 black to 255 white, at most `WORKING_SIDE` a side.

    EXIF's rotation is applied, and an animation's first picture is taken. Transparent parts become white behind dark
    ink and black behind light ink; a transparent margin around an opaque picture is cut off.

    Raises `UserError`, naming the `source`, if it is not such an image, is damaged, or has too many pixels.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    too_large = f"more than {LARGEST_IMAGE // 10**6} million pixels"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF and the like
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=("PNG", "JPEG")) as image:
                if image.width * image.height > LARGEST_IMAGE:
                    raise UserError(f"{source}: {image.width}x{image.height}, {too_large}")
                image.draft(None, (2 * WORKING_SIDE, 2 * WORKING_SIDE))  # a JPEG is then decoded smaller
                deep = image.mode.startswith("I")
                if deep:
                    small = Image.fromarray((np.asarray(ImageOps.exif_transpose(image)) // 257).astype(np.uint8))
                else:
                    small = image.convert("RGBA")
            small.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
            pixels = np.asarray(ImageOps.exif_transpose(small).convert("LA"), np.float64)
    except UserError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(f"{source}: {too_large}") from None
    except UnidentifiedImageError:
        raise UserError(f"{source}: neither PNG nor JPEG") from None
    except Exception as error:  # damaged files make decoders raise anything
        raise UserError(f"{source}: a damaged image ({error or type(error).__name__})") from error
    grey, alpha = pixels[..., 0], pixels[..., 1] / 255
    if not alpha.any():
        return np.full_like(grey, 255)
    inside = bounds(alpha)
    if alpha[inside].all():
        grey, alpha = grey[inside], alpha[inside]
    paper = 255 if np.average(grey, weights=alpha) < 128 else 0
    return np.asarray(alpha * grey + (1 - alpha) * paper)


def bounds(picture: npt.NDArray[Any]) -> tuple[slice, slice]:
    """Returns the rows and columns of the non-zero part of `picture`."""
    rows, columns = (np.flatnonzero(picture.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
