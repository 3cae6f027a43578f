"""The check of the built site finds what it is for, each planted into pages that are well."""

import pytest

from website.check import problems

PAGES = {
    "index.html": '<h2 id="here">x</h2><a href="#here">x</a><a href="sub/page.html#there">x</a><img src="a.svg">'
    '<a href="https://example.org/else">x</a><link rel="canonical" href="https://example.org/"><a href="sub/">x</a>',
    "sub/index.html": '<a href="../index.html">x</a>',
    "sub/page.html": '<a name="there"></a><a href="../index.html?q#here">x</a><p style="background: url(../a.svg)">',
    "404.html": '<a href="/index.html">x</a><script src="/a.js"></script>',
    "a.svg": "<svg/>",
    "a.js": "",
    "a.css": "p { background: url(data:image/png;base64,xx), url('a.svg') }",
}


@pytest.fixture
def site(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_link_out_of_the_site_leads_nowhere(site):
    (site / "within").mkdir()
    (site / "within/index.html").write_text('<a href="../index.html">x</a>')
    assert list(problems(site / "within")) == ["index.html: ../index.html leads nowhere"]


def test_a_site_that_is_well_has_no_problems(site):
    assert list(problems(site)) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("index.html", '<a href="gone.html">x</a>', "index.html: gone.html leads nowhere"),
        (
            "sub/page.html",
            '<a href="index.html#gone">x</a>',
            "sub/page.html: index.html#gone names no place of that page",
        ),
        ("index.html", '<a href="/a.svg">x</a>', "index.html: /a.svg leads nowhere"),
        ("index.html", '<a href="#gone">x</a>', "index.html: #gone names no place of that page"),
        ("sub/page.html", '<img src="a.svg">', "sub/page.html: a.svg leads nowhere"),
        ("404.html", '<a href="sub/gone.html">x</a>', "404.html: sub/gone.html leads nowhere"),
        ("index.html", '<script src="https://cdn.example/x.js"></script>', "index.html needs https://cdn.example/x.js"),
        ("index.html", '<link rel="stylesheet" href="//fonts.example/f">', "index.html needs //fonts.example/f"),
        ("index.html", "<style>@import 'http://e.example/f.css'</style>", "index.html needs http://e.example/f.css"),
        ("index.html", "<svg><use href='https://e.example/i#i'/></svg>", "index.html needs https://e.example/i#i"),
        ("a.css", "p { background: url(https://e.example/p.png) }", "a.css needs https://e.example/p.png"),
    ],
)
def test_what_is_planted_is_found(site, name, text, problem):
    (site / name).write_text(PAGES[name] + text)
    assert list(problems(site)) == [problem]


def test_an_empty_folder_is_no_site(tmp_path):
    assert list(problems(tmp_path)) == [f"{tmp_path}: no pages"]
