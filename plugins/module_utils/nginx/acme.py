"""Certificates of this host's sites: how Nginx reads them, and how certbot gets them through the running Nginx.

A new certificate stays in place, and Nginx is told to read it, only if nginx -t accepts it. Whatever fails, the
certificate before stays; the reason is in tls/status.json. The host command has this module too (host/command.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..host.files import fsync, write_durably

ROOT = Path("/srv/hostwright/nginx")
CONTAINER = "hostwright-nginx"
NGINX = (10002, 10001)
"""User and group of Nginx in its container."""
CERTIFICATE, KEY = "fullchain.pem", "privkey.pem"
UNREAD = ".unread"
"""Lies in the configuration's directory while Nginx has yet to read what else lies there."""
CLOCK_TOLERANCE = 300.0
TIME_LIMIT = 600.0
"""Seconds that certbot may take for one site."""
_HIDDEN = "AttributeError: can't set attribute"
"""What the certbot of Debian 12 says instead of a CA's refusal, over which it fails."""
_REFUSED = "acme.messages.Error: "
"""Begins the line of certbot's log that has a CA's refusal: type, what that means, and what the CA says."""
_NOISE = (
    "Saving debug log", "Ask for help", "Requesting a certificate", "Renewing an existing", "Account registered",
    "An unexpected error occurred:",
)  # fmt: skip


