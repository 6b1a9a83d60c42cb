"""A saved edit of the source shows in the development environment.

DEV_URL is the environment's address. DEV_SOURCE is the directory of the site's source (a copy of `app/`) on this
machine or, as CONTAINER:DIRECTORY, in a container.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from playwright.sync_api import Error, Page, expect

from tests.browser.watch import Watch, answering

ADVICE = """Start the development environment, and set its address and source:
ansible-playbook deploy.yml -l dev
DEV_URL=http://localhost/ DEV_SOURCE=app pytest tests/browser/test_development.py"""
# An edit must show within this time, including a restart of the development server, seconds.
LIMIT = 60.0
# Time limit for a part of a page before the next try, milliseconds.
A_MOMENT = 2_000


@pytest.fixture(scope="session")
def site_url() -> str:
    """Address of the development environment."""
    return answering(os.environ.get("DEV_URL", "http://localhost/"), ADVICE)


@dataclass(frozen=True)
class Source:
    """The source directory of the development environment; ``container`` is empty on this machine."""

    directory: str
    container: str = ""

    def read(self, name: str) -> bytes:
        """Read a file."""
        return self._run(["cat", f"{self.directory}/{name}"])

    def save(self, name: str, content: bytes) -> None:
        """Write a file in place, as an editor does; its owner does not change."""
        self._run(["tee", f"{self.directory}/{name}"], content)

    def _run(self, command: list[str], given: bytes | None = None) -> bytes:
        if self.container:
            command = ["docker", "exec", "--interactive", self.container, *command]
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=30)
        if done.returncode:
            pytest.fail(f"DEV_SOURCE: {done.stderr.decode(errors='replace').strip()}\n{ADVICE}", pytrace=False)
        return done.stdout


@pytest.fixture(scope="session")
def source() -> Source:
    """The source that DEV_SOURCE names."""
    container, _, directory = os.environ.get("DEV_SOURCE", "app").rpartition(":")
    found = Source(directory, container)
    found.read("manage.py")
    return found


@pytest.fixture(params=["desktop"])
def screen(request: pytest.FixtureRequest) -> str:
    """One screen size is sufficient here."""
    return str(request.param)


@contextmanager
def edited(source: Source, name: str, old: str, new: str) -> Iterator[None]:
    """Save a file with one text replaced; restore the original afterwards."""
    original = source.read(name)
    assert original.decode().count(old) == 1, f"{name} does not have {old!r} once"
    source.save(name, original.decode().replace(old, new).encode())
    try:
        yield
    finally:
        source.save(name, original)


def wait_until(shown: Callable[[], bool], what: str) -> None:
    """Retry, also during a restart of the development server, until ``shown`` returns true."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            if shown():
                return
        except Error:
            pass  # the server restarts
        time.sleep(0.3)
    pytest.fail(f"{what} did not show within {LIMIT:.0f} s")


def test_edit_of_a_template(page: Page, site_url: str, source: Source) -> None:
    page.goto(f"{site_url}/")
    heading = page.locator("h1").inner_text()
    template = "polls/templates/polls/index.html"

    def shows(text: str) -> bool:
        page.reload()
        return page.locator("h1").inner_text() == text

    with edited(source, template, f"<h1>{heading}</h1>", "<h1>Edited while you watch</h1>"):
        wait_until(lambda: shows("Edited while you watch"), "the edit")
    wait_until(lambda: shows(heading), "the original")


def test_edit_of_code(page: Page, site_url: str, source: Source, watch: Watch) -> None:
    message = "Please choose an answer."
    page.goto(f"{site_url}/")
    page.locator(".polls a").first.click()
    address = page.url

    def shows(text: str) -> bool:
        page.goto(address)
        page.get_by_role("button", name="Vote").click(timeout=A_MOMENT)
        return page.get_by_role("alert").inner_text(timeout=A_MOMENT) == text

    with edited(source, "polls/forms.py", message, "Edited code."):
        wait_until(lambda: shows("Edited code."), "the edit")
    wait_until(lambda: shows(message), "the original")
    # Requests during the restart of the server fail; they are no problem of the page.
    watch.problems = [problem for problem in watch.problems if "net::ERR_" not in problem]
    expect(page.get_by_role("button", name="Vote")).to_be_visible()
