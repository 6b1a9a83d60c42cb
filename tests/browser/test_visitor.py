"""A visitor uses the deployed reference site through Nginx, on a desktop and on a phone."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.watch import ARTEFACTS, Watch


@dataclass(frozen=True)
class Bar:
    """One bar of a results chart: votes, share in per cent, and the drawn share of the track."""

    votes: int
    percent: int
    drawn: float


def number(text: str | None) -> int:
    """Return the first number in a text, 0 where there is none."""
    found = re.search(r"\d+", text or "")
    return int(found[0]) if found else 0


def width(part: Locator) -> float:
    """Return the width of an element in pixels; 0 if it is missing."""
    if part.count() == 0:
        return 0
    box = part.bounding_box()
    return box["width"] if box else 0


def chart(page: Page) -> dict[str, Bar]:
    """Read the results page's chart, by choice."""
    bars = {}
    for row in page.locator(".chart > li").all():
        bars[row.locator(".label").inner_text()] = Bar(
            votes=number(row.locator(".value .facts").text_content()),
            percent=number(row.locator(".value").text_content()),
            drawn=100 * width(row.locator("rect.fill")) / width(row.locator("rect.track")),
        )
    return bars


def total(page: Page) -> int:
    """Return the total of votes on the results page."""
    return number(page.locator("article > .facts").text_content())


def fits(page: Page) -> bool:
    """Return whether the page is not wider than the screen."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.fixture
def poll(page: Page, site_url: str) -> Page:
    """The page of the newest poll, reached from the front page."""
    page.goto(f"{site_url}/")
    expect(page.locator("h1")).to_be_visible()
    assert fits(page)
    page.locator(".polls a").first.click()
    expect(page.get_by_role("button", name="Vote")).to_be_visible()
    return page


def test_vote(poll: Page, screen: str) -> None:
    question = poll.locator("h1").inner_text()
    address = poll.url
    poll.get_by_role("link", name="See the results").click()
    expect(poll.locator(".chart > li")).not_to_have_count(0)
    before, votes = chart(poll), total(poll)

    poll.goto(address)
    labels = poll.locator("label.choice")
    label = labels.nth(votes % labels.count())  # another choice in each run, so that the bars differ
    choice = label.inner_text().strip()
    label.click()
    assert fits(poll)
    poll.screenshot(path=ARTEFACTS / f"ballot-{screen}.png", full_page=True)
    poll.get_by_role("button", name="Vote").click()

    expect(poll.get_by_role("status")).to_contain_text(f"Your vote for “{choice}” is counted.")
    expect(poll.locator("h1")).to_have_text(question)
    after = chart(poll)
    assert {name: bar.votes - before[name].votes for name, bar in after.items()} == {
        name: int(name == choice) for name in before
    }
    assert total(poll) == votes + 1 == sum(bar.votes for bar in after.values())
    for bar in after.values():
        assert bar.percent == round(100 * bar.votes / total(poll))
        assert bar.drawn == pytest.approx(bar.percent, abs=1)
    assert fits(poll)

    poll.reload()
    assert chart(poll) == after, "a reload must not vote again"


def test_vote_without_choice(poll: Page) -> None:
    poll.get_by_role("button", name="Vote").click()
    expect(poll.get_by_role("alert")).to_have_text("Please choose an answer.")
    expect(poll.get_by_role("button", name="Vote")).to_be_visible()


def test_page_that_does_not_exist(page: Page, site_url: str, watch: Watch) -> None:
    watch.expected = 404
    answer = page.goto(f"{site_url}/no-such-page/")
    assert answer is not None
    assert answer.status == 404
    expect(page.locator("h1")).to_have_text("Not found")
    assert "DEBUG" not in page.content()
    page.get_by_role("link", name="All polls").click()
    expect(page.locator(".polls a")).not_to_have_count(0)


def test_administration_has_its_static_files(page: Page, site_url: str) -> None:
    page.goto(f"{site_url}/admin/")
    expect(page.locator("#id_username")).to_be_visible()
    header = page.locator("#header").evaluate("element => getComputedStyle(element).backgroundColor")
    assert header != "rgba(0, 0, 0, 0)", "the administration has no style sheet"
