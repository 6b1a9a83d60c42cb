"""The role nginx's variables about certificates, and what it passes to the host for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.hostwright.django.plugins.module_utils import cron
from ansible_collections.hostwright.django.plugins.module_utils.nginx import judge
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_check import Verdict

from tests.unit.templates.rendering import Role

CONTAINER = "community.docker.docker_container"
SITES = [
    {"name": "polls", "domains": ["polls.example.org"], "certificate": "chain", "certificate_key": "key"},
    {"name": "blog", "domains": ["blog.example.org", "www.blog.example.org"], "certificate": "chain2",
     "certificate_key": "key2"},
]  # fmt: skip


@pytest.fixture(scope="module")
def role() -> Role:
    return Role("nginx")


def value(role: Role, name: str, **variables: Any) -> Any:
    return role.evaluate(name, **{"nginx_sites": SITES, **variables})


def configured(role: Role, tasks: str = "configure", **variables: Any) -> dict[str, Any]:
    return role.configure_nginx(tasks, nginx_sites=SITES, __nginx_built={"image": "nginx:1"}, **variables)


@pytest.mark.parametrize("off", ["off", False])
def test_without_tls_there_are_no_certificates_and_no_https_port(role: Role, off: object) -> None:
    assert value(role, "__nginx_tls", nginx_tls=off) == "off"
    assert value(role, "__nginx_ports", nginx_tls=off) == ["80:8080"]
    handed = configured(role, nginx_tls=off)
    assert handed["certificates"] == []
    assert handed["acme"] == handed["plain"] == {}
    assert "8443" not in "".join(handed["files"].values())


def test_port_443_is_published_with_tls_only(role: Role) -> None:
    assert value(role, "__nginx_ports", nginx_tls="files") == ["80:8080", "443:8443"]
    assert value(role, "__nginx_ports", nginx_tls="acme", nginx_https_port=444) == ["80:8080", "444:8443"]


def test_port_443_is_closed_when_tls_is_turned_off(role: Role) -> None:
    tasks = yaml.safe_load((role.path / "tasks" / "run.yml").read_text())
    [container] = [task[CONTAINER] for task in tasks if CONTAINER in task]
    assert container["comparisons"]["published_ports"] == "strict"  # by default an additional port is ignored


def test_all_faults_are_reported_at_once_and_no_host_is_contacted(role: Role) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        configured(role, "preflight", nginx_tls="acme", nginx_acme_email="nobody", nginx_tmp="lots")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "nginx_tmp",
        "nginx_acme_email",
        "Nothing was changed.",
    ]
    assert configured(role, "preflight", nginx_tls="acme") == {"changed": False, "warnings": []}


def test_given_certificates_are_checked_and_passed_to_the_host(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def verdict(*given: Any) -> Verdict:
        seen.append(given[:3])
        return Verdict(datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC), ("it is old",))

    monkeypatch.setattr(judge, "judge", verdict)
    first, second = configured(role, nginx_tls="files")["certificates"]
    assert seen == [("chain", "key", ["polls.example.org"]), ("chain2", "key2", SITES[1]["domains"])]
    assert first == {
        "site": "polls", "names": ["polls.example.org"], "certificate": "chain", "key": "key",
        "expires": "2027-01-02T03:04:05Z",
    }  # fmt: skip
    assert second["site"] == "blog"
    assert configured(role, "preflight", nginx_tls="files")["warnings"] == [
        "The certificate of polls: it is old.",
        "The certificate of blog: it is old.",
    ]


@pytest.mark.parametrize("tasks", ["preflight", "configure"])
def test_a_certificate_that_must_not_be_served_reaches_no_host(role: Role, tasks: str) -> None:
    with pytest.raises(AnsibleActionFail, match="polls: this is not a certificate in PEM"):
        configured(role, tasks, nginx_tls="files")


def test_settings_for_the_ca_by_site(role: Role) -> None:
    asked = configured(role, nginx_tls="acme", nginx_acme_email="a@example.org")["acme"]
    assert list(asked) == ["polls", "blog"]
    assert asked["blog"] == {
        "names": ["blog.example.org", "www.blog.example.org"],
        "directory": "https://acme-v02.api.letsencrypt.org/directory",
        "email": "a@example.org",
        "ca": "",
    }


def test_until_the_first_certificate_a_site_is_served_by_http(role: Role) -> None:
    handed = configured(role, nginx_tls="acme")
    plain, files = handed["plain"], handed["files"]
    assert list(plain) == ["sites/polls.conf", "sites/blog.conf"]
    for name, text in plain.items():
        assert "8443" not in text
        assert "/.well-known/acme-challenge/" in text
        assert "8443" in files[name]


def test_the_cron_schedule_is_valid_and_stays_the_same_on_a_host(role: Role) -> None:
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
