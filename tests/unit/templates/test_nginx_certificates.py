"""What the role nginx makes of the variables about certificates."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.hostwright.django.plugins.module_utils import cron

from tests.unit.templates.rendering import Role

CONTAINER = "community.docker.docker_container"
SITES = [
    {"name": "polls", "domains": ["polls.example.org"], "certificate": "chain", "certificate_key": "key"},
    {"name": "blog", "domains": ["blog.example.org", "www.blog.example.org"]},
]


@pytest.fixture(scope="module")
def role() -> Role:
    return Role("nginx")


def value(role: Role, name: str, **variables: Any) -> Any:
    return role.evaluate(name, **{"nginx_sites": SITES, **variables})


@pytest.mark.parametrize("off", ["off", False])
def test_without_tls_nothing_of_it_is_there(role: Role, off: object) -> None:
    assert value(role, "__nginx_tls", nginx_tls=off) == "off"
    assert value(role, "__nginx_ports", nginx_tls=off) == ["80:8080"]
    assert value(role, "__nginx_tls_sites", nginx_tls=off) == []
    for name in ("__nginx_certificates", "__nginx_given"):
        assert value(role, name, nginx_tls=off) == []
    for name in ("__nginx_acme", "__nginx_plain_files"):
        assert value(role, name, nginx_tls=off) == {}


def test_port_443_is_published_with_tls_only(role: Role) -> None:
    assert value(role, "__nginx_ports", nginx_tls="files") == ["80:8080", "443:8443"]
    assert value(role, "__nginx_ports", nginx_tls="acme", nginx_https_port=444) == ["80:8080", "444:8443"]


def test_port_443_is_closed_when_tls_is_turned_off(role: Role) -> None:
    tasks = yaml.safe_load((role.path / "tasks" / "run.yml").read_text())
    [container] = [task[CONTAINER] for task in tasks if CONTAINER in task]
    assert container["comparisons"]["published_ports"] == "strict"  # by default a port more is no difference


def test_values_that_cannot_work_are_named(role: Role) -> None:
    def wrong(**variables: Any) -> list[str]:
        return [one.partition(":")[0] for one in value(role, "__nginx_wrong", nginx_tls="files", **variables)]

    assert wrong() == wrong(nginx_addresses=["203.0.113.5", "[2001:db8::5]"], nginx_tls_hsts=300) == []
    for address in ("300.1.1.1", "1.2.3", "203.0.113.5.", "2001:db8::5", "eth0", ""):
        assert wrong(nginx_addresses=["127.0.0.1", address]) == ["nginx_addresses"]
    assert wrong(nginx_addresses=[]) == ["nginx_addresses"]
    assert wrong(nginx_https_port="80", nginx_tls_hsts=-1) == ["nginx_https_port", "nginx_tls_hsts"]
    assert wrong(nginx_tmp="lots") == ["nginx_tmp"]
    assert value(role, "__nginx_wrong", nginx_tls="off", nginx_https_port=80) == []


def test_a_limit_of_logins_that_would_limit_nothing_is_named(role: Role) -> None:
    def wrong(rate: str, path: str) -> list[str]:
        sites = [{**SITES[0], "login_path": path}, SITES[1]]
        return [one.partition(":")[0] for one in value(role, "__nginx_wrong", nginx_sites=sites, nginx_login_rate=rate)]

    for rate, path in (("", ""), ("", "/login/"), ("10r/m", "/login/"), ("1r/s", "/login/")):
        assert wrong(rate, path) == []
    for rate in ("10/m", "10", "0r/m", "10r/h"):
        assert wrong(rate, "/login/") == ["nginx_login_rate"]
    assert wrong("10r/m", "") == ["nginx_login_rate"]
    for path in ("/", "/login", "/en/login/", "/a.b/вход/"):
        assert wrong("10r/m", path) == []
    for path in (
        "login/",
        "//login/",
        "/a//login/",
        "/../login/",
        "/./",
        "/a b",
        "/a%20b",
        "/a?next=/",
        "/a\n",
        "/$uri",
        "/a;",
        "/a{",
    ):
        assert wrong("10r/m", path) == ["login_path (site_login_path)"], path


@pytest.mark.parametrize("name", ["static_url", "media_url"])
def test_a_path_that_would_lead_out_of_its_directory_is_named(role: Role, name: str) -> None:
    def wrong(path: str) -> list[str]:
        sites = [{**SITES[0], name: path}, SITES[1]]
        return [one.partition(":")[0] for one in value(role, "__nginx_wrong", nginx_sites=sites)]

    for path in ("/files/", "/a/b.c/", "/v1..2/", "/a_~-9/", "/-/", "/-/hostwright2/"):
        assert wrong(path) == [], path
    for path in (
        "/", "//", "/files", "files/", "/a//b/", "/../", "/a/../b/", "/./", "/.hidden/", "https://cdn.example.org/a/",
        "//cdn.example.org/a/", "/a b/", "/a%20b/", '/a"/', "/a'/", "/a{/", "/a}/", "/a;/", "/a$uri/", "/a\\/",
        "/a\n/", "/a/\n", "/a(b)/", "/a?b/", "/a#/", "/-/hostwright/", "/-/hostwright/a/",
    ):  # fmt: skip
        assert wrong(path) == [f"{name} (site_{name})"], path


def test_a_name_that_is_no_directory_s_is_named(role: Role) -> None:
    for name in ("../polls", "a/b", "a b", "a;", "polls\n", ""):
        [wrong] = value(role, "__nginx_wrong", nginx_sites=[{**SITES[0], "name": name}])
        assert wrong.startswith("name (site_name): "), name


def test_static_files_have_a_path_and_one_of_their_own(role: Role) -> None:
    def wrong(**paths: str) -> list[str]:
        return list(value(role, "__nginx_wrong", nginx_sites=[{**SITES[0], **paths}]))

    assert wrong(media_url="") == wrong(media_url="/static/media/") == []
    assert wrong(media_url="/static/") == ['media_url (site_media_url): "/static/" is the path of the static files.']
    [message] = wrong(static_url="")
    assert message.startswith('static_url (site_static_url): "" must be a path like /files/: a slash at both ends,')


def test_given_certificates_are_judged_and_handed_on(role: Role) -> None:
    assert value(role, "__nginx_given", nginx_tls="files") == [
        {"name": "polls", "domains": ["polls.example.org"], "certificate": "chain", "key": "key"},
        {"name": "blog", "domains": SITES[1]["domains"], "certificate": "", "key": ""},
    ]
    judged = {"expires": {"polls": "then", "blog": "later"}}
    first, _ = value(role, "__nginx_certificates", nginx_tls="files", __nginx_judged=judged)
    assert first == {
        "site": "polls", "names": ["polls.example.org"], "certificate": "chain", "key": "key", "expires": "then",
    }  # fmt: skip


def test_what_is_asked_of_a_ca(role: Role) -> None:
    asked = value(role, "__nginx_acme", nginx_tls="acme", nginx_acme_email="a@example.org")
    assert list(asked) == ["polls", "blog"]
    assert asked["blog"] == {
        "names": ["blog.example.org", "www.blog.example.org"],
        "directory": "https://acme-v02.api.letsencrypt.org/directory",
        "email": "a@example.org",
        "ca": "",
    }


def test_until_the_first_certificate_a_site_is_served_by_http(role: Role) -> None:
    plain = value(role, "__nginx_plain_files", nginx_tls="acme")
    files = value(role, "__nginx_files", nginx_tls="acme")
    assert list(plain) == ["sites/polls.conf", "sites/blog.conf"]
    for name, text in plain.items():
        assert "8443" not in text
        assert "/.well-known/acme-challenge/" in text
        assert "8443" in files[name]


def test_cron_s_line_is_right_and_stays_the_same_on_a_host(role: Role) -> None:
    def schedule(host: str) -> str:
        [line] = [
            line
            for line in role.render("cron.j2", inventory_hostname=host).splitlines()
            if line.endswith(" root /usr/local/sbin/hostwright-certificates")
        ]
        return line.partition(" root ")[0]

    found = {schedule(f"host{number}") for number in range(30)}
    assert [cron.problem(one) for one in found] == [""] * len(found)
    assert len(found) > 20
    assert schedule("host1") == schedule("host1")
    assert all(len(one.split()[1].split(",")) == 2 for one in found)
