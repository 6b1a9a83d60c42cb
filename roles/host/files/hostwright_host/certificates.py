"""The certificates of this host's sites: renewal, expiry, and the result of the last renewal."""

from __future__ import annotations

import calendar
import os
import sys
import syslog
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.contract import CERTIFICATE_DAYS, TIME
from ansible_collections.hostwright.django.plugins.module_utils.nginx.acme import Authority, CertificateProblem

from hostwright_host.errors import CommandError
from hostwright_host.health import span
from hostwright_host.site import Site, read_object

_SOON = CERTIFICATE_DAYS * 86400.0
"""Seconds before its expiry from which a certificate is a problem: those of a CA are renewed long before."""


def renew(root: Path, chosen: Sequence[str], force: bool) -> int:
    """Obtain and renew certificates; cron calls this twice a day, a deployment calls it for the first certificate.

    Failures are written to the journal (journalctl -t hostwright), to tls/status.json and to standard error.

    Args:
        root: Nginx's directory on the host.
        chosen: names of sites; if empty, all sites whose certificate comes from a CA.
        force: whether to renew certificates that are not due, too.

    Returns:
        The exit status: 1 if a certificate could not be obtained.

    Raises:
        CommandError: a chosen site has no certificate from a CA.
    """
    authority = Authority(root)
    sites = authority.sites()
    if unknown := set(chosen) - set(sites):
        raise CommandError(
            f"These sites get no certificate from a CA on this host: {', '.join(sorted(unknown))}. "
            f"Sites that do: {', '.join(sorted(sites)) or 'none'}.", 2
        )  # fmt: skip
    os.umask(0o022)
    failed = False
    for site in chosen or sites:
        try:
            with authority.alone():
                authority.see_to(site, sites[site], force)
        except (CertificateProblem, OSError) as problem:
            failed = True
            print(f"{site}: {problem}", file=sys.stderr)
            for line in str(problem).splitlines():
                syslog.syslog(syslog.LOG_ERR, f"certificate of {site}: {line}")
    return 1 if failed else 0


def status(site: Site) -> dict[str, Any]:
    """Read the status that the role nginx and the renewal write; empty if the site has no certificate."""
    path = site.tls.with_name("status.json")
    found: dict[str, Any] = (read_object(path) if path.exists() else {}).get(site.name) or {}
    return found


def problems(certificate: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return a certificate's problems at a time (seconds since the epoch), by kind."""
    found = {}
    expires = certificate.get("expires")
    if expires:
        left = calendar.timegm(time.strptime(expires, TIME)) - now
        if left <= 0:
            found["certificate"] = f"The certificate expired on {expires}, {span(-left)} ago."
        elif left < _SOON:
            found["certificate"] = f"The certificate expires on {expires}, in {span(left)}."
    if certificate.get("error"):
        error = " ".join(certificate["error"].split())
        found["renewal"] = f"{error} (tried {certificate.get('tried')})"
    return found
