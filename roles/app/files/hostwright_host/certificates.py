"""What is known about a site's certificate: until when it counts, and how its last renewal went."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from typing import Any

from hostwright_host.health import span
from hostwright_host.site import Site, read_object

_SOON = 14 * 86400.0
"""Seconds before its end from which a certificate is a problem: one of a CA is renewed long before."""


def known(site: Site) -> dict[str, Any]:
    """Read what the role nginx and the renewal have written; empty if the site has no certificate."""
    path = site.tls.with_name("status.json")
    found: dict[str, Any] = (read_object(path) if path.exists() else {}).get(site.name) or {}
    return found


def problems(certificate: Mapping[str, Any], now: float) -> dict[str, str]:
    """Say what is wrong with it at a moment (seconds since the epoch), by kind."""
    found = {}
    expires = certificate.get("expires")
    if expires:
        left = calendar.timegm(time.strptime(expires, "%Y-%m-%dT%H:%M:%SZ")) - now
        if left <= 0:
            found["certificate"] = f"The certificate expired {expires}, {span(-left)} ago."
        elif left < _SOON:
            found["certificate"] = f"The certificate expires {expires}, in {span(left)}."
    if certificate.get("error"):
        said = " ".join(certificate["error"].split())
        found["renewal"] = f"{said} (tried {certificate.get('tried')})"
    return found
