"""A page that remembers what went wrong on it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"


class WatchedPage:
    """A Playwright page (`page`) with its console errors, its failed and its foreign requests (`problems`)."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("console", lambda said: self.problems.append(f"console: {said.text}") if said.type == "error" else None)
        page.on("request", lambda request: self._note_foreign(request.url))
        page.on("requestfailed", lambda request: self._note_failed(request.url, request.failure or ""))

    def assert_no_console_errors(self) -> None:
        """Fail with all that went wrong so far, if anything did."""
        assert not self.problems, "on the page:\n" + "\n".join(self.problems)

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the page as ``test-artifacts/NAME.png``, and return its path."""
        path = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def _note_foreign(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost"):
            self.problems.append(f"foreign request: {url}")

    def _note_failed(self, url: str, why: str) -> None:
        if "ERR_ABORTED" not in why:  # the page itself gave it up, as on leaving
            self.problems.append(f"failed request: {url} ({why})")
