"""Records the problems of a page during a test."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, Response

ARTEFACTS = Path(__file__).parent / "artefacts"


@dataclass
class Watch:
    """The problems of a page; ``expected`` is the status of an error page that the test requests."""

    origin: str
    expected: int = 0
    problems: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Record every console error, failed request and request to another origin."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url} ({request.failure})"))
        page.on("response", self._response)

    def _console(self, message: ConsoleMessage) -> None:
        where = message.location["url"]
        if where == f"{self.origin}/favicon.ico":
            return  # Django's administration names no icon, so the browser requests this one
        if message.type in {"error", "warning"} and not (
            self.expected and f"status of {self.expected}" in message.text
        ):
            self.problems.append(f"console: {message.text} ({where})")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.origin}/", "data:")):
            self.problems.append(f"request to another origin: {request.url}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status != self.expected:
            self.problems.append(f"{response.status}: {response.url}")


def answering(url: str, advice: str) -> str:
    """Return the URL without its last slash if a site answers there; fail with the advice otherwise."""
    problem = ""
    try:
        urllib.request.urlopen(url, timeout=10).close()  # noqa: S310  # the tester's own site
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem:
        pytest.fail(f"No site answers at {url} ({problem}).\n{advice}", pytrace=False)
    return url.rstrip("/")
