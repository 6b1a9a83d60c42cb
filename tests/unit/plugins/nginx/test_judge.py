"""The role nginx's variables are checked before a host changes: the message names each wrong value."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.nginx import judge

SITE = {
    "name": "polls", "domains": ["polls.example.org"], "static_url": "/static/", "media_url": "", "login_path": "",
    "certificate": "", "certificate_key": "",
}  # fmt: skip
OTHER = {**SITE, "name": "blog", "domains": ["blog.example.org", "www.blog.example.org"]}
SETTINGS = {
    "tls": "files", "http_port": 80, "https_port": 443, "addresses": ["127.0.0.1", "[::]"], "tmp": "256m",
    "tls_hsts": 0, "login_rate": "",
}  # fmt: skip
ACME = {"directory": "https://acme-v02.api.letsencrypt.org/directory", "email": "", "ca": ""}


def named(sentences: Iterable[str]) -> list[str]:
    """The variables that sentences are about."""
    return [sentence.partition(":")[0] for sentence in sentences]


def test_wrong_settings_are_named() -> None:
    def wrong(**settings: Any) -> list[str]:
        return named(judge.wrong_settings({**SETTINGS, "sites": [SITE, OTHER], **settings}))

    assert wrong() == wrong(addresses=["203.0.113.5", "[2001:db8::5]", "[fe80::1%eth0]"], tls_hsts=300) == []
    for address in (
        "300.1.1.1", "1.2.3", "203.0.113.5.", "2001:db8::5", "eth0", "", "[]", "[::::]", "203.0.113.5\n", "[fe80::1%]",
        "[fe80::1%eth 0]", "[203.0.113.5]",
    ):  # fmt: skip
        assert wrong(addresses=["127.0.0.1", address]) == ["nginx_addresses"], address
    assert wrong(addresses=[]) == ["nginx_addresses"]
    assert wrong(https_port=80, tls_hsts=-1) == ["nginx_https_port", "nginx_tls_hsts"]
    assert wrong(https_port=80, tls="off") == []
    assert wrong(tmp="50%") == []
    for size in ("lots", "0m", "256m\n", ""):
        assert wrong(tmp=size) == ["nginx_tmp"], size


def test_a_login_limit_without_effect_is_named() -> None:
    def wrong(rate: str, path: str) -> list[str]:
        sites = [{**SITE, "login_path": path}, OTHER]
        settings = {**SETTINGS, "login_rate": rate, "sites": sites}
        return named([*judge.wrong_settings(settings), *judge.wrong_sites(sites)])

    for rate, path in (("", ""), ("", "/login/"), ("10r/m", "/login/"), ("1r/s", "/login/")):
        assert wrong(rate, path) == []
    for rate in ("10/m", "10", "0r/m", "10r/h", "10r/m\n"):
        assert wrong(rate, "/login/") == ["nginx_login_rate"]
    assert wrong("10r/m", "") == ["nginx_login_rate"]
    for path in ("/", "/login", "/en/login/", "/a.b/вход/"):
        assert wrong("10r/m", path) == []
    for path in (
        "login/", "//login/", "/a//login/", "/../login/", "/./", "/a b", "/a%20b", "/a?next=/", "/a\n", "/$uri", "/a;",
        "/a{",
    ):  # fmt: skip
        assert wrong("10r/m", path) == ["login_path (site_login_path)"], path


@pytest.mark.parametrize("name", ["static_url", "media_url"])
def test_a_path_that_would_lead_out_of_its_directory_is_named(name: str) -> None:
    def wrong(path: str) -> list[str]:
        return named(judge.wrong_sites([{**SITE, name: path}, OTHER]))

    for path in ("/files/", "/a/b.c/", "/v1..2/", "/a_~-9/", "/-/", "/-/hostwright2/"):
        assert wrong(path) == [], path
    for path in (
        "/", "//", "/files", "files/", "/a//b/", "/../", "/a/../b/", "/./", "/.hidden/", "https://cdn.example.org/a/",
        "//cdn.example.org/a/", "/a b/", "/a%20b/", '/a"/', "/a'/", "/a{/", "/a}/", "/a;/", "/a$uri/", "/a\\/",
        "/a\n/", "/a/\n", "/a(b)/", "/a?b/", "/a#/", "/-/hostwright/", "/-/hostwright/a/",
    ):  # fmt: skip
        assert wrong(path) == [f"{name} (site_{name})"], path


def test_a_site_name_that_is_not_a_directory_name_is_named() -> None:
    for name in ("../polls", "a/b", "a b", "a;", "polls\n", ""):
        [wrong] = judge.wrong_sites([{**SITE, "name": name}])
        assert wrong.startswith("name (site_name): "), name


def test_static_files_need_a_path_that_media_do_not_use() -> None:
    def wrong(**paths: str) -> list[str]:
        return list(judge.wrong_sites([{**SITE, **paths}]))

    assert wrong(media_url="") == wrong(media_url="/static/media/") == []
    assert wrong(media_url="/static/") == ['media_url (site_media_url): "/static/" is the path of the static files.']
    [message] = wrong(static_url="")
    assert message.startswith('static_url (site_static_url): "" must be a path like /files/: a slash at both ends,')


def test_wrong_requests_to_a_ca_are_named() -> None:
    def wrong(*domains: str, **acme: str) -> list[str]:
        return list(judge.wrong_requests({**ACME, **acme}, [OTHER, {**SITE, "domains": domains}]))

    assert wrong("a.example.org", email="a@example.org", ca="-----BEGIN CERTIFICATE-----\n") == []
    for directory in ("", "http://ca.example/", "ca.example", "https://"):
        assert named(wrong(directory=directory)) == ["nginx_acme_directory"], directory
    for email in ("a", "@", "a@b@c", "a @b", "a@b\n"):
        assert named(wrong(email=email)) == ["nginx_acme_email"], email
    assert named(wrong(ca="ca.pem")) == ["nginx_acme_ca"]
    [message] = wrong("*.example.org", "a.example.org", ".example.net")
    assert message.startswith("nginx_tls: a CA issues no certificate for *.example.org, .example.net by HTTP;")


def test_each_wrong_given_certificate_is_named() -> None:
    sites = [
        SITE,
        {**OTHER, "certificate": "-----", "certificate_key": "secret"},
        {**SITE, "name": "c", "certificate": "-"},
    ]
    verdicts, wrong = judge.judge_certificates(sites, datetime.now(UTC))
    assert verdicts == {}
    assert named(wrong) == ["polls", "blog", "c"]
    for sentence, words in zip(wrong, ("no certificate and no key", "not a certificate in PEM", "no key"), strict=True):
        assert words in sentence
    assert "secret" not in "".join(wrong)
