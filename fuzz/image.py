"""PNG and JPEG files, as pictures of digits come in them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fuzz.target import Target
from mlp_workload.predict import image_file
from mlp_workload.predict.digit import SHAPE, find_digit


def read(content: bytes, folder: Path) -> None:
    path = folder / "image"
    path.write_bytes(content)
    digit = find_digit(image_file.read(path))
    assert digit.shape == SHAPE
    assert digit.dtype == np.uint8


def _seeds() -> tuple[bytes, ...]:
    picture = Image.fromarray((255 - 200 * np.eye(20)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return (
        _written(picture, "PNG", exif=exif),
        _written(picture.convert("P"), "PNG", transparency=0),
        _written(picture.convert("RGBA"), "PNG"),
        _written(Image.fromarray(np.asarray(picture).astype(np.uint16) * 257), "PNG"),
        _written(picture, "JPEG", exif=exif),
        _written(picture.convert("CMYK"), "JPEG", progressive=True),
    )


def _written(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


TARGET = Target(read, _seeds(), ("IHDR", "IDAT", "PLTE", "tRNS", "eXIf", "acTL", "fcTL", "zTXt", "iCCP", "Exif"))
