"""EMNIST: images stored transposed, and classes that are letters.

G. Cohen, S. Afshar, J. Tapson, A. van Schaik: EMNIST: an extension of MNIST to handwritten letters (2017). Its IDX
files and TFDS's `emnist/*` hold each image with rows and columns exchanged.
"""

import string
from collections.abc import Mapping
from pathlib import Path

from mlp_workload.errors import UserError
from mlp_workload.files import read_at_most

TURNED = "EMNIST stores its images transposed: they are turned upright"
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_NAMES: Mapping[str, Mapping[int, str]] = {
    "byclass": dict(enumerate(string.digits + string.ascii_uppercase + string.ascii_lowercase)),
    "bymerge": dict(enumerate(_MERGED)),
    "balanced": dict(enumerate(_MERGED)),
    "letters": {k: f"{letter}{letter.lower()}" for k, letter in enumerate(string.ascii_uppercase, start=1)},
}
"""Names of labels, as in the sets' mapping files. A class of the set letters holds both cases."""


def is_emnist(name: str) -> bool:
    """Returns whether a file prefix ("emnist-letters") or TFDS name ("emnist/letters:3.1.0") is EMNIST's."""
    return _parts(name)[0] == "emnist"


def _parts(name: str) -> tuple[str, str, str]:
    return name.lower().replace("/", "-").partition(":")[0].partition("-")


def class_names(name: str, classes: int, mapping: Path | None = None) -> tuple[str, ...]:
    """Returns the names of labels 0 to `classes` - 1, from the `mapping` file or else by the set's `name`.

    A label without a name is named by its number. Raises `UserError` if the file is not a mapping.
    """
    if mapping is not None and mapping.is_file():
        names = _read(mapping)
    elif is_emnist(name):  # its configuration, byclass if TFDS is given none
        names = _NAMES.get(_parts(name)[2] or "byclass", {})
    else:
        names = {}
    return tuple(names.get(label, str(label)) for label in range(classes))


def _read(path: Path) -> Mapping[int, str]:
    """Reads lines of a label and the code points of its characters, such as "1 65 97"."""
    try:
        lines = read_at_most(path, 2**16).decode("utf-8-sig").splitlines()
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
