"""Loads TFDS sets of small grey images. Only preparing a set needs TensorFlow."""

import contextlib
import difflib
import functools
import io
import logging
import os
import re
import socket
import sys
import textwrap
import threading
import urllib.request
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mlp_workload.data.dataset import Dataset, Examples
from mlp_workload.data.emnist import class_names, is_emnist
from mlp_workload.errors import UserError

_PIP = "pip install '.[tfds]' in the project's folder"
_PATIENCE = 6.0  # seconds to connect; a download under way has no limit


def load_tfds(name: str, prepare: bool = True) -> Dataset:
    """Loads the TFDS set `name`, such as "mnist", "emnist/letters" or "mnist:3.0.1".

    A set prepared in $TFDS_DATA_DIR or ~/tensorflow_datasets is read without network, in its stored order: images
    (n, height, width) uint8, labels (n,) int32. The test set is the split "test", else "validation". EMNIST stays
    `transposed`, as TFDS has it; its classes are named by letters.

    If `prepare`, other sets are prepared there first. That needs TensorFlow and, unless TFDS has the files in its
    download cache, the network. Raises `UserError` for an unknown name, a missing package or connection, or a damaged
    set. A set must be of grey uint8 images of one size with class labels.
    """
    source = f"tfds:{name}"
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    unreadable = f"cannot be read; if damaged, remove it from {folder} to have it prepared again"
    with _quiet():
        with _one_line(source, unreadable):
            builder = _find(name, folder)
        if builder is None and not prepare:
            raise UserError(f"{source}: not prepared in {folder}")
        if builder is None:
            with _one_line(source, "cannot be prepared"):
                _prepare(name, folder)
        with _one_line(source, unreadable):
            builder = builder or _find(name, folder)
            image, label = _keys(builder)
            splits = list(builder.info.splits)
            test = "test" if "test" in splits else "validation"
            if not {"train", test} <= set(splits):
                raise UserError(f"needs the splits train and test (or validation), has {', '.join(splits)}")
            train_examples, test_examples = (_read(builder, split, image, label) for split in ("train", test))
            names = tuple(builder.info.features[label].names)
    if names == tuple(map(str, range(len(names)))):  # TFDS names EMNIST's letters by numbers too
        names = class_names(name, len(names))
    return Dataset(source, train_examples, test_examples, names, transposed=is_emnist(name))


def _find(name: str, folder: str) -> Any:
    """Returns a read-only builder of the prepared set; None if it is not prepared."""
    from tensorflow_datasets.core import read_only_builder, registered  # the package itself hides what it cannot import

    # No namespace such as huggingface:, which needs the network.
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\d*]+(\.[\d*]+){2})?", name):
        raise UserError("not a name of TFDS, which look like mnist, emnist/letters or mnist:3.0.1")
    try:
        return read_only_builder.builder_from_files(name, data_dir=folder)
    except registered.DatasetNotFoundError:
        return None


def _prepare(name: str, folder: str) -> None:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = tfds.builder(name, data_dir=folder)
    except DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        hint = f", which knows {', '.join(near)}" if near else ""
        raise UserError(f"neither prepared in {folder} nor known to TFDS{hint}") from error
    _keys(builder)  # refuse an unfit set before its download
    if builder.data_path.exists():
        raise UserError(f"damaged; remove {builder.data_path} to have it prepared again")
    _import_tensorflow(f"not prepared in {folder}; to prepare it")
    _limit_connection_time()
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(file_format="array_record", download_config=config)


def _keys(builder: Any) -> tuple[str, str]:
    """Returns the names of the image and label features. Raises `UserError` if the network can't take them."""
    import tensorflow_datasets as tfds

    features = dict(sorted(builder.info.features.items()))
    image, label, *_ = builder.info.supervised_keys or ("image", "label")
    if not isinstance(features.get(image), tfds.features.Image):
        raise UserError(f"feature {image} is not an image; the features are {', '.join(features)}")
    if not isinstance(features.get(label), tfds.features.ClassLabel) or not features[label].num_classes:
        raise UserError(f"feature {label} is not a class label; the features are {', '.join(features)}")
    shape, dtype = features[image].shape, np.dtype(features[image].np_dtype)
    if len(shape) != 3 or None in shape or shape[2] != 1 or dtype != np.uint8:
        raise UserError(f"needs grey uint8 images of one size (height, width, 1), has {dtype} {shape}")
    return image, label


def _read(builder: Any, split: str, image: str, label: str) -> Examples:
    count = builder.info.splits[split].num_examples
    images = np.empty((count, *builder.info.features[image].shape), np.uint8)
    labels = np.empty(count, np.int32)
    start = 0
    for batch in _batches(builder, split):
        stop = start + len(batch)
        np.stack([example[image] for example in batch], out=images[start:stop])  # raises if shapes differ
        labels[start:stop] = [example[label] for example in batch]
        start = stop
    return Examples(images[..., 0], labels)


def _batches(builder: Any, split: str) -> Iterator[list[dict[str, Any]]]:
    import tensorflow_datasets as tfds

    try:
        records = builder.as_data_source(split)
    except NotImplementedError:  # prepared as tfrecord, which only TensorFlow reads
        _import_tensorflow(f"prepared in {builder.data_path} as {builder.info.file_format.value}; to read that")
        in_order = tfds.ReadConfig(interleave_cycle_length=1)
        yield from ([example] for example in tfds.as_numpy(builder.as_dataset(split, read_config=in_order)))
    else:
        for start in range(0, len(records), 1000):  # one by one takes 1.5 times as long
            yield records.__getitems__(range(start, min(start + 1000, len(records))))


def _import_tensorflow(purpose: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN announces itself at any log level
    try:
        from tensorflow import config
    except ImportError as error:
        raise UserError(f"{purpose}, TensorFlow is needed: {_PIP} ({textwrap.shorten(str(error), 300)})") from error
    with contextlib.suppress(RuntimeError):  # in use already
        config.set_visible_devices([], "GPU")  # else TensorFlow reserves the memory that training needs


@functools.cache
def _limit_connection_time() -> None:
    """Makes downloads without network fail in seconds, not minutes.

    It is never undone, because queued downloads outlive the first failure.
    """
    from tensorflow_datasets.core.download import downloader

    open_url = downloader._open_url

    def open_reachable_url(url: str, **options: Any) -> Any:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "ftp": 21}.get(parts.scheme, 443)
        proxied = urllib.request.getproxies().keys() & {parts.scheme, "all"}
        if not proxied and not _reachable(parts.hostname or "", port):
            raise UserError(f"not prepared, and no connection to {parts.hostname}; connect, or bring the prepared set")
        return open_url(url, **options)

    downloader._open_url = open_reachable_url
    downloader.MAX_RETRIES = 2  # of 10, waiting 200 s in all


def _reachable(host: str, port: int) -> bool:
    """Returns whether `host` accepts a connection in time. Uses a thread: name look-ups have no time limit."""
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_PATIENCE):
            connected.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_PATIENCE)
    return connected.is_set()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses warnings, logs and TFDS's lines on standard output."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def _one_line(source: str, failure: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except ImportError as error:
        raise UserError(f"{source}: {textwrap.shorten(str(error), 300)} ({_PIP})") from error
    except Exception as error:  # builders, TensorFlow, protobuf, array_record and Pillow share no narrower class
        raise UserError(f"{source}: {failure} ({textwrap.shorten(f'{type(error).__name__}: {error}', 300)})") from error
