"""The cost of HTTPS: connections and static files, compared with plain HTTP from the same server block."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.lab import Lab, LabError, say
from bench.report import Figure, Section, Table, Target

HOST = "site"
DOMAIN = "files.example"
RELEASE = "/srv/hostwright/web/files/run/current/static"
# Ports in Nginx's container.
HTTP, HTTPS = 8081, 8443
CONNECTIONS = 16
# The targets, as shares of the rate of plain HTTP.
HANDSHAKES = 0.1
SMALL = 0.5
LARGE = 0.4

NOTES = """\
wrk runs on the host, with sixteen connections from one thread, and shares the cores with Nginx, so both sides of TLS
reduce the share. It connects to the Nginx that the role configures, in its container, without the Engine's forwarding;
HTTP and HTTPS alternate. Every new connection is a full handshake (TLS 1.3, a certificate with a P-256 key) without
resumption.
"""


@dataclass(frozen=True)
class Way:
    """A kind of request: its name, bytes of the file, whether each request opens a connection, and the target."""

    name: str
    size: int
    once: bool
    share: float

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"{self.size}.bin"


WAYS = (
    Way("1 kB, each by a new connection", 1000, True, HANDSHAKES),
    Way("1 kB, connections kept", 1000, False, SMALL),
    Way("100 kB, connections kept", 100_000, False, LARGE),
)


def measure(lab: Lab) -> Section:
    """Measure HTTPS and return the report."""
    lab.make_hosts(HOST)
    say("installing Nginx")
    certificate, key = make_certificate(lab)
    lab.playbook(
        "tls", HOST, bench_domain=DOMAIN, bench_certificate=certificate, bench_key=key,
        bench_http_port=HTTP,
    )  # fmt: skip
    prepare(lab)
    rounds, seconds = (2, 1) if lab.quick else (5, 4)
    rates: dict[tuple[Way, int], list[float]] = {}
    for number in range(rounds):
        say(f"requesting files, {number + 1} of {rounds}")
        for way in WAYS:
            for port in (HTTP, HTTPS):
                rates.setdefault((way, port), []).append(rate(lab, way, port, seconds))

    shares = {
        way: Figure(tuple(b / a for a, b in zip(rates[way, HTTP], rates[way, HTTPS], strict=True)), "×") for way in WAYS
    }
    return Section(
        "tls",
        "Files by HTTPS",
        lab.conditions(
            host=f"{lab.engine_of(HOST)}, in a container",
            nginx=lab.on(HOST, "docker", "exec", "hostwright-nginx", "sh", "-c", "nginx -v 2>&1").partition(": ")[2],
            samples=f"{rounds} of each, {seconds} s long",
        ),
        [
            Table(
                ("a file of", "by HTTP", "by HTTPS", "share"),
                [
                    [way.name, *(Figure(tuple(rates[way, port]), "/s") for port in (HTTP, HTTPS)), shares[way]]
                    for way in WAYS
                ],
                "Answers per second:",
            )
        ],
        [Target(way.name, shares[way], way.share, "of HTTP's", at_least=True) for way in WAYS],
        NOTES,
    )


def make_certificate(lab: Lab) -> tuple[str, str]:
    """Make a self-signed certificate; return it and its key in PEM."""
    text = lab.on(
        HOST, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "30", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}",
        "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "/dev/stdout",
    )  # fmt: skip
    certificate, key = (
        re.search(rf"-----BEGIN {what}-----.*?-----END {what}-----", text, re.DOTALL)
        for what in ("CERTIFICATE", "PRIVATE KEY")
    )
    if not certificate or not key:
        raise LabError(f"openssl made no certificate:\n{text}")
    return f"{certificate[0]}\n", f"{key[0]}\n"


def prepare(lab: Lab) -> None:
    """Make the files in a release's directory, and let the site's name resolve to Nginx's container."""
    addresses = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    address = lab.on(HOST, "docker", "inspect", "--format", addresses, "hostwright-nginx")
    files = " && ".join(f"head -c {way.size} /dev/urandom > {RELEASE}/{way.file}" for way in WAYS)
    lab.on(HOST, "sh", "-c", f"mkdir -p {RELEASE} && {files} && echo '{address} {DOMAIN}' >> /etc/hosts")


def rate(lab: Lab, way: Way, port: int, seconds: int) -> float:
    """Measure the answers per second."""
    scheme = "https" if port == HTTPS else "http"
    closing = ["--header", "Connection: close"] if way.once else []
    return answers(
        lab.on(
            HOST, "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s", *closing,
            f"{scheme}://{DOMAIN}:{port}/static/{way.file}",
        )
    )  # fmt: skip


def answers(output: str) -> float:
    """Return the answers per second from wrk's output.

    Raises:
        LabError: some answers were not files, or connections broke.
    """
    found = re.search(r"^Requests/sec: +([0-9.]+)", output, re.MULTILINE)
    if not found or float(found[1]) == 0 or re.search(r"Socket errors: |Non-2xx", output):
        raise LabError(f"wrk did not get its files:\n{output}")
    return float(found[1])
