"""Reads a built site as a browser without a network would: `python website/check.py build/site`.

Exit status 1, with a line each, where a link leads nowhere or something that a page needs is on another host.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """`links` are what a reader may follow, `needs` what the browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.needs: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        address = found.get("href", found.get("xlink:href"))
        if tag == "a" and address is not None:
            self.links.append(address)
        elif address is not None and (tag != "link" or found.get("rel") != "canonical"):
            self.needs.append(address)
        self.needs += [found[name] for name in ("src", "poster") if name in found]
        self.needs += _in_css(found.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.needs += _in_css(data)


def _in_css(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", text)


@cache
def _page(path: Path) -> Page:
    return Page(path.read_text())


def problems(site: Path) -> Iterator[str]:
    pages = sorted(site.rglob("*.html"))
    if not pages:
        yield f"{site}: no pages"
    for path in pages:
        page = _page(path)
        for address in dict.fromkeys(page.links + page.needs):
            yield from _problems_of(site, path, address, is_needed=address in page.needs)
    for path in sorted(site.rglob("*.css")):
        for address in _in_css(path.read_text()):
            yield from _problems_of(site, path, address, is_needed=True)


def _problems_of(site: Path, path: Path, address: str, is_needed: bool) -> Iterator[str]:
    where = path.relative_to(site)
    parts = urlsplit(address)
    if parts.scheme in ("data", "mailto"):
        return
    if parts.scheme or parts.netloc:
        if is_needed:
            yield f"{where} needs {address}"
        return
    # A server shows 404.html at any address; in the other pages an absolute path leads out of the site.
    below = parts.path.lstrip("/") if where.name == "404.html" else parts.path
    target = (path.parent / unquote(below) if below else path).resolve()
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or not target.is_relative_to(site.resolve()):
        yield f"{where}: {address} leads nowhere"
    elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in _page(target).ids:
        yield f"{where}: {address} names no place of that page"


def main() -> None:
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "every link leads somewhere, and no page needs another host")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
