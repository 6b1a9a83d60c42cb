"""Certificates and Nginx's configuration change together: all of it or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.nginx.acme import Pair, Store
from ansible_collections.hostwright.django.plugins.module_utils.nginx.configuration import (
    ACME,
    change_of,
    check,
    sites_of,
    write,
)
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_change import Certificates

FILES = {"nginx.conf": "main", "sites/polls.conf": "by HTTPS", "sites/blog.conf": "by HTTPS"}
PLAIN = {"sites/polls.conf": "by HTTP", "sites/blog.conf": "by HTTP"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "nginx" / "tls")


def given(site: str, text: str = "one") -> dict[str, Any]:
    return {"site": site, "certificate": f"chain {text}", "key": f"\nkey {text}\n\n", "names": [site], "expires": "x"}


def pair(text: str = "one") -> Pair:
    return Pair(f"chain {text}\n", f"key {text}\n")


def of(
    store: Store, *certificates: dict[str, Any], sites: Sequence[str] = (), acme: Sequence[str] = ()
) -> Certificates:
    return Certificates.of(store, [*sites, *(one["site"] for one in certificates)], certificates, acme)


def test_given_certificates_are_put_in_place_once(store: Store) -> None:
    change = of(store, given("polls"))
    assert change
    change.place()
    change.remove()
    assert store.read("polls") == pair()
    assert store.status() == {"polls": {"kind": "files", "names": ["polls"], "expires": "x"}}
    assert not of(store, given("polls"))


def test_line_ends_of_another_system_are_not_a_change(store: Store) -> None:
    windows = given("polls") | {"certificate": "chain\r\none\r\n", "key": "key\r\none"}
    of(store, windows).place()
    assert store.read("polls") == Pair("chain\none\n", "key\none\n")
    assert not of(store, windows)


@pytest.mark.parametrize("spoilt", ["chain", "key", "mode", "status"])
def test_each_difference_is_a_change(store: Store, spoilt: str) -> None:
    of(store, given("polls")).place()
    if spoilt == "mode":
        (store.directory / "polls" / "privkey.pem").chmod(0o440)
    elif spoilt == "status":
        store.record("polls", None)
    else:
        name = {"chain": "fullchain.pem", "key": "privkey.pem"}[spoilt]
        (store.directory / "polls" / name).unlink()
    change = of(store, given("polls"))
    assert change
    change.place()
    assert not of(store, given("polls"))
    assert store.read("polls") == pair()


def test_the_difference_shows_no_key(store: Store) -> None:
    of(store, given("polls")).place()
    chain, key = of(store, given("polls", "two")).difference()
    assert chain == {
        "before_header": "tls/polls/fullchain.pem", "after_header": "tls/polls/fullchain.pem",
        "before": "chain one\n", "after": "chain two\n",
    }  # fmt: skip
    assert key["before"] != key["after"]
    assert "key one" not in str(key)
    assert "key two" not in repr(of(store, given("polls", "two")))


def test_if_one_certificate_cannot_be_written_all_stay_as_they_were(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    of(store, given("blog"), given("polls")).place()
    new = of(store, given("blog", "two"), given("polls", "two"))
    renamed = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == "polls":
            raise OSError(errno.ENOSPC, "No space left on device")
        return renamed(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        new.place()
    assert (store.read("blog"), store.read("polls")) == (pair(), pair())
    assert [len(list((store.directory / ".pairs" / site).iterdir())) for site in ("blog", "polls")] == [1, 1]


def test_a_site_that_waits_for_its_ca_is_served_by_http(store: Store) -> None:
    before = of(store, sites=["polls", "blog"], acme=["polls", "blog"])
    assert not before
    assert before.files(FILES, PLAIN) == {**FILES, **PLAIN}
    store.switch("blog", store.stage("blog", pair()))
    after = of(store, sites=["polls", "blog"], acme=["polls", "blog"])
    assert not after
    assert after.files(FILES, PLAIN) == {**FILES, "sites/polls.conf": "by HTTP"}


def test_a_given_certificate_stays_until_the_ca_has_issued_one(store: Store) -> None:
    of(store, given("polls")).place()
    change = of(store, sites=["polls"], acme=["polls"])
    assert not change
    assert change.files(FILES, PLAIN)["sites/polls.conf"] == "by HTTPS"


def test_without_tls_certificate_and_key_are_removed(store: Store) -> None:
    of(store, given("polls"), given("shop")).place()
    change = of(store, sites=["polls"])
    assert change.files(FILES, PLAIN)["sites/polls.conf"] == "by HTTP"
    assert [part["after"] for part in change.difference()] == ["", ""]
    change.remove()
    assert not of(store, sites=["polls"])
    assert (store.read("polls"), store.read("shop")) == (None, pair())
    assert list((store.directory / ".pairs" / "polls").iterdir()) == []
    assert set(store.status()) == {"shop"}


@pytest.mark.parametrize("left", ["certificate", "status"])
def test_leftovers_of_a_killed_run_for_a_site_without_tls_are_removed(store: Store, left: str) -> None:
    of(store, given("polls")).place()
    store.record("polls", None) if left == "certificate" else store.switch("polls", None)
    change = of(store, sites=["polls"])
    assert change
    change.remove()
    assert (store.current("polls"), store.status()) == (None, {})


def test_certificates_are_written_before_the_files_that_refer_to_them_and_removed_after_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = store.directory.parent
    seen = []
    renamed = Path.replace

    def watched(path: Path, target: Path) -> Path:
        if target.name == "polls.conf":
            seen.append((path.read_text(), store.read("polls") is not None))
        return renamed(path, target)

    monkeypatch.setattr(Path, "replace", watched)
    directory.mkdir()
    write(directory, change_of(directory, {"sites/polls.conf": "by HTTPS"}), of(store, given("polls")))
    write(directory, change_of(directory, {"sites/polls.conf": "by HTTP"}), of(store, sites=["polls"]))
    assert seen == [("by HTTPS", True), ("by HTTP", True)]
    assert store.read("polls") is None


def test_settings_for_the_ca_are_removed_with_their_site_only(tmp_path: Path) -> None:
    settings = {f"{ACME}/{site}.json": "{}" for site in ("polls", "shop")}
    (tmp_path / "acme" / "config").mkdir(parents=True)
    (tmp_path / "acme" / "config" / "account").touch()
    write(tmp_path, change_of(tmp_path, {**FILES, **settings}))
    assert sites_of({**FILES, **settings}) == ["polls", "blog"]
    change = change_of(tmp_path, FILES, [f"{ACME}/polls.json", f"{ACME}/blog.json"])
    assert change.after == {f"{ACME}/polls.json": None}


def test_nginx_checks_new_certificates_together_with_the_others(store: Store) -> None:
    of(store, given("polls"), given("shop")).place()
    directory = store.directory.parent
    program = directory.parent / "docker"
    program.write_text(f"""#!/bin/sh
for word; do case "$word" in
    type=bind,source=*/.check-*) word=${{word#type=bind,source=}}; cd "${{word%%,*}}" ;;
esac; done
(echo "$*"; cat tls/polls/fullchain.pem tls/polls/privkey.pem; readlink tls/shop; stat -c %a tls/polls/privkey.pem
) > {directory.parent}/seen
""")
    program.chmod(0o755)
    check(Engine(str(program)), "nginx", directory, FILES, {"polls": pair("two")})
    words, *seen = (directory.parent / "seen").read_text().splitlines()
    assert seen == ["chain two", "key two", store.current("shop"), "400"]
    assert f"source={store.directory}/.pairs,target=/etc/hostwright/tls/.pairs,readonly" in words
    assert store.read("polls") == pair()
    assert [path.name for path in directory.iterdir()] == ["tls"]


def test_as_root_the_key_belongs_to_nginx(store: Store) -> None:
    of(store, given("polls")).place()
    status = (store.directory / "polls" / "privkey.pem").stat()
    assert (status.st_uid, status.st_gid) == ((10002, 10001) if os.geteuid() == 0 else (os.geteuid(), os.getegid()))
