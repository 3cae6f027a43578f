"""EMNIST: images that are stored transposed, and classes that are letters.

G. Cohen, S. Afshar, J. Tapson, A. van Schaik: EMNIST: an extension of MNIST to handwritten letters (2017). Its IDX
files and TFDS's `emnist/*` hold each image with rows and columns exchanged.
"""

import string
from collections.abc import Mapping
from pathlib import Path

from mlp_workload.errors import UserError
from mlp_workload.files import read_at_most

TURNED = "EMNIST stores its images transposed: they are turned upright"
_LONGEST_MAPPING = 2**16
"""Bytes."""
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_NAMES: Mapping[str, Mapping[int, str]] = {
    "byclass": dict(enumerate(string.digits + string.ascii_uppercase + string.ascii_lowercase)),
    "bymerge": dict(enumerate(_MERGED)),
    "balanced": dict(enumerate(_MERGED)),
    "letters": {k: f"{letter}{letter.lower()}" for k, letter in enumerate(string.ascii_uppercase, start=1)},
}
"""Label to name, as the mapping files of the sets have it. A class of letters holds both cases."""


def is_emnist(name: str) -> bool:
    """Returns whether a prefix of IDX files, "emnist-letters", or a TFDS name, "emnist/letters:3.1.0", is EMNIST's."""
    return name.lower().replace("/", "-").partition(":")[0].partition("-")[0] == "emnist"


def class_names(name: str, classes: int, mapping: Path | None = None) -> tuple[str, ...]:
    """The names of labels 0 to `classes` - 1 by the `mapping` file, if it is there, else by the set's `name`.

    A label without a name is its number. Raises `UserError` if the file is no mapping.
    """
    if mapping is not None and mapping.is_file():
        names = _read(mapping)
    elif is_emnist(name):  # its configuration, byclass if TFDS is given none
        names = _NAMES.get(name.lower().replace("/", "-").partition(":")[0].partition("-")[2] or "byclass", {})
    else:
        names = {}
    return tuple(names.get(label, str(label)) for label in range(classes))


def _read(path: Path) -> Mapping[int, str]:
    """Lines of a label and the code points of its characters, such as "1 65 97"."""
    try:
        lines = read_at_most(path, _LONGEST_MAPPING).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a mapping of labels to characters, as it is no text") from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            label, *codes = map(int, line.split())
            name = "".join(map(chr, codes))
        except (ValueError, OverflowError):
            name = ""
        if not name.strip() or not name.isprintable():
            raise UserError(f"{path}, line {number}: not a label and the codes of its characters, such as 1 65 97")
        names[label] = name
    return names
