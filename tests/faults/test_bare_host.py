"""A bare host, on which a foreign web server runs."""

from __future__ import annotations

from tests.faults.site import Site


def test_a_port_that_is_taken(site: Site) -> None:
    run = site.deploy()
    assert run.status != 0
    assert "port 80" in run.one_line, run.output
    assert "python3" in run.one_line, run.output
