"""A new secret key is a release: the old key is accepted for a time, and after a failure the site still has one key."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.release import containers, secret_key
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.rollback import RollbackRequest
from ansible_collections.hostwright.django.plugins.module_utils.release.secret_key import Fallback, SecretKey
from ansible_collections.hostwright.django.plugins.module_utils.release.transaction import Transaction
from ansible_collections.hostwright.django.plugins.modules import rotate

from tests.unit.plugins.release.pretended_engine import Killed
from tests.unit.plugins.release.test_transaction import World, make, no_fsync, world

__all__ = ["make", "no_fsync", "world"]
pytestmark = pytest.mark.usefixtures("owners", "no_fsync")

DAY = 24 * 60 * 60
NOW = 1_800_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Stop the clock of the keys; return a function that sets it to a number of days after its beginning."""

    def to(days: int) -> None:
        monkeypatch.setattr(secret_key, "time", SimpleNamespace(time=lambda: NOW + days * DAY))

    to(0)
    return to


def test_a_rotation_is_a_release_with_a_new_key_that_accepts_the_old_one(world: World) -> None:
    world.release("1.0")
    old = world.site.secret_key()
    outcome = world.releases().rotate(14 * DAY)
    assert (outcome.action, outcome.release, outcome.held) == ("released", 2, 0)
    key = world.site.secret_key()
    assert key.value != old.value
    assert len(key.value) > 50
    assert key.fallbacks == (Fallback(old.value, NOW + 14 * DAY),)
    world.assert_consistent(world.spec("1.0"))
    configured = json.loads(world.site.release_configuration(2).read_text())
    assert configured["secret_key_file"] == "/run/secrets/secret_key"
    assert (world.site.memory / "2" / "secret_key").read_text() == key.value
    assert (world.site.secrets(2) / "secret_key").read_text() == key.value
    assert (world.site.secrets(1) / "secret_key").read_text() == old.value  # the old release used it until its end
    assert (world.site.secrets(2) / "TOKEN").read_text() == "the-token\n"
    assert world.release("1.0").action == "none"


def test_releases_after_a_rotation_keep_both_keys_until_the_time_is_over(
    world: World, clock: Callable[[int], None]
) -> None:
    world.release("1.0")
    world.releases().rotate(14 * DAY)
    key = world.site.secret_key()
    world.release("2.0")
    assert world.site.secret_key() == key
    world.releases().rollback(RollbackRequest(to=1, schema="reverse"))  # a release of the time when the old key signed
    assert world.site.secret_key() == key
    world.assert_consistent(world.spec("1.0"))
    clock(14)
    world.offer("1.1")
    world.release("1.1")
    assert world.site.secret_key() == SecretKey(key.value)
    assert not (world.site.secrets(5) / "secret_key_fallbacks").exists()


@pytest.mark.parametrize(
    ("days", "first", "second"),
    [(14, 14, 4 + 14), (2, 4 + 2, 4 + 2), (0, None, None)],
)
def test_an_older_key_is_accepted_no_longer_than_before_or_than_the_rotation_says(
    world: World, clock: Callable[[int], None], days: int, first: int | None, second: int | None
) -> None:
    world.release("1.0")
    one = world.site.secret_key().value
    world.releases().rotate(14 * DAY)
    two = world.site.secret_key().value
    clock(4)
    world.releases().rotate(days * DAY)
    expected = {two: second, one: first}
    assert {fallback.key: fallback.until for fallback in world.site.secret_key().fallbacks} == {
        key: NOW + until * DAY for key, until in expected.items() if until is not None
    }


def test_a_key_that_older_releases_share_is_rotated(world: World) -> None:
    world.release("1.0")
    shared = world.site.configuration / "secrets" / "secret_key"
    (world.site.secrets(1) / "secret_key").rename(shared)
    assert world.release("1.0").action == "none"
    world.release("1.1")
    assert (world.site.secrets(2) / "secret_key").read_text() == shared.read_text()
    world.releases().rotate(DAY)
    assert world.site.secret_key().fallbacks == (Fallback(shared.read_text(), NOW + DAY),)


def test_a_site_without_a_release_has_nothing_to_rotate(world: World) -> None:
    with pytest.raises(ReleaseError, match="no live release on this host: deploy it first"):
        world.releases().rotate(DAY)
    assert world.picture() == {}


def test_days_become_seconds_and_negative_days_are_refused() -> None:
    assert (rotate.seconds_of(14), rotate.seconds_of(0)) == (14 * DAY, 0)
    with pytest.raises(ReleaseError, match="-1 is negative"):
        rotate.seconds_of(-1)


def test_the_keys_are_not_shown(world: World) -> None:
    world.release("1.0")
    world.releases().rotate(DAY)
    found = world.site.secret_key()
    keys = (found.value, found.fallbacks[0].key)
    holding = {
        path.relative_to(world.site.configuration).as_posix()
        for path in world.site.root.rglob("*")
        if path.is_file() and any(key in path.read_text() for key in keys)
    }
    assert holding == {"secrets/1/secret_key", "secrets/2/secret_key", "secrets/2/secret_key_fallbacks"}
    assert not any(key in f"{world.engine.calls}{found!r}" for key in keys)


@pytest.mark.parametrize("fault", ["status", "gone", "kill"])
def test_wherever_it_fails_the_site_has_the_key_of_the_release_that_serves(
    make: Callable[[], World], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "REMOVAL_SECONDS", 0.0)
    undo = Transaction.undo
    kept = rotated = 0
    for number in range(1000):
        world = make()
        world.release("1.0")
        old = world.site.secret_key()
        picture = world.picture()
        world.engine.calls.clear()
        world.engine.fail_at, world.engine.fault = number, fault
        if fault == "kill":
            monkeypatch.setattr(Transaction, "undo", lambda *_: None)  # a killed process undoes nothing
        try:
            world.releases().rotate(DAY)
        except (ReleaseError, Killed):
            pass
        else:
            if len(world.engine.calls) <= number:
                break
        monkeypatch.setattr(Transaction, "undo", undo)
        world.engine.fail_at = -1
        key, live = world.site.secret_key(), world.site.current_record()
        assert live
        if live.release == 1:
            kept += 1
            assert key == old
            assert world.engine.containers["polls-1"].running
            if fault == "status":
                assert world.picture() == picture
        else:
            rotated += 1
            assert key.fallbacks == (Fallback(old.value, NOW + DAY),)
        assert world.release("1.0").action in ("none", "started")
        world.assert_consistent(world.spec("1.0"))
        assert world.site.secret_key() == key
    assert kept > 5
    assert rotated > 2
