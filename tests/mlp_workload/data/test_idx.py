"""IDX files: the shipped MNIST, folders in the layouts of torchvision and Debian, and damaged ones."""

import gzip
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import FASHION

from mlp_workload.data import load
from mlp_workload.data.idx import read_idx
from mlp_workload.data.shipped import load_mnist
from mlp_workload.errors import UserError

SHIPPED = Path(load_mnist.__defaults__[0])


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_set(folder: Path, prefix: str = "", test: str = "t10k", classes: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 60), (test, 30)):
        images = np.arange(n * 12).reshape(n, 4, 3)
        (folder / f"{prefix}{split}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % classes))


def test_mnist_is_mnist(mnist):
    assert mnist.train.images.shape == (60_000, 28, 28)
    assert mnist.test.images.shape == (10_000, 28, 28)
    assert mnist.train.images.dtype == np.uint8
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.class_names == tuple("0123456789")
    assert (mnist.pixels, mnist.classes) == (784, 10)
    # The mean and deviation that the tutorial standardises with.
    assert round(mnist.train.images.mean() / 255, 4) == 0.1307
    assert round(mnist.train.images.std() / 255, 4) == 0.3081


@pytest.mark.parametrize("where", [0, 9, 400, -5])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_one_flipped_byte_of_mnist_is_refused(where, name, tmp_path):
    """Of the content, recompressed, so that gzip's own sum can't find it."""
    for path in SHIPPED.glob("*.gz"):
        shutil.copy(path, tmp_path)
    content = bytearray(gzip.decompress((tmp_path / f"{name}.gz").read_bytes()))
    content[where] ^= 1
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(bytes(content), 1))
    with pytest.raises(UserError, match=rf"{name}\.gz: .*expected|{name}\.gz: its header"):
        load_mnist(tmp_path)


def test_the_shipped_files_as_a_folder_are_the_same_data(mnist):
    dataset = load(f"idx:{SHIPPED}")
    assert dataset.digest == mnist.digest
    assert dataset.class_names == mnist.class_names


@pytest.mark.parametrize("layout", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("dot", [False, True])
def test_layouts(layout, ending, dot, tmp_path):
    folder = tmp_path / layout
    write_set(folder)
    for path in list(folder.iterdir()):
        name = path.name.replace("-idx", ".idx") if dot else path.name
        content = path.read_bytes()
        path.unlink()
        (folder / (name + ending)).write_bytes(gzip.compress(content) if ending else content)
    dataset = load(f"idx:{tmp_path}")
    assert dataset.train.images.shape == (60, 4, 3)
    assert dataset.train.images[59, 3, 2] == (60 * 12 - 1) % 256
    assert dataset.test.labels.tolist() == [i % 10 for i in range(30)]
    assert dataset.classes == 10
    assert dataset.pixels == 12


def test_torchvisions_folder_holds_both_raw_and_gz(tmp_path):
    write_set(tmp_path)
    for path in list(tmp_path.iterdir()):
        Path(f"{path}.gz").write_bytes(b"not looked at")
    assert load(f"idx:{tmp_path}").classes == 10


def packed(path: Path) -> Path:
    """Replaces a file by its gz."""
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return target


def as_kaggle_lays_it(path: Path) -> None:
    """In a folder of its own name, and macOS's hidden file beside it."""
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(content)
    (path / f"._{path.name}").write_bytes(b"\0\5\26\7 macOS")


def dead_link(path: Path) -> None:
    packed(path)
    path.symlink_to("gone")


def link_to_itself(path: Path) -> None:
    packed(path)
    path.symlink_to(path.name)


def hidden_file(path: Path) -> None:
    for name in (path.name, f"{path.name}.gz", f"emnist-letters-{path.name}"):
        path.with_name(f"._{name}").write_bytes(b"\0\5\26\7 macOS")


def empty_folder(path: Path) -> None:
    packed(path)
    path.mkdir()


def folder_of_gz(path: Path) -> None:
    """As an unpacker lays it that names the folder after the archive."""
    content = path.read_bytes()
    path.unlink()
    folder = path.with_name(f"{path.name}.gz")
    folder.mkdir()
    (folder / path.name).write_bytes(content)


DISTURBED = [as_kaggle_lays_it, dead_link, link_to_itself, hidden_file, empty_folder, folder_of_gz]


@pytest.mark.parametrize("disturb", DISTURBED)
def test_the_good_file_is_read(disturb, tmp_path):
    write_set(tmp_path)
    digest = load(f"idx:{tmp_path}").digest
    for path in list(tmp_path.iterdir()):
        disturb(path)
    dataset = load(f"idx:{tmp_path}")
    assert dataset.digest == digest
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes, too short"),
        (idx(np.arange(20)), "starts with"),
        (idx(np.zeros((60, 4, 3)))[:-1], "holds only 719"),
    ],
    ids=["empty", "labels", "cut"],
)
def test_a_good_gz_stands_in_for_a_damaged_file_and_says_so(content, says, tmp_path):
    write_set(tmp_path)
    digest, path = load(f"idx:{tmp_path}").digest, tmp_path / "train-images-idx3-ubyte"
    packed(path)
    path.write_bytes(content)
    dataset = load(f"idx:{tmp_path}")
    assert dataset.digest == digest
    (warning,) = dataset.warnings
    assert says in warning
    assert warning.endswith("; train-images-idx3-ubyte.gz is read instead")


