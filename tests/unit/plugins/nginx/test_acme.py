"""Certificates on a host: their store and their renewal; certbot, docker and the clock are simulated."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import syslog
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.nginx import acme
from ansible_collections.hostwright.django.plugins.module_utils.nginx.acme import (
    Answer,
    Authority,
    CertificateProblem,
    Pair,
    Store,
    pending,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostwright_host import certificates
from hostwright_host.__main__ import main

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DIRECTORY = "https://ca.example/directory"
WANTED = {"names": ["example.org", "www.example.org"], "directory": DIRECTORY, "email": "a@example.org", "ca": ""}


def made(start: datetime = NOW, days: int = 90) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.org")])
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), start, start + timedelta(days=days)
    ).sign(key, hashes.SHA256())
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), text.decode())


@dataclass
class Simulated:
    """Simulates certbot and docker; openssl is real."""

    root: Path
    next: Pair = field(default_factory=made)
    fails: dict[str, str] = field(default_factory=dict)
    """Error output of programs that fail, by the program's name (certbot's also with the site's) or Nginx's option."""
    calls: list[list[str]] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> Answer:
        self.calls.append(list(command))
        self.environments.append(dict(environment))
        if command[0] == "openssl":
            return subprocess.run(command, capture_output=True, text=True, check=False)
        what = command[0] if command[0] == "certbot" else command[6]
        site = command[command.index("--cert-name") + 1] if what == "certbot" else ""
        for name in {what, f"{what} {site}"} & self.fails.keys():
            return Answer(command, 1, "", self.fails[name])
        if what == "certbot":
            live = self.root / "acme/config/live" / site
            live.mkdir(parents=True, exist_ok=True)
            (live / "fullchain.pem").write_text(self.next.certificate)
            (live / "privkey.pem").write_text(self.next.key)
        return Answer(command, 0, "", "")

    def nginx(self) -> list[str]:
        return [" ".join(call[6:]) for call in self.calls if call[0] == "docker"]


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def simulated(tmp_path: Path) -> Simulated:
    root = tmp_path / "nginx"
    (root / "acme" / "sites").mkdir(parents=True)
    (root / "acme" / "sites" / "polls.json").write_text(json.dumps(WANTED))
    return Simulated(root)


@pytest.fixture
def authority(simulated: Simulated) -> Authority:
    return Authority(simulated.root, simulated, NOW.timestamp)


def refusal(authority: Authority, **wanted: Any) -> str:
    with pytest.raises(CertificateProblem) as caught:
        authority.see_to("polls", {**WANTED, **wanted})
    return str(caught.value)


class TestStore:
    def test_only_nginx_can_read_the_key_of_a_pair(self, tmp_path: Path) -> None:
        store, pair = Store(tmp_path), made()
        assert store.read("polls") is None
        store.switch("polls", store.stage("polls", pair))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "polls").iterdir()}
        assert modes == {"fullchain.pem": 0o644, "privkey.pem": 0o400}
        assert stat.S_IMODE((tmp_path / "polls").stat().st_mode) == 0o755
        assert store.read("polls") == pair
        (tmp_path / "polls" / "privkey.pem").chmod(0o444)
        assert store.read("polls") is None

    def test_one_rename_changes_both(self, tmp_path: Path) -> None:
        store, old, new = Store(tmp_path), made(), made()
        store.switch("polls", store.stage("polls", old))
        staged = store.stage("polls", new)
        assert store.read("polls") == old
        store.switch("polls", staged)
        assert store.read("polls") == new
        store.tidy("polls")
        assert [str(path.relative_to(tmp_path)) for path in (tmp_path / ".pairs/polls").iterdir()] == [staged]

    def test_a_key_of_another_owner_counts_as_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store(tmp_path)
        store.switch("polls", store.stage("polls", made()))
        status = (tmp_path / "polls" / "privkey.pem").stat()
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        for owner, found in (((status.st_uid, status.st_gid), True), ((status.st_uid + 1, status.st_gid), False)):
            monkeypatch.setattr(acme, "NGINX", owner)
            assert (store.read("polls") is not None) == found

    def test_a_key_is_private_from_the_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(os, "fchmod", lambda file, _: seen.append(stat.S_IMODE(os.fstat(file).st_mode)))
        umask = os.umask(0)
        try:
            Store(tmp_path).stage("polls", made())
        finally:
            os.umask(umask)
        assert seen == [0o644, 0o400]

    def test_the_symlink_of_a_killed_run_is_replaced(self, tmp_path: Path) -> None:
        store, pair = Store(tmp_path), made()
        (tmp_path / ".polls.new").symlink_to("nowhere")
        store.switch("polls", store.stage("polls", pair))
        assert store.read("polls") == pair

    def test_sites_whose_names_begin_alike_are_left_alone(self, tmp_path: Path) -> None:
        store, pair = Store(tmp_path), made()
        for site in ("polls", "polls-2"):
            store.switch(site, store.stage(site, pair))
        store.switch("polls", None)
        store.tidy("polls")
        assert (store.current("polls"), store.read("polls-2")) == (None, pair)
        assert list((tmp_path / ".pairs/polls").iterdir()) == []

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store(tmp_path)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            store.stage("polls", made())
        assert list((tmp_path / ".pairs/polls").iterdir()) == []

    def test_status(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "tls")
        umask = os.umask(0o077)
        try:
            store.record("polls", {"expires": "then"})
        finally:
            os.umask(umask)
        assert stat.S_IMODE((tmp_path / "tls" / "status.json").stat().st_mode) == 0o644
        store.record("shop", {"expires": "now"})
        store.record("polls", None)
        store.record("none", None)
        assert store.status() == {"shop": {"expires": "now"}}
        (tmp_path / "tls" / "status.json").write_text("{")
        assert store.status() == {}


class TestFirstCertificate:
    def test_it_is_obtained_and_put_in_place(self, authority: Authority, simulated: Simulated) -> None:
        assert pending(authority.store, "polls", WANTED)
        authority.see_to("polls", WANTED)
        assert authority.store.read("polls") == simulated.next
        assert authority.store.status() == {
            "polls": {
                "kind": "acme",
                "names": WANTED["names"],
                "directory": DIRECTORY,
                "expires": "2027-02-21T12:00:00Z",
                "tried": "2026-11-23T12:00:00Z",
                "error": "",
            }
        }
        assert not pending(authority.store, "polls", WANTED)
        assert simulated.nginx() == ["-t -q", "-s reload"]
        words = " ".join(simulated.calls[0])
        assert "--domain example.org --domain www.example.org" in words
        assert f"--webroot --webroot-path {simulated.root}/acme-challenge" in words
        assert "--keep-until-expiring" in words
        assert "--email a@example.org" in words
        assert simulated.environments[0] == {}
        assert f"--config-dir {simulated.root}/acme/config" in words

    def test_a_private_ca_and_no_e_mail_address(self, authority: Authority, simulated: Simulated) -> None:
        authority.see_to("polls", {**WANTED, "ca": "ROOT", "email": ""})
        bundle = Path(simulated.environments[0]["REQUESTS_CA_BUNDLE"])
        assert bundle.read_text() == "ROOT"
        assert "--register-unsafely-without-email" in simulated.calls[0]

    def test_the_error_of_the_ca_is_reported(self, authority: Authority, simulated: Simulated) -> None:
        simulated.fails["certbot"] = "Saving debug log to x\n\n  Detail: too many certificates already issued\n"
        message = refusal(authority)
        assert message.splitlines() == [
            f"No new certificate from {DIRECTORY}: Detail: too many certificates already issued",
            "The site has no certificate yet and is served by plain HTTP.",
        ]
        assert authority.store.current("polls") is None
        assert pending(authority.store, "polls", WANTED)
        assert simulated.nginx() == []

    def test_the_error_of_the_ca_is_read_from_the_log_if_certbot_hides_it(
        self, authority: Authority, simulated: Simulated
    ) -> None:
        simulated.fails["certbot"] = "An unexpected error occurred:\nAttributeError: can't set attribute\n"
        log = simulated.root / "acme" / "logs" / "letsencrypt.log"
        log.parent.mkdir()
        log.write_text(
            "Traceback\nacme.messages.Error: urn:a:rateLimited :: There were too many :: try tomorrow\n\nDuring\n"
        )
        assert "\nThe CA answered: urn:a:rateLimited :: There were too many :: try tomorrow\n" in refusal(authority)
        simulated.fails["certbot"] = "[Errno 28] No space left on device"  # the log is of an earlier run
        assert "The CA answered" not in refusal(authority)


class TestRenewal:
    @pytest.fixture(autouse=True)
    def first(self, authority: Authority, simulated: Simulated) -> Pair:
        authority.see_to("polls", WANTED)
        first, simulated.next = simulated.next, made(days=80)
        simulated.calls.clear()
        return first

    def test_a_certificate_that_is_not_due_stays(self, authority: Authority, simulated: Simulated, first: Pair) -> None:
        simulated.next = first
        before = authority.store.current("polls")
        authority.see_to("polls", WANTED)
        assert authority.store.current("polls") == before
        assert simulated.nginx() == []

    def test_a_renewal(self, authority: Authority, simulated: Simulated) -> None:
        authority.see_to("polls", WANTED)
        assert authority.store.read("polls") == simulated.next
        assert authority.store.status()["polls"]["expires"] == "2027-02-11T12:00:00Z"
        assert simulated.nginx() == ["-t -q", "-s reload"]

    def test_a_removed_certificate_is_pending(self, authority: Authority) -> None:
        authority.store.switch("polls", None)
        assert pending(authority.store, "polls", WANTED)

    @pytest.mark.parametrize("changed", [{"names": ["example.org"]}, {"directory": "https://other.example/"}])
    def test_other_names_and_another_ca_are_pending(self, authority: Authority, changed: dict[str, Any]) -> None:
        wanted = {**WANTED, **changed}
        assert pending(authority.store, "polls", wanted)
        authority.see_to("polls", wanted)
        assert not pending(authority.store, "polls", wanted)

    @pytest.mark.parametrize(
        ("directory", "force", "forced"),
        [(DIRECTORY, False, False), (DIRECTORY, True, True), ("https://other.example/", False, True)],
    )
    def test_another_ca_or_the_user_forces_a_renewal(
        self, authority: Authority, simulated: Simulated, directory: str, force: bool, forced: bool
    ) -> None:
        authority.see_to("polls", {**WANTED, "directory": directory}, force)
        assert ("--force-renewal" in simulated.calls[0]) == forced
        assert ("--keep-until-expiring" in simulated.calls[0]) != forced

    @pytest.mark.parametrize(
        "said", ["HTTPSConnectionPool: Connection refused", "urn:ietf:params:acme:error:rateLimited", ""]
    )
    def test_a_ca_that_does_not_answer_or_refuses(
        self, authority: Authority, simulated: Simulated, first: Pair, said: str
    ) -> None:
        simulated.fails["certbot"] = said
        message = refusal(authority)
        assert (said or "exit status 1") in message
        assert message.endswith("The certificate in place stays; it expires 2027-02-21T12:00:00Z.")
        assert authority.store.read("polls") == first
        assert not pending(authority.store, "polls", WANTED)
        assert said in authority.store.status()["polls"]["error"]
        del simulated.fails["certbot"]
        authority.see_to("polls", WANTED)
        assert authority.store.status()["polls"]["error"] == ""

    def test_nginx_refuses_it(self, authority: Authority, simulated: Simulated, first: Pair) -> None:
        simulated.fails["-t"] = "nginx: [emerg] key values mismatch"
        assert "Nginx refuses it: nginx: [emerg] key values mismatch" in refusal(authority)
        assert authority.store.read("polls") == first
        assert len(list((simulated.root / "tls/.pairs/polls").iterdir())) == 1
        assert simulated.nginx() == ["-t -q"]
        del simulated.fails["-t"]
        authority.see_to("polls", WANTED)
        assert authority.store.read("polls") == simulated.next

    def test_a_failed_reload_is_repeated_by_the_next_run(
        self, authority: Authority, simulated: Simulated, first: Pair
    ) -> None:
        simulated.fails["-s"] = "nginx: [error] it is not there"
        assert "it is not there" in refusal(authority)
        assert authority.store.read("polls") == first
        assert (authority.root / ".unread").exists()
        simulated.next, simulated.fails = first, {}
        simulated.calls.clear()
        authority.see_to("polls", WANTED)
        assert simulated.nginx() == ["-t -q", "-s reload"]
        assert not (authority.root / ".unread").exists()

    @pytest.mark.parametrize("hours", [24, -24 * 91])
    def test_a_clock_that_is_wrong(self, authority: Authority, simulated: Simulated, first: Pair, hours: int) -> None:
        simulated.next = made(NOW + timedelta(hours=hours))
        message = refusal(authority)
        assert "this host's clock says 2026-11-23T12:00:00Z: set the clock" in message
        assert authority.store.read("polls") == first
        assert simulated.nginx() == []
        authority = replace(authority, clock=(NOW + timedelta(hours=hours)).timestamp)
        authority.see_to("polls", WANTED)
        assert authority.store.read("polls") == simulated.next

    def test_a_file_that_is_not_a_certificate(self, authority: Authority, simulated: Simulated, first: Pair) -> None:
        simulated.next = Pair("nonsense", first.key)
        assert "openssl cannot read the new certificate" in refusal(authority)
        assert authority.store.read("polls") == first
        assert simulated.nginx() == []

    def test_a_clock_that_is_a_minute_late_is_accepted(self, authority: Authority, simulated: Simulated) -> None:
        simulated.next = made(NOW + timedelta(minutes=1))
        authority.see_to("polls", WANTED)
        assert authority.store.read("polls") == simulated.next

    def test_a_disk_that_is_full(
        self, authority: Authority, simulated: Simulated, first: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", full)
        assert "No space left on device" in refusal(authority)
        assert authority.store.read("polls") == first
        assert len(list((simulated.root / "tls/.pairs/polls").iterdir())) == 1
        assert simulated.nginx() == []

    def test_certbot_is_missing_or_hangs(
        self, authority: Authority, first: Pair, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = replace(authority, run=acme.run)
        monkeypatch.setenv("PATH", str(authority.root))
        assert "the program certbot is missing" in refusal(authority)
        (authority.root / "certbot").write_text("#!/bin/sh\nwhile :; do :; done\n")
        (authority.root / "certbot").chmod(0o755)
        monkeypatch.setattr(acme, "TIME_LIMIT", 0.2)
        assert "certbot did not end within 0.2 s" in refusal(authority)
        assert authority.store.read("polls") == first


class TestCommand:
    @pytest.fixture(autouse=True)
    def programs(self, simulated: Simulated, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        logged: list[str] = []
        monkeypatch.setattr(certificates, "Authority", lambda root: Authority(root, simulated, NOW.timestamp))
        monkeypatch.setattr(syslog, "syslog", lambda _, text: logged.append(text))
        return logged

    def test_the_failure_of_one_site_does_not_stop_the_next(
        self, simulated: Simulated, programs: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (simulated.root / "acme/sites/blog.json").write_text(json.dumps({**WANTED, "directory": "x"}))
        simulated.fails["certbot blog"] = "Connection refused"
        authority = Authority(simulated.root, simulated)
        assert main([f"--root={simulated.root.parent}", "certificates"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("blog: No new certificate from x: ")
        assert any(line.startswith("certificate of blog: No new certificate from x") for line in programs)
        assert authority.store.current("polls")
        assert authority.store.current("blog") is None

    def test_success_prints_nothing(self, simulated: Simulated, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([f"--root={simulated.root.parent}", "certificates"]) == 0
        assert main([f"--root={simulated.root / 'nowhere'}", "certificates"]) == 0
        assert capsys.readouterr() == ("", "")

    def test_one_run_waits_for_another(self, simulated: Simulated) -> None:
        second = threading.Thread(target=main, args=([f"--root={simulated.root.parent}", "certificates"],))
        with (simulated.root / "acme" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            second.start()
            second.join(0.3)
            assert simulated.calls == []
        second.join(30)
        assert simulated.calls

    def test_only_the_named_site_is_renewed(self, simulated: Simulated) -> None:
        (simulated.root / "acme/sites/blog.json").write_text(json.dumps(WANTED))
        assert main([f"--root={simulated.root.parent}", "certificates", "blog"]) == 0
        assert set(Authority(simulated.root, simulated).store.status()) == {"blog"}

    def test_an_unknown_site_is_refused(self, simulated: Simulated, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([f"--root={simulated.root.parent}", "certificates", "shop"]) == 2
        assert "These sites get no certificate from a CA on this host: shop." in capsys.readouterr().err
