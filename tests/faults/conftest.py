"""Fixtures of the fault tests, which run from the Molecule scenario `faults`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.site import Site, Traffic


@pytest.fixture(scope="session")
def site() -> Site:
    return Site.of_environment()


@pytest.fixture(scope="session")
def traffic(site: Site) -> Iterator[Traffic]:
    visitors = Traffic(site.url)
    yield visitors
    visitors.stop()
