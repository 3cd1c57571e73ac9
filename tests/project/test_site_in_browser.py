"""The documentation site in a real browser: search, links, both themes, desktop and phone widths.

``scripts/docs.sh browser`` installs Debian's Chromium; where there is none, these tests are skipped.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.project.questions import QUESTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page, expect, sync_playwright
    from playwright.sync_api import Error as BrowserError
else:
    # The built wheel is tested where only what its tests need is installed, and these modules are loaded there, too.
    playwright = pytest.importorskip("playwright.sync_api")
    expect, sync_playwright, BrowserError = playwright.expect, playwright.sync_playwright, playwright.Error

DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE_MS = 100_000  # of each wait; none depends on how quickly its condition comes true

pytestmark = [pytest.mark.sources, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a Chromium, if there is one that starts."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: scripts/docs.sh browser installs it on Debian, as root")
    with sync_playwright() as library:
        # Root needs the first in a container, and a small /dev/shm the second.
        try:
            started = library.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except BrowserError as exc:
            pytest.skip(f"{chromium} does not start here: {exc}")
        yield started
        started.close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on a free port."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the start page at the width of a desktop, in the light theme, and fail for errors in the console."""
    errors: list[str] = []
    expect.set_options(timeout=PATIENCE_MS)
    context = browser.new_context(viewport={"width": DESKTOP[0], "height": DESKTOP[1]}, color_scheme="light")
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda sent: None if sent.url.startswith((address, "data:")) else errors.append(sent.url))
    opened.goto(address + "index.html")
    yield opened
    context.close()
    assert errors == []


def search(page: Page, address: str, words: str) -> list[str]:
    """Open the start page with a search, as a link may ask for, and return the addresses of the results in order."""
    page.goto(f"{address}index.html?{urlencode({'q': words})}")
    results = page.locator(".md-search-result__item > a")
    expect(results.first).to_be_visible()
    return [str(result.get_attribute("href")) for result in results.all()]


def test_search_leads_to_a_section_that_marks_the_words(page: Page) -> None:
    expect(page.locator(".md-search-result__meta")).to_have_text("Type to start searching")  # the index is loaded
    page.locator("input.md-search__input").press_sequentially("SQLITE_BUSY_SNAPSHOT")  # it listens to keys
    page.locator("a[href$='h=sqlite_busy_snapshot#database-is-locked']").click()

    page.wait_for_url("**/troubleshooting.html*#database-is-locked")
    expect(page.locator("article mark").first).to_have_text("SQLITE_BUSY_SNAPSHOT")


def test_links_lead_from_page_to_page(page: Page, address: str) -> None:
    """From the start to a page, by a tab to the reference, and by an entry's link to its example."""
    page.locator("article").get_by_role("link", name="Quickstart").click()
    expect(page.locator("h1")).to_contain_text("Quickstart")

    page.locator(".md-tabs").get_by_role("link", name="Reference").click()
    page.locator(".md-sidebar--primary").get_by_role("link", name="Every name").first.click()
    page.locator("article").get_by_role("link", name="Results").click()
    page.locator("#rapsqlite\\.PreparedStatement ~ .doc-contents").get_by_role("link", name="Prepared").first.click()

    page.wait_for_url(f"{address}connection.html#prepared-statements")
    expect(page.locator("#prepared-statements")).to_be_in_viewport()


def test_theme_is_switched_and_remembered(page: Page) -> None:
    body = page.locator("body")
    light = body.evaluate("body => getComputedStyle(body).backgroundColor")

    page.get_by_title("Dark").click()
    expect(body).to_have_attribute("data-md-color-scheme", "slate")
    assert body.evaluate("body => getComputedStyle(body).backgroundColor") != light

    page.reload()
    expect(body).to_have_attribute("data-md-color-scheme", "slate")


def test_no_page_is_wider_than_a_phone(page: Page, site: Path, address: str) -> None:
    """Wide tables and programs scroll inside their frames."""
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.route(
        "**/workers/search*.js", lambda route: route.fulfill(content_type="text/javascript", body="")
    )  # its index
    names = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html") if "files" not in path.parts)
    too_wide = []
    for name in names:
        page.goto(address + name, wait_until="domcontentloaded")
        # The theme's script puts a frame around each table.
        expect(page.locator("article > table:not([class])")).to_have_count(0)
        if page.evaluate("document.documentElement.scrollWidth") > PHONE[0]:
            too_wide.append(name)

    assert len(names) > 50
    assert too_wide == []


def test_pictures_are_loaded(page: Page, address: str) -> None:
    """Their paths differ between the repository and the site."""
    page.goto(address + "performance.html")
    picture = page.locator("article img").first

    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_questions_of_users_find_their_page(page: Page, address: str) -> None:
    """Among the first five results."""
    results = {question: search(page, address, question.words)[:5] for question in QUESTIONS}
    lost = {
        question.words: found
        for question, found in results.items()
        if not any(f"/{question.page}.html" in result for result in found)
    }

    assert lost == {}