@pytest.mark.parametrize(
    ("leave", "says"),
    [
        (lambda path: path.symlink_to("gone"), "a link that leads nowhere"),
        (Path.mkdir, "not a file"),
        (lambda path: Path(f"{path}.gz").mkdir(), "not a file"),
    ],
    ids=["dead link", "folder", "folder of gz"],
)
def test_without_a_good_file_it_says_what_is_there(leave, says, tmp_path):
    write_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.unlink()
    leave(path)
    with pytest.raises(UserError, match=f"train-images-idx3-ubyte.*: {says}"):
        load(f"idx:{tmp_path}")


def as_qmnist(folder: Path, train: np.ndarray, test: np.ndarray) -> str:
    """Images, and labels of eight columns or so, as QMNIST names them."""
    for split, rows in (("train", train), ("test", test)):
        (folder / f"qmnist-{split}-images-idx3-ubyte").write_bytes(idx(np.arange(len(rows) * 12).reshape(-1, 4, 3)))
        header = struct.pack(">HBB2I", 0, 12, 2, *rows.shape)
        (folder / f"qmnist-{split}-labels-idx2-int").write_bytes(header + rows.astype(">i4").tobytes())
    return f"idx:{folder}"


def rows(n: int) -> np.ndarray:
    """Class, then NIST's series, writer, index and so on."""
    return np.stack([np.arange(n) % 10, *np.random.default_rng(0).integers(0, 500_000, (7, n))], axis=1)


@pytest.mark.parametrize("gz", [False, True])
def test_qmnists_labels_are_column_0(gz, tmp_path):
    source = as_qmnist(tmp_path, rows(60), rows(30))
    for path in list(tmp_path.iterdir()) if gz else ():
        packed(path)
    dataset = load(source)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(60)]
    assert dataset.train.labels.dtype == np.int32
    assert dataset.notes == ("the labels are column 0 of idx2-int files of 8 columns",)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (np.zeros((60, 0)), "its rows of labels are empty"),
        (rows(60) - 1, "label 0 is -1, expected 0 to 255"),
        (np.where(rows(60) == 9, 2**31 - 1, rows(60)), "label 9 is 2147483647, expected 0 to 255"),
        (rows(59), "60 training images but 59 labels"),
    ],
)
def test_bad_rows_of_labels_are_refused(train, message, tmp_path):
    source = as_qmnist(tmp_path, rows(60), rows(30))
    header = struct.pack(">HBB2I", 0, 12, 2, *train.shape)
    (tmp_path / "qmnist-train-labels-idx2-int").write_bytes(header + train.astype(">i4").tobytes())
    with pytest.raises(UserError, match=message):
        load(source)


LEFT_BY_DOWNLOADS = {
    "html": (b"<!DOCTYPE html><html>Not found</html>", "an HTML page, as a failed download leaves"),
    "html after a mark": (b"\xef\xbb\xbf\r\n <html>", "an HTML page"),
    "short html": (b"<a>", "an HTML page, .*3 bytes, too short"),
    "text": (b'{"message": "Access denied"}', "text; starts with"),
    "zip": (b"PK\3\4" + bytes(40), "a zip archive: unpack it"),
    "xz": (b"\xfd7zXZ" + bytes(40), "an xz file: unpack it"),
    "bzip2": (b"BZh9" + bytes(40), "a bzip2 file: unpack it"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("inside", [False, True], ids=["as it is", "in a gz"])
@pytest.mark.parametrize(("content", "message"), LEFT_BY_DOWNLOADS.values(), ids=LEFT_BY_DOWNLOADS)
def test_what_was_saved_as_gz_is_named(content, message, inside, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content) if inside else content)
    with pytest.raises(UserError, match=rf"ubyte\.gz: {message}"):
        read_idx(path, 3)


def test_a_gz_in_a_gz_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.compress(idx(np.zeros((60, 4, 3))))))
    with pytest.raises(UserError, match=r"ubyte\.gz: another gzip file: unpack the outer one"):
        read_idx(path, 3)


