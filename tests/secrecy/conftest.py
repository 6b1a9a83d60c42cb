"""Fixtures of the secrecy tests, which run from the Molecule scenario `release`."""

from __future__ import annotations

import pytest

from tests.faults.site import Site
from tests.secrecy.story import Story, make_story


@pytest.fixture(scope="session")
def site() -> Site:
    return Site.of_environment()


@pytest.fixture(scope="session")
def story(site: Site) -> Story:
    return make_story(site)
