"""Checks of given certificates, on the control node; uses cryptography, a dependency of ansible-core."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from ..contract import CERTIFICATE_DAYS

SOON = timedelta(days=CERTIFICATE_DAYS)


class CertificateError(Exception):
    """A certificate must not be served; the message says what is wrong and what to do, and never shows a key."""


@dataclass(frozen=True)
class Verdict:
    """A valid certificate's expiry and its warnings."""

    expires: datetime
    warnings: tuple[str, ...]


def judge(certificate: str, key: str, domains: Sequence[str], now: datetime) -> Verdict:
    """Check that Nginx can serve a certificate and that browsers will accept it.

    Args:
        certificate: the full chain in PEM, the site's own certificate first.
        key: its private key in PEM, without a passphrase.
        domains: host names or addresses of the site; ``*.example.org`` requires the same wildcard in the certificate.
        now: the current time, with a time zone.

    Raises:
        CertificateError: the certificate must not be served.
    """
    chain = _chain(certificate)
    own = chain[0]
    _check_key(own, key)
    _check_purpose(own)
    for child, parent in itertools.pairwise(chain):
        _check_issued(child, parent)
    for one in chain:
        _check_period(one, now)
    _check_names(own, domains)
    expires = min(one.not_valid_after_utc for one in chain)
    return Verdict(expires, tuple(_warnings(chain, expires, now)))


def _chain(certificate: str) -> list[x509.Certificate]:
    if "PRIVATE KEY-----" in certificate:
        raise CertificateError(
            "the certificate contains a private key, but everybody on the host can read the certificate. Set the "
            "certificate to the chain only, and the key separately"
        )
    try:
        return x509.load_pem_x509_certificates(certificate.encode())
    except ValueError as error:
        raise CertificateError(
            f"this is not a certificate in PEM ({error}). PEM begins with -----BEGIN CERTIFICATE-----; to read a file, "
            "use lookup('ansible.builtin.file', 'fullchain.pem')"
        ) from None


def _check_key(own: x509.Certificate, key: str) -> None:
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except TypeError:
        raise CertificateError(
            "the key needs a passphrase, but Nginx starts without a person: decrypt it ('openssl pkey -in key.pem -out "
            "plain.pem') and keep it in a vault instead"
        ) from None
    except Exception:  # noqa: BLE001 (the library's message could contain the key)
        raise CertificateError(
            "the key is not a private key in PEM; it begins with -----BEGIN PRIVATE KEY-----, or EC or RSA PRIVATE KEY"
        ) from None
    if _public(private.public_key()) != _public(own.public_key()):
        raise CertificateError(
            f"the key does not match the certificate of {_name(own.subject)} (serial {own.serial_number:x}): use the "
            "key with which this certificate was requested; the site's own certificate must be the first of the chain"
        )


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every kind of public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _check_purpose(own: x509.Certificate) -> None:
    try:
        constraints = own.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is not None and constraints.ca:
        hint = "put the site's own certificate before it"
        if own.issuer == own.subject:
            hint += ", or, if you created it yourself, create it again with basicConstraints=CA:FALSE"
        raise CertificateError(f"the first certificate, {_name(own.subject)}, is a CA's: {hint}")
    try:
        usages = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
        raise CertificateError(
            f"the certificate of {_name(own.subject)} is not for servers (extended key usage): request a new one"
        )


def _check_issued(child: x509.Certificate, parent: x509.Certificate) -> None:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateError(
            f"the chain is out of order or incomplete: {_name(child.subject)} was issued by {_name(child.issuer)}, but "
            f"{_name(parent.subject)} follows it. Order: the site's certificate, then the issuer of each"
        ) from None


def _check_period(one: x509.Certificate, now: datetime) -> None:
    clock = f"(this machine's clock says {_moment(now)})"
    if now < one.not_valid_before_utc:
        raise CertificateError(
            f"the certificate of {_name(one.subject)} is valid from {_moment(one.not_valid_before_utc)} only {clock}: "
            "wait, or set the clock"
        )
    if now >= one.not_valid_after_utc:
        raise CertificateError(
            f"the certificate of {_name(one.subject)} expired {_moment(one.not_valid_after_utc)} {clock}: get a new one"
        )


def _check_names(own: x509.Certificate, domains: Sequence[str]) -> None:
    try:
        alternatives = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise CertificateError(
            f"the certificate of {_name(own.subject)} names no host (no subject alternative name, the only field that "
            "browsers check): request a new one"
        ) from None
    names = {name.lower() for name in alternatives.get_values_for_type(x509.DNSName)}
    addresses = set(alternatives.get_values_for_type(x509.IPAddress))
    missing = [domain for domain in domains if not _covered(domain.lower(), names, addresses)]
    if missing:
        raise CertificateError(
            f"the certificate does not cover {', '.join(missing)}; it is for "
            f"{', '.join([*sorted(names), *sorted(map(str, addresses))]) or 'no host'}: get one for all domains of the "
            "site, or correct the domains"
        )


def _covered(domain: str, names: set[str], addresses: Collection[object]) -> bool:
    try:
        return ipaddress.ip_address(domain) in addresses
    except ValueError:
        return domain in names or f"*.{domain.partition('.')[2]}" in names


def _warnings(chain: Sequence[x509.Certificate], expires: datetime, now: datetime) -> list[str]:
    found = []
    if expires - now < SOON:
        found.append(f"it expires {_moment(expires)}, in {(expires - now).days} days: get a new one")
    own = chain[0]
    if len(chain) == 1 and own.issuer != own.subject and _issuer_is_published(own):
        found.append(
            f"its chain is incomplete: append the certificate of {_name(own.issuer)}, which some browsers lack"
        )
    return found


def _issuer_is_published(own: x509.Certificate) -> bool:
    """Whether the certificate has the URL of its issuer's certificate, as those issued by intermediate CAs have."""
    try:
        access = own.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in access)


def _name(name: x509.Name) -> str:
    return name.rfc4514_string() or "(no name)"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