def test_several_sets_in_one_folder_are_told_apart_by_prefix(tmp_path):
    write_set(tmp_path / "EMNIST/raw", "emnist-letters-", "test", classes=26)
    write_set(tmp_path / "EMNIST/raw", "emnist-digits-", "test")
    with pytest.raises(UserError, match=r"several data sets.*name one: idx:.*emnist-digits, idx:.*emnist-letters"):
        load(f"idx:{tmp_path}")
    assert load(f"idx:{tmp_path}/EMNIST/raw/emnist-letters").classes == 26
    with pytest.raises(UserError, match="no IDX files there"):
        load(f"idx:{tmp_path}/EMNIST/raw/emnist-letter")


def test_labels_from_1_keep_their_numbers(tmp_path):
    """As in EMNIST letters, whose labels are 1 .. 26."""
    write_set(tmp_path)
    for split, n in (("train", 60), ("t10k", 30)):
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % 26 + 1))
    assert load(f"idx:{tmp_path}").class_names == tuple(map(str, range(27)))


@pytest.mark.parametrize(
    ("part", "labels", "classes", "warning"),
    [
        ("t10k", np.arange(30) % 10, 10, None),
        ("t10k", np.r_[np.arange(29) % 10, 12], 13, r"only the test set has class 12 \(example 29\), which cannot be"),
        ("t10k", np.arange(30) % 9, 10, r"only the training set has class 9 \(example 9\), which is never tested"),
        ("train", np.arange(60) % 9, 10, r"only the test set has class 9 \(example 9\), which cannot be learned"),
        ("train", np.arange(60) % 26, 26, r"only the training set has class 10, 11, .*, 19 and 6 more \(example 10\)"),
    ],
)
def test_a_class_in_one_set_alone_is_a_warning(part, labels, classes, warning, tmp_path):
    write_set(tmp_path)
    (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    dataset = load(f"idx:{tmp_path}")
    assert dataset.classes == classes
    assert len(dataset.warnings) == (warning is not None)
    assert warning is None or re.match(warning, dataset.warnings[0])


def broken_sets():
    good = np.arange(30) % 10

    def at(value):
        labels = good.copy()
        labels[7] = value
        return idx(labels)

    compressed = gzip.compress(idx(good), mtime=0)
    flipped = bytearray(compressed)
    flipped[-12] ^= 1
    name = "t10k-labels-idx1-ubyte"
    yield name, None, "test labels missing"
    yield name, b"", f"{name}: 0 bytes, too short"
    yield name, idx(good)[:-1], f"{name}: its header promises 30 = 30 bytes, the file holds only 29"
    yield name, idx(good) + b"\0", f"{name}: its header promises 30 = 30 bytes, the file holds more"
    yield name, b"\0\0\x0d\x01" + idx(good)[4:], f"{name}: starts with 00 00 0d 01, expected 00 00 08 01"
    yield name, idx(good.reshape(5, 6)), f"{name}: starts with 00 00 08 02, expected 00 00 08 01"
    yield name, b"<!DOCTYPE html>", f"{name}: an HTML page, .* starts with 3c 21 44 4f"
    yield name, idx(good[:29]), "30 test images but 29 labels"
    yield name, compressed[:-9], f"{name}: damaged gzip"
    yield name, bytes(flipped), f"{name}: damaged gzip"
    yield name, compressed[:6], f"{name}: damaged gzip"
    yield "t10k-images-idx3-ubyte", idx(np.zeros((30, 3, 4))), "training images are 4x3, test images 3x4"
    yield "t10k-images-idx3-ubyte", idx(np.zeros((0, 4, 3))), "0 test images but 30 labels"
    yield "train-images-idx3-ubyte", idx(np.zeros((60, 0, 3))), "the training set is empty"
    huge = struct.pack(">HBB3I", 0, 8, 3, 2**20, 2**10, 2**10)
    yield "train-images-idx3-ubyte", huge + b"\0" * 100, "promises 1048576 x 1024 x 1024 = 1099511627776 bytes, more"
    yield "train-images-idx3-ubyte", gzip.compress(huge + b"\0" * 100, mtime=0), "= 1099511627776 bytes, more"
    most = struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3)
    yield "train-images-idx3-ubyte", most, "more than the file can hold"


@pytest.mark.parametrize(("name", "content", "message"), list(broken_sets()))
def test_a_broken_set_is_refused(name, content, message, tmp_path):
    write_set(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(f"idx:{tmp_path}")


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    """2 GiB of zeros behind an honest header are read by pieces; what the header leaves out is not unpacked."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(1)) + b"\0" * 2**27, 1))
    with pytest.raises(UserError, match="promises 1 = 1 bytes, the file holds more"):
        read_idx(path, 1)


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="no IDX files there"):
        load(f"idx:{tmp_path}")
    with pytest.raises(UserError, match="no such folder"):
        load(f"idx:{tmp_path}/a/b")


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_as_debian_ships_it():
    dataset = load(f"idx:{FASHION}")
    assert dataset.train.images.shape == (60_000, 28, 28)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.labels[:5].tolist() == [9, 0, 0, 3, 0]
