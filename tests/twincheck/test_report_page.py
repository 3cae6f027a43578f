"""The page of a report: what is in it, and what a real browser makes of it."""

import dataclasses
import re

import pytest
import small_port
from browser import CHROMIUM, chromium

import twincheck
from twincheck.page import render
from twincheck.recording import Place
from twincheck.report import Finding

HOSTILE = "<script>alert(1)</script>\"'&\x1b\u202e"


@pytest.fixture(scope="module")
def report():
    """A check of a wrong port, with a cause for the first place that is out."""
    report = twincheck.pair(*small_port.wrong()).check()
    finding = Finding(
        "gelu-tanh", "GELU by tanh.", "approximate=False", (report.out[0],), "", ("https://docs.example",)
    )
    return dataclasses.replace(report, findings=[finding], notes=["a note"])


def test_the_page_names_no_other_host_but_in_links(report):
    page = render(report.as_dict())
    assert re.findall(r"\w+://[^\"<]*", page) == ["https://docs.example", "https://docs.example"]
    assert '<a href="https://docs.example"' in page
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\bsrc=", page)
    assert "default-src 'none'" in page


def test_the_page_has_each_place(report):
    page = render(report.as_dict())
    assert page.count('class="bar"') == len(report.places)
    assert page.count("<b>differs</b>") == len(report.out)
    assert page.index("GELU by tanh.") < page.index("Unknown cause") < page.index("The JAX model")
    assert "state[&#34;a.weight&#34;].T" in page


def test_hostile_names_are_text(report):
    place = dataclasses.replace(
        report.out[0], before=HOSTILE, after=HOSTILE, torch=HOSTILE, place=Place(HOSTILE, 0, "output", 0)
    )
    finding = Finding(HOSTILE, HOSTILE, HOSTILE, (place,), HOSTILE, ("javascript:alert(1)", HOSTILE))
    places = [*report.places, place, dataclasses.replace(place, kind="code")]
    page = render(dataclasses.replace(report, places=places, findings=[finding], notes=[HOSTILE]).as_dict())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert 'href="javascript' not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


@pytest.mark.parametrize(
    ("difference", "width"), [(0.0, 0.0), (1e-20, 0.0), (1e-8, 50.0), (1.0, 100.0), (1e3, 100.0), (float("nan"), 100.0)]
)
def test_bars_are_logarithmic_from_1e_16_to_1(difference, width, report):
    place = dataclasses.replace(report.places[0], difference=difference, scale=1.0, allowed=1e-4)
    page = render(dataclasses.replace(report, places=[place]).as_dict())
    assert f'<span style="width:{width}%"></span><i style="left:75.0%"></i>' in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("width", "scheme"),
    [(1280, "light"), pytest.param(400, "dark", marks=pytest.mark.long("repeats a page in a browser"))],
)
def test_a_browser_shows_the_page(width, scheme, report, tmp_path):
    report.html(tmp_path / "report.html")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        trouble = []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda message: trouble.append(message.text))
        page.on("request", lambda request: trouble.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        assert trouble == [(tmp_path / "report.html").as_uri()]
        assert page.inner_text("h1") == report.verdict
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.get_by_text("differs", exact=True).first.is_visible()
        code = page.get_by_text("def convert(state):")
        assert not code.is_visible()
        page.get_by_text("as code").click()
        assert code.is_visible()
        bar = page.locator(".out .bar").first.bounding_box()
        assert bar["width"] > 100
