"""Gets the third-party files of Visdom's page, which Visdom does not ship.

Visdom downloads them one after another without a time limit, and its server does not start before. All of them except
MathJax are also in packages of the npm registry.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mlp_workload.errors import UserError
from mlp_workload.files import clear_write_errors, read_at_most, write_atomically


@dataclass(frozen=True)
class Asset:
    """A file of Visdom's page, by its path below Visdom's static/, without which the page lacks `feature`.

    `source` is its path in the npm `package`, which is empty if only Visdom's own download has the file.
    """

    target: str
    package: str
    source: str
    feature: str


_LARGEST = 2**26
"""Most bytes of a file; the largest, plotly, has four million."""
_GRAPHS = "network graphs"


def assets() -> list[Asset]:
    """Returns the files that the installed Visdom needs."""
    is_0_3 = tuple(int(part) for part in version("visdom").split(".")[:2]) >= (0, 3)
    resizable, grid = ("react-resizable@3.1.3", "react-grid-layout@2.2.3") if is_0_3 else (
        "react-resizable@1.4.6", "react-grid-layout@0.16.3"
    )  # fmt: skip
    mathjax = "js/mathjax/3.2.2/es5/tex-mml-svg.js" if is_0_3 else "js/mathjax/2.7.5/MathJax.js"
    fonts = [
        Asset(f"fonts/{name}", "bootstrap@3.3.7", f"dist/fonts/{name}", "icons")
        for name in (f"glyphicons-halflings-regular.{kind}" for kind in ("eot", "svg", "ttf", "woff", "woff2"))
    ]
    return [
        Asset("js/jquery.min.js", "jquery@3.1.1", "dist/jquery.min.js", "everything"),
        Asset("js/react-react.min.js", "react@16.2.0", "umd/react.production.min.js", "everything"),
        Asset("js/react-dom.min.js", "react-dom@16.2.0", "umd/react-dom.production.min.js", "everything"),
        Asset("js/react-modal.min.js", "react-modal@3.1.10", "dist/react-modal.min.js", "everything"),
        Asset("js/layout_bin_packer.js", "layout-bin-packer@1.4.0", "dist/layout-bin-packer.js", "everything"),
        Asset("js/plotly-plotly.min.js", "plotly.js-dist-min@2.11.1", "plotly.min.js", "curves"),
        Asset("js/bootstrap.min.js", "bootstrap@3.3.7", "dist/js/bootstrap.min.js", "menus"),
        Asset("css/bootstrap.min.css", "bootstrap@3.3.7", "dist/css/bootstrap.min.css", "the layout of the windows"),
        Asset("css/react-resizable-styles.css", resizable, "css/styles.css", "the layout of the windows"),
        Asset("css/react-grid-layout-styles.css", grid, "css/styles.css", "the layout of the windows"),
        Asset("js/sjcl.js", "sjcl@1.0.7", "sjcl.js", "login"),
        Asset("js/d3.v3.min.js", "d3@3.5.17", "d3.min.js", _GRAPHS),
        Asset("js/d3-selection-multi.v1.js", "d3-selection-multi@1.0.1", "build/d3-selection-multi.js", _GRAPHS),
        Asset("js/saveSvgAsPng.js", "save-svg-as-png@1.4.17", "lib/saveSvgAsPng.js", "saving graphs as pictures"),
        *fonts,
        Asset(mathjax, "", "", "formulas"),
    ]  # fmt: skip


def static_folder() -> Path:
    from visdom.utils.shared_utils import get_visdom_path

    return Path(get_visdom_path("static"))


def missing(static: Path) -> list[Asset]:
    return [asset for asset in assets() if not (static / asset.target).is_file()]


def install(static: Path, seconds: float) -> None:
    """Puts missing files into `static`: from a node_modules/ here or above, through npm, or by Visdom's own download.

    Takes at most `seconds`. Raises `UserError` if `static` can't be written; `missing` then tells what failed.
    """
    deadline = time.monotonic() + seconds
    _from_node_modules(static)
    _from_npm(static, deadline)
    if _packaged(static):  # Visdom's download also gets the formulas' files, which alone are not worth the wait
        _from_visdom(static, deadline)


def _packaged(static: Path) -> list[Asset]:
    return [asset for asset in missing(static) if asset.package]


def _from_node_modules(static: Path) -> None:
    here = Path.cwd()
    for asset in _packaged(static):
        name, _, wanted = asset.package.rpartition("@")
        for folder in (here, *here.parents):
            package = folder / "node_modules" / name
            with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError):
                if json.loads(read_at_most(package / "package.json", _LARGEST))["version"] == wanted:
                    _write(static, asset, read_at_most(package / asset.source, _LARGEST))
                    break


def _from_npm(static: Path, deadline: float) -> None:
    wanted = _packaged(static)
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        npm = shutil.which("npm") or "npm"  # on Windows it is npm.cmd
        command = [npm, "pack", "--json", "--fetch-retries=0", "--pack-destination", folder]
        answer = _run([*command, *sorted({asset.package for asset in wanted})], deadline)
        try:
            archives = {f"{found['name']}@{found['version']}": found["filename"] for found in json.loads(answer)}
        except (ValueError, KeyError, TypeError):
            return  # npm failed, or printed something else
        for asset in wanted:
            path, content = Path(folder, archives.get(asset.package, "")), b""
            with contextlib.suppress(KeyError, OSError, tarfile.TarError), tarfile.open(path) as archive:
                if member := archive.extractfile(f"package/{asset.source}"):
                    content = member.read()
            if content:
                _write(static, asset, content)


def _from_visdom(static: Path, deadline: float) -> None:
    script = "import sys; from visdom.server.build import download_scripts; download_scripts(install_dir=sys.argv[1])"
    _run([sys.executable, "-c", script, str(static.parent)], deadline)


def _run(command: Sequence[str], deadline: float) -> str:
    """Returns the output of the command; empty if it is missing, fails, or takes too long."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=max(deadline - time.monotonic(), 0)
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _write(static: Path, asset: Asset, content: bytes) -> None:
    target = static / asset.target
    with clear_write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)


def features(absent: Iterable[Asset]) -> list[str]:
    return list(dict.fromkeys(asset.feature for asset in absent))
