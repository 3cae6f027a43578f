"""TFDS's own `mnist`, prepared with TensorFlow from the shipped files, holds the shipped MNIST in another order."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import ROOT
from tensorflow_datasets.core.download import resource

import mlp_workload.data.tfds
from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

SHIPPED = ROOT / "mlp_workload/data/mnist"
pytestmark = pytest.mark.timeout(900)  # TensorFlow is slow to import and to prepare on a busy machine

FIRST_LABELS = [4, 1, 0, 7, 8]

# Loads mnist while the network is gone in one of three ways; says whether TensorFlow came in.
LOAD = """
import os, socket, sys, time

blocked, network = sys.argv[1:]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

class SilentSocket(socket.socket):
    def connect(self, address):
        time.sleep(300 if self.gettimeout() is None else self.gettimeout())
        raise TimeoutError("timed out")

sys.meta_path.insert(0, Blocker())
if network == "untouched":
    # urllib3 opens a socket in its import, to see whether there is IPv6.
    reaches_out = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}
    sys.addaudithook(lambda event, args: event in reaches_out and os._exit(99))
elif network == "names stay unanswered":
    socket.getaddrinfo = lambda *args, **kwargs: time.sleep(300)
elif network == "hosts stay unanswered":
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{k}", 443)) for k in range(1, 9)]
    socket.getaddrinfo = lambda *args, **kwargs: addresses
    socket.socket = SilentSocket
else:
    def refuse(*args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")
    socket.getaddrinfo = refuse

from mlp_workload.data.tfds import load_tfds
from mlp_workload.errors import UserError

try:
    print(load_tfds("mnist").digest, "with" if "tensorflow" in sys.modules else "without", "TensorFlow")
except UserError as error:
    print(error)
    sys.exit(2)
"""


def load_elsewhere(folder, network, blocked="nothing", timeout=None):
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"TFDS_DATA_DIR": str(folder)}
    command = [sys.executable, "-c", LOAD, blocked, network]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def fill_download_cache(folder):
    """Puts the shipped files where TFDS keeps its downloads, which it knows by address and sum.

    The shipped files have the content of the published ones but are compressed otherwise, and so have other sums. TFDS
    trusts the name of a file in its cache, which has the published sum in it.
    """
    downloads = folder / "downloads/mnist"
    downloads.mkdir(parents=True)
    for url, url_info in tfds.builder_cls("mnist").url_infos.items():
        path = downloads / resource.get_dl_fname(url, url_info.checksum)
        shutil.copy(SHIPPED / url_info.filename, path)
        resource.write_info_file(
            url=url, path=path, dataset_name="mnist", original_fname=url_info.filename, url_info=url_info
        )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A data folder where mnist was prepared from the download cache, and what was printed meanwhile."""
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    fill_download_cache(folder)
    result = load_elsewhere(folder, "untouched")
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.rmtree(folder / "downloads")
    return folder, result


@pytest.fixture(scope="session")
def stock(prepared):
    folder, _ = prepared
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
        return load_tfds("mnist")


def as_set(examples):
    return sorted(
        image.tobytes() + bytes([label]) for image, label in zip(examples.images, examples.labels, strict=True)
    )


def test_stock_mnist_is_the_shipped_mnist_in_another_order(stock, mnist):
    assert stock.class_names == mnist.class_names
    for read, shipped in ((stock.train, mnist.train), (stock.test, mnist.test)):
        assert (read.labels[:100] != shipped.labels[:100]).any()
        assert as_set(read) == as_set(shipped)
    assert stock.train.labels[:5].tolist() == FIRST_LABELS


def test_preparing_takes_tensorflow_prints_nothing_and_uses_the_download_cache(prepared, stock):
    _, result = prepared
    assert result.stdout == f"{stock.digest} with TensorFlow\n"
    assert result.stderr == ""


def test_reading_again_takes_neither_tensorflow_nor_network(prepared, stock):
    folder, _ = prepared
    result = load_elsewhere(folder, "untouched")
    assert result.stdout == f"{stock.digest} without TensorFlow\n"
    assert result.stderr == ""


@pytest.mark.parametrize("network", ["names are refused", "names stay unanswered", "hosts stay unanswered"])
def test_without_network_it_fails_soon(network, tmp_path):
    result = load_elsewhere(tmp_path, network, timeout=120)  # TFDS itself takes minutes
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout == (
        "tfds:mnist: not prepared, and no connection to storage.googleapis.com; connect, or bring the prepared set\n"
    )


def test_importlib_resources_is_named_where_it_is_missing(tmp_path):
    result = load_elsewhere(tmp_path, "untouched", blocked="importlib_resources")
    assert (result.returncode, result.stderr) == (2, "")
    assert "importlib_resources" in result.stdout
    assert result.stdout.endswith("(pip install '.[tfds]' in the project's folder)\n")


@pytest.fixture
def few(monkeypatch):
    """Prepares the first 1000 examples of each split alone: TFDS takes a minute for all."""
    config = functools.partial(tfds.download.DownloadConfig, max_examples_per_split=1000)
    monkeypatch.setattr(tfds.download, "DownloadConfig", config)


def test_a_slow_download_goes_on(few, tmp_path, monkeypatch):
    """Through TFDS's whole download, from a server that takes longer than a connection may."""

    class SlowServer(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=SHIPPED, **kwargs)

        def copyfile(self, source, outputfile):
            outputfile.write(source.read(1000))
            outputfile.flush()
            time.sleep(2)
            super().copyfile(source, outputfile)

        def log_message(self, *args):
            pass

    fill_download_cache(tmp_path / "cached")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "cached"))
    cached = load_tfds("mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(mlp_workload.data.tfds, "_PATIENCE", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", f"http://127.0.0.1:{server.server_port}/")
        assert load_tfds("mnist").digest == cached.digest
        server.shutdown()


def test_a_server_without_the_file_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *args: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(tfds.builder_cls("mnist"), "URL", f"http://127.0.0.1:{server.server_port}/none/")
        with pytest.raises(UserError, match=r"^tfds:mnist: cannot be prepared \(DownloadError: .*404\.\)$"):
            load_tfds("mnist")
        server.shutdown()


def test_tfrecord_is_read_in_its_stored_order(few, tmp_path, monkeypatch):
    """The format that `tfds.load` leaves behind; here in several files, which TFDS would read by turns."""
    fill_download_cache(tmp_path)
    config = tfds.download.DownloadConfig(num_shards=3)
    tfds.builder("mnist", data_dir=tmp_path).download_and_prepare(download_config=config)
    assert len(list(tmp_path.glob("mnist/3.0.1/*.tfrecord-*"))) == 6
    fill_download_cache(tmp_path / "one file")
    read = []
    for folder in (tmp_path, tmp_path / "one file"):
        monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
        read.append(load_tfds("mnist"))
    np.testing.assert_array_equal(read[0].train.labels, read[1].train.labels, strict=True)
    np.testing.assert_array_equal(read[0].train.images, read[1].train.images, strict=True)
    assert read[0].digest == read[1].digest


def test_cut_tfrecord_is_refused(few, tmp_path, monkeypatch):
    fill_download_cache(tmp_path)
    tfds.builder("mnist", data_dir=tmp_path).download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(load_tfds("mnist").train) == 1000
    (file,) = tmp_path.glob("mnist/3.0.1/mnist-train.tfrecord-*")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UserError, match=rf"^tfds:mnist: cannot be read; if damaged, remove it from {tmp_path} .*\)$"):
        load_tfds("mnist")
