"""A real Chromium for tests of pages: one browser for the run, a fresh context for each use.

Playwright's synchronous API leaves its event loop behind as the running one of the thread, and
`asyncio.run` would refuse to work in every later test. So the loop is put in place while a context
is open, and taken away afterwards.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PATIENCE = 30_000  # milliseconds; only a broken page makes a test wait so long
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def program() -> str | None:
    """Where Chromium is; None where it is not installed."""
    return shutil.which("chromium")


class Chromium:
    """The browser. Everything that touches it happens while one of its contexts is open."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._loop = asyncio._get_running_loop()
        self._open = 0
        asyncio._set_running_loop(None)

    @contextlib.contextmanager
    def context(self, **options: Any) -> Iterator[BrowserContext]:
        """A browser of its own: storage, cookies, cache. `options` are Playwright's."""
        with self._awake():
            options.setdefault("viewport", {"width": 1440, "height": 900})
            context = self._browser.new_context(**options)
            context.set_default_timeout(PATIENCE)
            try:
                yield context
            finally:
                context.close()

    @contextlib.contextmanager
    def page(self, **options: Any) -> Iterator[Page]:
        """A page in a context of its own. What its scripts complain about fails the test."""
        with self.context(**options) as context:
            page = context.new_page()
            with no_complaints(page):
                yield page

    @contextlib.contextmanager
    def remembering(self) -> Iterator[Page]:
        """A page of a browser that keeps pages for the way back, as people's browsers do and
        Playwright's own does not."""
        with self._awake():
            kept = self._browser.browser_type.launch(
                executable_path=program(),
                args=ARGUMENTS,
                ignore_default_args=["--disable-back-forward-cache"],
            )
            try:
                page = kept.new_page()
                page.set_default_timeout(PATIENCE)
                with no_complaints(page):
                    yield page
            finally:
                kept.close()

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        self._open += 1
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                asyncio._set_running_loop(None)


@contextlib.contextmanager
def no_complaints(page: Page) -> Iterator[None]:
    """Errors of scripts and of the content security policy fail the test that opened the page."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if _is_complaint(message) else None,
    )
    yield
    assert complaints == []


def _is_complaint(message: Any) -> bool:
    # What the network did is the test's own doing, and the page's to cope with.
    return message.type == "error" and "Failed to load resource" not in message.text


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """One browser for the run; skips, naming it, where there is none."""
    path = program()
    if path is None:
        pytest.skip("needs Chromium (Debian: chromium)")
    playwright = sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
    made = Chromium(browser)
    yield made
    with made._awake():
        browser.close()
        playwright.stop()
