"""Make the certificates of this scenario, NAME.pem with NAME.key: make_certificates.py DIRECTORY."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC)
Issuer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def make(names: list[str], issuer: Issuer | None = None, days: tuple[int, int] = (-1, 60), ca: bool = False) -> Issuer:
    """Return a certificate and its key; ``days`` is its validity, in days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signer = issuer[1] if issuer else key
    built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    if ca:
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only", "digital_signature"), False
        )  # fmt: skip
        built = built.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
    else:
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
    return built.sign(signer, hashes.SHA256()), key


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def main(directory: Path) -> None:
    """Write all certificates and keys."""
    directory.mkdir(parents=True, exist_ok=True)
    root = make(["Root"], ca=True)
    middle = make(["Middle"], root, ca=True)
    (directory / "ca.pem").write_text(pem(root[0]))
    site = ["polls.example", "*.polls.example"]
    for name, (certificate, key) in {
        "good": make(site, middle),
        "new": make(site, middle, days=(-1, 13)),
        "expired": make(site, middle, days=(-9, -1)),
        "early": make(site, middle, days=(1, 60)),
        "foreign": make(["shop.example"], middle),
        "pebble": make(["localhost"], middle),
    }.items():
        (directory / f"{name}.pem").write_text(pem(certificate) + pem(middle[0]))
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (directory / f"{name}.key").write_bytes(text)
    for name, chain, key_of in (("mismatch", "good", "new"), ("unordered", "good", "good")):
        parts = (directory / f"{chain}.pem").read_text()
        if name == "unordered":
            parts = parts.partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n" + pem(root[0])
        (directory / f"{name}.pem").write_text(parts)
        (directory / f"{name}.key").write_text((directory / f"{key_of}.key").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
