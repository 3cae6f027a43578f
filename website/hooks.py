"""Pages that MkDocs does not find in docs/: the README and its neighbours, and the lessons as they have just run."""

import re
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
ABOVE_DOCS = {"README.md": "index.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
"""Pages by the file that they are."""
AT_ONCE = 2
"""Lessons; much of one is imports and compilation, which keep one core busy."""
CELL_SECONDS = 300
LINES_SHOWN = 25
"""Lines of a cell that a reader sees; a longer one needs a title, under which it is folded."""
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")
_ANSI = re.compile(r"\x1b\[[\d;]*m")

log = get_plugin_logger("lessons")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, page in ABOVE_DOCS.items():
        if (ROOT / name).exists():
            files.append(File.generated(config, page, content=with_links_from_docs((ROOT / name).read_text())))
    lessons = sorted((ROOT / "lessons").glob("[0-9]*.py"))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for lesson, text in zip(lessons, pool.map(run, lessons), strict=True):
            files.append(File.generated(config, f"lessons/{lesson.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Pages of docs/ may lead above it, as they do in the repository."""
    is_in_docs = not page.file.generated_by and "/" not in page.file.src_uri
    return with_links_from_docs(markdown.replace("](../", "](")) if is_in_docs else markdown


def with_links_from_docs(text: str) -> str:
    """Returns text from above docs/ with links as inside it; a link to a file that is no page keeps only its label."""

    def link(match: re.Match[str]) -> str:
        label, target, place = match.groups("")
        if target.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')}{place})"
        if target in ABOVE_DOCS:
            return f"[{label}]({ABOVE_DOCS[target]}{place})"
        if re.fullmatch(r"lessons/\d\w+\.py", target):
            return f"[{label}]({target.removesuffix('.py')}.md)"
        return label if (ROOT / target).exists() else match[0]

    return _LINK.sub(link, text)


def run(lesson: Path) -> str:
    """Executes it in a kernel and a folder of its own; its text, code and results as Markdown.

    The first figure comes right behind the introduction. Raises `PluginError`, which ends the build, if a cell fails,
    warns or is too long, or if there is no figure in the end.
    """
    start = time.perf_counter()
    notebook = jupytext.read(lesson)
    with tempfile.TemporaryDirectory(prefix="lesson-") as folder:
        place = {"connection_file": f"{folder}/kernel.json", "transport": "ipc", "ip": f"{folder}/kernel"}
        kernel = Config({"ConnectionFileMixin": place})
        try:
            NotebookClient(notebook, kernel_name="python3", timeout=CELL_SECONDS, config=kernel).execute(cwd=folder)
        except CellExecutionError as error:
            raise PluginError(f"{lesson.name}: {_ANSI.sub('', str(error))}") from error
    parts = [part for cell in notebook.cells for part in as_markdown(cell, lesson.name)]
    figures = [part for part in parts if "<svg" in part]
    if not figures:
        raise PluginError(f"{lesson.name}: draws no figure")
    parts.remove(figures[0])
    parts.insert(1, figures[0])
    log.info(f"{lesson.name} took {time.perf_counter() - start:.1f} s")
    return "\n\n".join(["---\nhide: [toc]\n---", *parts])


def as_markdown(cell: NotebookNode, lesson: str) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield cell.source
        return
    code = f"```python\n{cell.source}\n```"
    if title := cell.metadata.get("title"):
        yield f'??? example "{title}"\n\n{textwrap.indent(code, "    ")}'
    elif cell.source.count("\n") >= LINES_SHOWN:
        raise PluginError(f"{lesson}: a cell of more than {LINES_SHOWN} lines needs a title: {cell.source[:60]!r}")
    else:
        yield code
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            raise PluginError(f"{lesson}: a cell writes to standard error: {output.text}")
        if output.output_type == "stream":
            yield f"``` {{ .text .output }}\n{output.text.rstrip()}\n```"
        elif "text/markdown" in output.data:
            yield output.data["text/markdown"]
        elif "text/html" in output.data:
            yield f"<div class='figure'>{output.data['text/html']}</div>"
        else:
            yield f"``` {{ .text .output }}\n{output.data['text/plain']}\n```"
