"""What the tests of secrecy share; they run from the Molecule scenario `release`."""

from __future__ import annotations

import pytest

from tests.faults.site import Site
from tests.secrecy.story import Story, told


@pytest.fixture(scope="session")
def site() -> Site:
    return Site.of_environment()


@pytest.fixture(scope="session")
def story(site: Site) -> Story:
    return told(site)
