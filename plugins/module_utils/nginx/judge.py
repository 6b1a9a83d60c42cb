"""Checks of the role nginx's variables, on the control node, before any host changes.

Each fault is one sentence: which variable, what is wrong, what to do.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from .tls_check import CertificateError, Verdict, judge

BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)(%[A-Za-z0-9._-]+)?\]")
SIZE = re.compile(r"[1-9][0-9]*[kmgKMG%]?")
RATE = re.compile(r"[1-9][0-9]*r/[sm]")
# The site's name is part of a directory and of a file's name.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
# Nginx replaces a location's path by a directory: without the final slash, a request for '/media../run/' would get
# files from outside of that directory.
PLACE = re.compile(r"(?!/-/hostwright/)/([A-Za-z0-9_~-][A-Za-z0-9._~-]*/)+")
# Nginx compares it with the request's path, decoded and without '//' and '..': any other value would never match.
LOGIN_PATH = re.compile(r"(?!.*/[/.])/[^\s\"'\\;{}()$?#%]*")


def wrong_settings(options: Mapping[str, Any]) -> Iterator[str]:
    """Check ports, addresses and limits; ``options`` are those of ``nginx_configuration``."""
    addresses, rate = options["addresses"], options["login_rate"]
    # For any other value the Engine would publish on every address, and only after the old container was removed.
    if not addresses or not all(map(_is_address, addresses)):
        yield f"nginx_addresses: {json.dumps(addresses)} must be addresses of the host, those of IPv6 in brackets."
    if options["tls"] != "off" and options["https_port"] == options["http_port"]:
        yield f"nginx_https_port: {options['https_port']} is the HTTP port; use another one."
    if not SIZE.fullmatch(options["tmp"]):
        yield f"nginx_tmp: {_quoted(options['tmp'])} is not a size like 256m."
    if options["tls_hsts"] < 0:
        yield f"nginx_tls_hsts: {options['tls_hsts']} must be a number of seconds, or 0."
    if rate and not RATE.fullmatch(rate):
        yield f"nginx_login_rate: {_quoted(rate)} is not a rate like 10r/m or 1r/s."
    if rate and not any(site["login_path"] for site in options["sites"]):
        yield "nginx_login_rate: no site has a login_path (site_login_path), so nothing would be limited."


def wrong_sites(sites: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Check the names and paths of sites."""
    for site in sites:
        if not NAME.fullmatch(site["name"]):
            yield f"name (site_name): {_quoted(site['name'])} must be lower-case letters, digits, - and _."
        if site["login_path"] and not LOGIN_PATH.fullmatch(site["login_path"]):
            yield (
                f"login_path (site_login_path): {_quoted(site['login_path'])} must be a decoded path like "
                "/admin/login/: a slash first; no two slashes in a row, no dot after a slash, no space, and none of "
                "\" ' \\ ; { } ( ) $ ? # %."
            )
        for option in ("static_url", "media_url"):
            place = site[option]
            if (place or option == "static_url") and not PLACE.fullmatch(place):
                yield (
                    f"{option} (site_{option}): {_quoted(place)} must be a path like /files/: a slash at both ends, "
                    "between them letters, digits, . _ ~ and -, no dot after a slash. /-/hostwright/ is reserved."
                )
        if site["media_url"] and site["media_url"] == site["static_url"]:
            yield f"media_url (site_media_url): {_quoted(site['media_url'])} is the path of the static files."


def wrong_requests(acme: Mapping[str, str], sites: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Check requests to a CA; ``acme`` has its ``directory``, ``email`` and ``ca`` (its root certificate)."""
    if not re.match(r"https://[^/\s]+", acme["directory"]):
        yield f"nginx_acme_directory: {_quoted(acme['directory'])} must be a URL that begins with https://."
    if acme["email"] and not re.fullmatch(r"[^@\s]+@[^@\s]+", acme["email"]):
        yield f"nginx_acme_email: {_quoted(acme['email'])} is not an e-mail address."
    if acme["ca"] and "-----BEGIN CERTIFICATE-----" not in acme["ca"]:
        yield "nginx_acme_ca: this is not a certificate in PEM, which begins with -----BEGIN CERTIFICATE-----."
    if wildcards := [domain for site in sites for domain in site["domains"] if domain.startswith(("*", "."))]:
        yield (
            f"nginx_tls: a CA issues no certificate for {', '.join(wildcards)} by HTTP; list the host names, or use "
            "nginx_tls: files."
        )


def judge_certificates(sites: Sequence[Mapping[str, Any]], now: datetime) -> tuple[dict[str, Verdict], list[str]]:
    """Check the certificates that are given with the sites.

    Args:
        sites: with ``name``, ``domains``, ``certificate`` and ``certificate_key`` (both in PEM) of each.
        now: the current time, with a time zone.

    Returns:
        The verdicts on valid certificates by site, and a sentence for every other site; it never shows a key.
    """
    verdicts, wrong = {}, []
    for site in sites:
        certificate, key = site["certificate"], site["certificate_key"]
        try:
            if missing := [what for what, text in (("certificate", certificate), ("key", key)) if not text.strip()]:
                raise CertificateError(
                    f"there is no {' and no '.join(missing)}: with site_tls: files each site needs both "
                    "(site_tls_certificate, site_tls_key)"
                )
            verdicts[site["name"]] = judge(certificate, key, site["domains"], now)
        except CertificateError as error:
            wrong.append(f"{site['name']}: {error}.")
    return verdicts, wrong


def _is_address(text: str) -> bool:
    """Whether Docker can publish ports on it: an address like 192.0.2.1 or [2001:db8::1]."""
    bracketed = BRACKETED.fullmatch(text)
    try:
        return bool(ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(text))
    except ValueError:
        return False


def _quoted(value: str) -> str:
    """Quote a value so that spaces and line breaks in it are visible."""
    return json.dumps(value, ensure_ascii=False)
