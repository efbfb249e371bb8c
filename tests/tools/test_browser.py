"""Every page of the built website, loaded in headless Chromium.

``defects`` lists what is wrong with a page; below, each of its detectors is shown a page that it
must object to. Chromium is the system's; without one the tests are skipped.
"""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from book._tools import site as site_tool
from book._tools.course_map import CHAPTERS

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine has an address; a page that asks for anything else fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

# Two functions: one waits for mathematics and widgets and lists what is wrong, one looks for overflow.
INSPECT, OVERFLOW = Path(__file__).with_name("page_defects.js").read_text(encoding="utf-8").split("// ---\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium (chromium, chromium-browser or google-chrome) on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site() -> Path:
    return site_tool.build()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve ``root`` on this machine and give its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def watched(opener: Browser | BrowserContext, base: str) -> Iterator[tuple[Page, list[str]]]:
    """Give a new page, and a list that fills with its errors and its requests that go wrong."""
    found: list[str] = []

    def requested(request) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            found.append(f"external request {request.url}")

    def answered(response) -> None:
        if response.status >= 400:
            found.append(f"failed request {response.status} {response.url.removeprefix(base)}")

    def logged(message) -> None:
        if message.type == "error":
            found.append(f"console error: {message.text}")

    page = opener.new_page()
    page.set_viewport_size(WIDE)
    page.on("request", requested)
    page.on("response", answered)
    page.on("pageerror", lambda error: found.append(f"page error: {error}"))
    page.on("console", logged)
    try:
        yield page, found
    finally:
        page.close()


def defects(opener: Browser | BrowserContext, base: str, name: str) -> list[str]:
    """Return what is wrong with the page, a line each."""
    with watched(opener, base) as (page, found):
        page.goto(base + name, wait_until="load")
        found += page.evaluate(INSPECT)
        page.set_viewport_size(PHONE)
        found += page.evaluate(OVERFLOW)
        return found


def test_every_page_is_sound(site, browser):
    pages = [path.relative_to(site) for path in site.rglob("*.html") if path != site / "index.html"]
    names = sorted(path.as_posix() for path in pages if path.parts[0] != "_static")
    assert len(names) > 2 * len(CHAPTERS)
    with served(site) as base, browser.new_context() as context:  # one context, so that scripts are cached
        found = {name: defects(context, base, name) for name in names}
    lines = [f"{name}: {line}" for name, problems in found.items() for line in dict.fromkeys(problems)]
    assert not lines, "\n" + "\n".join(lines)


def test_the_address_of_the_site_leads_to_the_front_page(site, browser):
    with served(site) as base, watched(browser, base) as (page, found):
        page.goto(base)
        page.wait_for_url(f"{base}book/index.html")
        assert page.locator("svg.course-picture").is_visible()
        assert not found


@pytest.mark.parametrize("query", ["attention", "GPTOSSConfig", "bits per byte"])
def test_search_finds(site, browser, query):
    with served(site) as base, watched(browser, base) as (page, found):
        page.goto(f"{base}search.html?q={query}")
        page.wait_for_selector("ul.search li a", timeout=15_000)
        page.wait_for_load_state("networkidle")
        assert not found


def test_the_page_follows_the_systems_theme(site, browser):
    with served(site) as base:
        shades = []
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme)
            page = context.new_page()
            page.goto(f"{base}notebooks/{CHAPTERS[0].stem}.html")
            shades.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            behind = "(figure) => getComputedStyle(figure.parentElement).backgroundColor"
            assert page.locator("svg.course-figure").first.evaluate(behind) == "rgba(0, 0, 0, 0)"
            context.close()
    light, dark = (sum(map(int, shade[4:-1].split(",")[:3])) for shade in shades)
    assert light > 700 and dark < 120


def test_a_slider_changes_what_its_widget_shows(site, browser):
    """The page has no kernel, so this shows that the browser does the work."""
    moved = 0
    with served(site) as base:
        for chapter in CHAPTERS:
            text = (site / "notebooks" / f"{chapter.stem}.html").read_text(encoding="utf-8")
            if "widget-view+json" not in text:
                continue
            with watched(browser, base) as (page, found):
                page.goto(f"{base}notebooks/{chapter.stem}.html")
                handle = page.locator(".noUi-handle").first
                handle.wait_for(timeout=15_000)
                area = page.locator(".widget-subarea", has=page.locator(".noUi-handle")).first
                before = area.inner_text()
                handle.focus()
                handle.press("ArrowRight")
                handle.press("ArrowRight")
                if area.inner_text() == before:
                    handle.press("ArrowLeft")
                    handle.press("ArrowLeft")
                    handle.press("ArrowLeft")
                assert area.inner_text() != before, chapter.stem
                assert not found
            moved += 1
    assert moved


HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title><link rel="icon" href="data:,">'
WIDGET_VIEW = '<script type="application/vnd.jupyter.widget-view+json">{"model_id": "0"}</script>'
WIDGET_AREA = '<div class="widget-subarea"><div class="jupyter-widgets"></div></div>'


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("<script>console.error('oh no')</script>", "console error: oh no"),
        ("<script>throw new Error('oh no')</script>", "page error: oh no"),
        ('<img alt="a" src="http://example.org/a.png">', "external request http://example.org/a.png"),
        ('<script src="gone.js"></script>', "failed request 404 gone.js"),
        ("<p>The loss is $-\\log p$ here.</p>", 'raw TeX "$-'),
        ("<p>\\(x\\)</p>", 'raw TeX "\\('),
        ('<p><span class="math">x</span></p>', "mathematics not typeset"),
        ('<mjx-container><mjx-merror data-mjx-error="Undefined"></mjx-merror></mjx-container>', "TeX error"),
        (f'<div class="cell_output">{WIDGET_VIEW}</div>', "empty widget"),
        (f'<div class="cell_output">{WIDGET_AREA}{WIDGET_VIEW}</div>', "empty widget"),
        ('<div class="cell_output"><pre class="traceback">ValueError</pre></div>', "stored traceback"),
        ('<div class="cell_output"><pre>Traceback (most recent call last):</pre></div>', "stored traceback"),
        ('<p style="width: 900px">wide</p>', "wider than a phone: 908 > 360, <p"),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">', "no alternative text: data:"),
        ('<svg viewBox="0 0 1 1"></svg>', "no alternative text: <svg"),
    ],
)
def test_a_defect_is_found(browser, tmp_path, body, complaint):
    (tmp_path / "bad.html").write_text(f"{HEAD}<article>{body}</article></html>", encoding="utf-8")
    with served(tmp_path) as base:
        found = defects(browser, base, "bad.html")
    assert any(complaint in line for line in found), found


def test_a_sound_page_has_no_defect(browser, tmp_path):
    (tmp_path / "good.html").write_text(
        f"{HEAD}<article><p>It costs $5, or $10 with <code>$x$</code>.</p>"
        '<svg role="img" aria-label="nothing" viewBox="0 0 1 1"></svg></article></html>',
        encoding="utf-8",
    )
    with served(tmp_path) as base:
        assert defects(browser, base, "good.html") == []
