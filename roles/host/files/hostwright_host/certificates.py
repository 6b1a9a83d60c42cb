"""The certificates of this host's sites: renewals, until when each counts, and how its last renewal went."""

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
"""Seconds before its end from which a certificate is a problem: one of a CA is renewed long before."""


def renew(root: Path, chosen: Sequence[str], force: bool) -> int:
    """Obtain and renew certificates; cron does so twice a day, a deployment for the first one.

    What fails is in the journal (journalctl -t hostwright), in tls/status.json and on standard error.

    Args:
        root: Nginx's directory on the host.
        chosen: names of sites; all that get theirs from a CA if there is none.
        force: whether to renew what is not due, too.

    Returns:
        The exit status: 1 if any of them could not be got.

    Raises:
        CommandError: a site is not one of those.
    """
    authority = Authority(root)
    sites = authority.sites()
    if unknown := set(chosen) - set(sites):
        raise CommandError(f"no site of that name gets its certificate here: {', '.join(sorted(unknown))}", 2)
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
        left = calendar.timegm(time.strptime(expires, TIME)) - now
        if left <= 0:
            found["certificate"] = f"The certificate expired {expires}, {span(-left)} ago."
        elif left < _SOON:
            found["certificate"] = f"The certificate expires {expires}, in {span(left)}."
    if certificate.get("error"):
        said = " ".join(certificate["error"].split())
        found["renewal"] = f"{said} (tried {certificate.get('tried')})"
    return found
