"""Chromium for the browser tests."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

from tests.browser.watch import ARTEFACTS, Watch, answering

DEVELOPMENT = "test_development.py"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENS: dict[str, ViewportSize] = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
# Time limit of an action in the browser, milliseconds.
PATIENCE = 15_000


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the development environment's test unless the command line names it: it needs another site."""
    named = any(DEVELOPMENT in argument for argument in config.invocation_params.args)
    return True if collection_path.name == DEVELOPMENT and not named else None


@pytest.fixture(scope="session")
def site_url() -> str:
    """Address of the deployed reference site."""
    return answering(
        os.environ.get("SITE_URL", "http://localhost:8080/"),
        "Deploy the reference site to the sandbox: make demo\nOr name another: SITE_URL=http://… pytest tests/browser",
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("There is no chromium on this machine: `scripts/setup test` installs it.", pytrace=False)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> str:
    """Name of a screen size."""
    return str(request.param)


@pytest.fixture
def context(browser: Browser, screen: str) -> Iterator[BrowserContext]:
    """A new visitor, without cookies."""
    phone = screen == "phone"
    visitor = browser.new_context(viewport=SCREENS[screen], is_mobile=phone, has_touch=phone, device_scale_factor=2)
    visitor.set_default_timeout(PATIENCE)
    yield visitor
    visitor.close()


@pytest.fixture
def watch(site_url: str) -> Watch:
    """The problems of this test's page."""
    return Watch(site_url)


@pytest.fixture
def page(request: pytest.FixtureRequest, context: BrowserContext, watch: Watch) -> Iterator[Page]:
    """A page that must have no problems at the end of the test; its final state is kept as a screenshot."""
    tab = context.new_page()
    watch.follow(tab)
    yield tab
    ARTEFACTS.mkdir(exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    tab.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)
    assert watch.problems == []