class CertificateProblem(Exception):  # noqa: N818 (it is told to a person)
    """A certificate that was not obtained or not put in place; the message says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its private key, in PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Store:
    """The certificates that Nginx reads: ``SITE`` is a link to a directory that holds both files.

    One rename of the link changes both, so that at no moment a key lies beside another one's certificate.
    """

    directory: Path

    @property
    def _pairs(self) -> Path:
        return self.directory / ".pairs"

    def current(self, site: str) -> str | None:
        """Where a site's link leads; None if it has no certificate."""
        link = self.directory / site
        return str(link.readlink()) if link.is_symlink() else None

    def read(self, site: str) -> Pair | None:
        """Return what lies there for a site; None if that is nothing, or not as Nginx and nobody else may read it."""
        place = self.directory / site
        try:
            mode = (place / KEY).stat()
            if mode.st_mode & 0o7777 != 0o400 or (os.geteuid() == 0 and (mode.st_uid, mode.st_gid) != NGINX):
                return None
            return Pair((place / CERTIFICATE).read_text(), (place / KEY).read_text())
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def stage(self, site: str, pair: Pair) -> str:
        """Write a pair, flushed to disk, beside the one in place; return what ``switch`` takes.

        Raises:
            OSError: it cannot be written; what was is removed.
        """
        (self._pairs / site).mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=self._pairs / site))
        try:
            write_pair(place, pair)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return str(place.relative_to(self.directory))

    def switch(self, site: str, to: str | None) -> None:
        """Make a staged pair the site's, by one rename; None takes the site's away."""
        link = self.directory / site
        if to is None:
            link.unlink(missing_ok=True)
            return
        temporary = self.directory / f".{site}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(to)
        temporary.replace(link)
        fsync(self.directory)

    def tidy(self, site: str) -> None:
        """Remove the pairs of a site that its link does not name."""
        current = self.current(site)
        for place in (self._pairs / site).glob("*"):
            if str(place.relative_to(self.directory)) != current:
                shutil.rmtree(place)

    def status(self) -> dict[str, dict[str, Any]]:
        """What is known about every site's certificate."""
        try:
            found: dict[str, dict[str, Any]] = json.loads((self.directory / "status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def note(self, site: str, facts: Mapping[str, Any] | None) -> None:
        """Replace what is known about a site's certificate, flushed to disk; None forgets it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status = {name: known for name, known in self.status().items() if name != site}
            if facts is not None:
                status[site] = dict(facts)
            text = json.dumps(dict(sorted(status.items())), indent=1) + "\n"
            write_durably(self.directory / "status.json", text, 0o644, os.geteuid(), os.getegid())


def write_pair(place: Path, pair: Pair) -> None:
    """Write both files into a directory, with the modes they must have, flushed to disk."""
    place.chmod(0o755)
    own = (os.geteuid(), os.getegid())
    write_durably(place / CERTIFICATE, pair.certificate, 0o644, *own)
    write_durably(place / KEY, pair.key, 0o400, *(NGINX if own[0] == 0 else own))


def pending(store: Store, site: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a site has no certificate from this CA for these names."""
    known = store.status().get(site) or {}
    same = all(known.get(name) == wanted[name] for name in ("names", "directory"))
    return store.current(site) is None or known.get("kind") != "acme" or not same


Answer = subprocess.CompletedProcess[str]
Run = Callable[[Sequence[str], Mapping[str, str]], Answer]


def run(command: Sequence[str], environment: Mapping[str, str]) -> Answer:
    """Run a program, with more in its environment, and capture what it says.

    Raises:
        CertificateProblem: there is no such program, or it did not end in time.
    """
    try:
        return subprocess.run(
            command, env={**os.environ, "LC_ALL": "C.UTF-8", **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=TIME_LIMIT,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CertificateProblem(f"there is no program {command[0]} on this host: deploy again") from error
    except subprocess.TimeoutExpired as error:
        raise CertificateProblem(f"{command[0]} did not end within {TIME_LIMIT:g} s") from error


@dataclass(frozen=True)
class Authority:
    """Gets certificates of one host from their CA."""

    root: Path = ROOT
    run: Run = run
    clock: Callable[[], float] = time.time

    @property
    def store(self) -> Store:
        """Where Nginx reads them."""
        return Store(self.root / "tls")

    def sites(self) -> dict[str, dict[str, Any]]:
        """The sites to see to, with names, directory, email and ca of each; the role nginx wrote them."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.root.glob("acme/sites/*.json"))}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other run is under way; the kernel frees the lock with the process."""
        with (self.root / "acme" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def see_to(self, site: str, wanted: Mapping[str, Any], force: bool = False) -> None:
        """Have a site's certificate renewed if it is due, or obtained, and put a new one in place.

        Raises:
            CertificateProblem: that did not work; the certificate in place, if there is one, stays.
        """
        known = self.store.status().get(site) or {}
        facts = {**known, "tried": _moment(self.clock())}
        try:
            # Another CA's certificate that is not due would be kept.
            moved = known.get("kind") == "acme" and known.get("directory") != wanted["directory"]
            self._certbot(site, wanted, force or moved)
            pair = self._obtained(site)
            expires = self._check_period(pair)
            if pair != self.store.read(site):
                self._put(site, pair)
            elif (self.root / UNREAD).exists():  # somebody was killed in between
                self._have_read()
            facts |= {
                "kind": "acme", "names": wanted["names"], "directory": wanted["directory"],
                "expires": _moment(expires), "error": "",
            }  # fmt: skip
        except (CertificateProblem, OSError) as error:
            stays = (
                f"The certificate in place stays; it expires {known.get('expires')}."
                if self.store.current(site)
                else "There is none yet: the site is served by plain HTTP."
            )
            facts["error"] = f"No new certificate from {wanted['directory']}: {error}"
            with contextlib.suppress(OSError):  # a full disk; that is told already
                self.store.note(site, facts)
            raise CertificateProblem(f"{facts['error']}\n{stays}") from error
        self.store.note(site, facts)

    def _certbot(self, site: str, wanted: Mapping[str, Any], force: bool) -> None:
        acme = self.root / "acme"
        environment = {}
        if wanted.get("ca"):
            bundle = acme / f"{site}.pem"
            write_durably(bundle, wanted["ca"], 0o644, os.geteuid(), os.getegid())
            environment["REQUESTS_CA_BUNDLE"] = str(bundle)
        directories = [word for name in ("config", "work", "logs") for word in (f"--{name}-dir", str(acme / name))]
        account = (
            ["--email", wanted["email"], "--no-eff-email"]
            if wanted.get("email")
            else ["--register-unsafely-without-email"]
        )
        command = [
            "certbot", "certonly", "--non-interactive", "--agree-tos", *account, *directories,
            "--server", wanted["directory"], "--webroot", "--webroot-path", str(self.root / "acme-challenge"),
            "--cert-name", site, *(word for name in wanted["names"] for word in ("--domain", name)),
            "--renew-with-new-domains", "--force-renewal" if force else "--keep-until-expiring",
            "--max-log-backups", "50",
        ]  # fmt: skip
        done = self.run(command, environment)
        if done.returncode:
            said = [
                line.strip()
                for line in f"{done.stdout}\n{done.stderr}".splitlines()
                if line.strip() and not line.startswith(_NOISE)
            ]
            refusal = self._refusal(acme / "logs" / "letsencrypt.log") if _HIDDEN in said else ""
            if refusal:
                said.append(f"The CA said: {refusal}")
            raise CertificateProblem("\n".join(said[-12:]) or f"certbot ended with exit status {done.returncode}")

    @staticmethod
    def _refusal(log: Path) -> str:
        """What the CA refused with, by the log of certbot's last run."""
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.removeprefix(_REFUSED) for line in reversed(lines) if line.startswith(_REFUSED)), "")

    def _obtained(self, site: str) -> Pair:
        live = self.root / "acme" / "config" / "live" / site
        return Pair((live / CERTIFICATE).read_text(), (live / KEY).read_text())

    def _check_period(self, pair: Pair) -> float:
        """Return when a certificate expires, in seconds since the epoch; refuse one that this host's clock denies."""
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(pair.certificate)
            file.flush()
            done = self.run(["openssl", "x509", "-noout", "-startdate", "-enddate", "-in", file.name], {})
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if done.returncode or not {"notBefore", "notAfter"} <= set(found):
            raise CertificateProblem(f"openssl cannot read the new certificate: {done.stderr.strip()}")
        start, end = (ssl.cert_time_to_seconds(found[name]) for name in ("notBefore", "notAfter"))
        now = self.clock()
        if not start - CLOCK_TOLERANCE <= now < end:
            raise CertificateProblem(
                f"the new certificate is valid from {_moment(start)} to {_moment(end)}, and this host's clock says "
                f"{_moment(now)}: set the clock (timedatectl), then run this again"
            )
        return float(end)

    def _put(self, site: str, pair: Pair) -> None:
        """Put a pair in place and have Nginx read it; if Nginx refuses it, the one before is put back."""
        before = self.store.current(site)
        staged = self.store.stage(site, pair)
        (self.root / UNREAD).touch()
        self.store.switch(site, staged)
        try:
            self._have_read()
        except BaseException:
            self.store.switch(site, before)
            raise
        finally:
            self.store.tidy(site)

    def _have_read(self) -> None:
        self._nginx("-t", "-q")
        self._nginx("-s", "reload")
        (self.root / UNREAD).unlink(missing_ok=True)

    def _nginx(self, *words: str) -> None:
        done = self.run(["docker", "exec", CONTAINER, "nginx", "-c", "/etc/hostwright/nginx.conf", *words], {})
        if done.returncode:
            raise CertificateProblem(f"Nginx refuses it: {done.stderr.strip() or done.stdout.strip()}")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
