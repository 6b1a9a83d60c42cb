"""Checks of certificates and keys on the control node."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.nginx.tls_check import CertificateError, Verdict, judge
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key_as(serialization.NoEncryption())

    def key_as(self, encryption: serialization.KeySerializationEncryption) -> str:
        encoded: bytes = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        return encoded.decode()


def make(
    name: str,
    issuer: Made | None = None,
    *,
    names: tuple[str, ...] | None = ("example.org", "*.example.org"),
    period: tuple[dt.timedelta, dt.timedelta] = (-DAY, 90 * DAY),
    ca: bool = False,
    extensions: tuple[x509.ExtensionType, ...] = (),
    key: Any = None,
) -> Made:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        issuer.certificate.subject if issuer else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        NOW + period[0],
        NOW + period[1],
    ).add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if names is not None and not ca:
        alternatives: list[x509.GeneralName] = []
        for one in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(one)))
            except ValueError:
                alternatives.append(x509.DNSName(one))
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return Made(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


ROOT = make("Root", ca=True)
MIDDLE = make("Middle", ROOT, ca=True)
SITE = make("example.org", MIDDLE)
CHAIN = SITE.pem + MIDDLE.pem


def judged(
    site: Made = SITE, *, chain: str = "", key: str = "", domains: tuple[str, ...] = ("example.org",)
) -> Verdict:
    return judge(chain or site.pem + MIDDLE.pem, key or site.key_pem, domains, NOW)


def refusal(site: Made = SITE, **said: Any) -> str:
    with pytest.raises(CertificateError) as caught:
        judged(site, **said)
    message = str(caught.value)
    assert "PRIVATE KEY-----\n" not in message
    assert not any(line in message for line in (said.get("key") or site.key_pem).splitlines()[1:-1])
    return message


@pytest.mark.parametrize("chain", [CHAIN, CHAIN + ROOT.pem, SITE.pem, f"words before\n{SITE.pem}\n\n{MIDDLE.pem}"])
def test_a_valid_chain_is_accepted(chain: str) -> None:
    assert judged(chain=chain) == Verdict(NOW + 90 * DAY, ())


def test_an_rsa_key_and_older_forms_of_keys_are_accepted() -> None:
    site = make("example.org", MIDDLE, key=rsa.generate_private_key(65537, 2048))
    older = site.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert not judged(site, key=older.decode()).warnings


def test_the_key_of_another_certificate() -> None:
    message = refusal(key=make("example.org").key_pem)
    assert "does not match the certificate of CN=example.org" in message
    assert f"{SITE.certificate.serial_number:x}" in message


def test_a_key_with_a_passphrase() -> None:
    assert "passphrase" in refusal(key=SITE.key_as(serialization.BestAvailableEncryption(b"secret")))


@pytest.mark.parametrize(
    "key",
    ["nonsense", SITE.pem, SITE.key_pem[:100], SITE.key_pem.replace("M", "!")],
    ids=["nonsense", "certificate", "cut", "letters"],
)
def test_a_text_that_is_not_a_key(key: str) -> None:
    assert "not a private key in PEM" in refusal(key=key)


@pytest.mark.parametrize("chain", ["nonsense", SITE.pem[:200], "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_text_that_is_not_a_certificate(chain: str) -> None:
    assert "not a certificate in PEM" in refusal(chain=chain)


def test_a_key_in_the_certificate_is_refused_because_it_would_be_readable() -> None:
    assert "the certificate contains a private key" in refusal(chain=SITE.pem + SITE.key_pem)
    assert "the certificate contains a private key" in refusal(chain=SITE.key_pem, key=SITE.pem)


@pytest.mark.parametrize(
    "chain", [SITE.pem + ROOT.pem, SITE.pem + ROOT.pem + MIDDLE.pem, SITE.pem + make("Middle", ROOT, ca=True).pem]
)
def test_a_chain_out_of_order_or_with_another_issuer(chain: str) -> None:
    message = refusal(chain=chain)
    assert "CN=example.org was issued by CN=Middle" in message


def test_the_ca_first() -> None:
    assert "does not match" in refusal(chain=MIDDLE.pem + SITE.pem)
    message = refusal(MIDDLE, chain=MIDDLE.pem + ROOT.pem)
    assert "is a CA's" in message
    assert "CA:FALSE" not in message


def test_a_self_signed_certificate_as_openssl_creates_it() -> None:
    message = refusal(make("example.org", ca=True))
    assert "CN=example.org, is a CA's" in message
    assert "create it again with basicConstraints=CA:FALSE" in message


def test_an_expired_certificate() -> None:
    message = refusal(make("example.org", MIDDLE, period=(-90 * DAY, -DAY)))
    assert "CN=example.org expired 2026-11-22 12:00 UTC (this machine's clock says 2026-11-23 12:00 UTC)" in message


def test_a_certificate_that_is_not_valid_yet_or_a_clock_that_is_a_day_late() -> None:
    message = refusal(make("example.org", MIDDLE, period=(DAY, 90 * DAY)))
    assert "valid from 2026-11-24 12:00 UTC only (this machine's clock says 2026-11-23 12:00 UTC)" in message
    assert "set the clock" in message


def test_an_expired_issuer_spoils_the_chain() -> None:
    middle = make("Middle", ROOT, ca=True, period=(-90 * DAY, -DAY))
    site = make("example.org", middle)
    assert "CN=Middle expired" in refusal(site, chain=site.pem + middle.pem)


@pytest.mark.parametrize(
    ("domains", "missing"),
    [
        (("example.org", "www.example.org", "WWW.Example.ORG"), ""),
        (("*.example.org",), ""),
        (("example.com",), "example.com"),
        (("example.org", "a.b.example.org", "other.org"), "a.b.example.org, other.org"),
        (("org",), "org"),
        (("192.0.2.1",), "192.0.2.1"),
    ],
)
def test_names(domains: tuple[str, ...], missing: str) -> None:
    if missing:
        assert f"does not cover {missing}; it is for *.example.org, example.org" in refusal(domains=domains)
    else:
        judged(domains=domains)


def test_a_wildcard_needs_a_wildcard() -> None:
    site = make("example.org", MIDDLE, names=("example.org", "www.example.org"))
    assert "does not cover *.example.org" in refusal(site, domains=("*.example.org",))


def test_addresses() -> None:
    site = make("example.org", MIDDLE, names=("192.0.2.1", "2001:db8::1"))
    judged(site, domains=("192.0.2.1", "2001:db8:0::1"))
    assert "does not cover 192.0.2.2; it is for 192.0.2.1, 2001:db8::1" in refusal(site, domains=("192.0.2.2",))


def test_a_common_name_is_not_enough() -> None:
    assert "names no host" in refusal(make("example.org", MIDDLE, names=None))


def test_a_certificate_for_clients() -> None:
    clients = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert "not for servers" in refusal(make("example.org", MIDDLE, extensions=(clients,)))
    servers = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    judged(make("example.org", MIDDLE, extensions=(servers,)))


@pytest.mark.parametrize(("left", "warned"), [(13 * DAY, True), (15 * DAY, False)])
def test_expiry_within_two_weeks_is_a_warning(left: dt.timedelta, warned: bool) -> None:
    verdict = judged(make("example.org", MIDDLE, period=(-DAY, left)))
    assert verdict.expires == NOW + left
    assert [("in 13 days" in text) for text in verdict.warnings] == ([True] if warned else [])


def test_a_missing_intermediate_certificate_is_a_warning() -> None:
    place = x509.UniformResourceIdentifier("http://ca.example/middle.crt")
    access = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, place)])
    site = make("example.org", MIDDLE, extensions=(access,))
    [warning] = judged(site, chain=site.pem).warnings
    assert "append the certificate of CN=Middle" in warning
    assert not judged(site).warnings
