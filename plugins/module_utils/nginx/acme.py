"""Certificates of this host's sites: the store that Nginx reads, and certbot, which obtains them through Nginx.

A new certificate is kept, and Nginx reloaded, only if nginx -t accepts it. After any failure the previous certificate
stays; the reason is in tls/status.json. The host command contains this module too (host/command.py).
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
"""Marker file in the configuration's directory: Nginx has not read the directory since its last change."""
CLOCK_TOLERANCE = 300.0
"""Seconds by which this host's clock may be slow."""
TIME_LIMIT = 600.0
"""Seconds that certbot may take for one site."""
_HIDDEN = "AttributeError: can't set attribute"
"""Printed by the certbot of Debian 12 instead of a CA's error, because it crashes while it handles that error."""
_REFUSED = "acme.messages.Error: "
"""Begins the line of certbot's log with a CA's error: its type, the meaning, and the CA's own text."""
_NOISE = (
    "Saving debug log", "Ask for help", "Requesting a certificate", "Renewing an existing", "Account registered",
    "An unexpected error occurred:",
)  # fmt: skip


class CertificateProblem(Exception):  # noqa: N818 (a message for the user, not an error of the program)
    """A certificate could not be obtained or put in place; the message says why."""


@dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its private key, in PEM."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Store:
    """The certificates that Nginx reads: ``SITE`` is a symlink to a directory with both files.

    One rename of the symlink changes both, so that certificate and key always match.
    """

    directory: Path

    @property
    def _pairs(self) -> Path:
        return self.directory / ".pairs"

    def current(self, site: str) -> str | None:
        """Return the target of a site's symlink; None if the site has no certificate."""
        link = self.directory / site
        return str(link.readlink()) if link.is_symlink() else None

    def read(self, site: str) -> Pair | None:
        """Return a site's pair; None if it is missing, or if its key is not readable by Nginx alone."""
        place = self.directory / site
        try:
            mode = (place / KEY).stat()
            if mode.st_mode & 0o7777 != 0o400 or (os.geteuid() == 0 and (mode.st_uid, mode.st_gid) != NGINX):
                return None
            return Pair((place / CERTIFICATE).read_text(), (place / KEY).read_text())
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    def stage(self, site: str, pair: Pair) -> str:
        """Write a pair, flushed to disk, beside the current one; return the target to pass to ``switch``.

        Raises:
            OSError: the pair cannot be written; files that were written are removed.
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
        """Make a staged pair the site's by one rename; None removes the site's symlink."""
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
        """Remove the pairs of a site that its symlink does not point to."""
        current = self.current(site)
        for place in (self._pairs / site).glob("*"):
            if str(place.relative_to(self.directory)) != current:
                shutil.rmtree(place)

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the recorded facts about every site's certificate."""
        try:
            found: dict[str, dict[str, Any]] = json.loads((self.directory / "status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def record(self, site: str, facts: Mapping[str, Any] | None) -> None:
        """Replace the facts about a site's certificate, flushed to disk; None removes them."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            status = {name: known for name, known in self.status().items() if name != site}
            if facts is not None:
                status[site] = dict(facts)
            text = json.dumps(dict(sorted(status.items())), indent=1) + "\n"
            write_durably(self.directory / "status.json", text, 0o644, os.geteuid(), os.getegid())


def write_pair(place: Path, pair: Pair) -> None:
    """Write both files into a directory with the required modes, flushed to disk."""
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
    """Run a program with additional environment variables and capture its output.

    Raises:
        CertificateProblem: the program is missing, or did not end in time.
    """
    try:
        return subprocess.run(
            command, env={**os.environ, "LC_ALL": "C.UTF-8", **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, timeout=TIME_LIMIT,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise CertificateProblem(f"the program {command[0]} is missing on this host: deploy again") from error
    except subprocess.TimeoutExpired as error:
        raise CertificateProblem(f"{command[0]} did not end within {TIME_LIMIT:g} s") from error


@dataclass(frozen=True)
class Authority:
    """Obtains the certificates of one host from their CA."""

    root: Path = ROOT
    run: Run = run
    clock: Callable[[], float] = time.time

    @property
    def store(self) -> Store:
        """The certificates that Nginx reads."""
        return Store(self.root / "tls")

    def sites(self) -> dict[str, dict[str, Any]]:
        """Return the sites with certificates from a CA, with names, directory, email and ca of each."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.root.glob("acme/sites/*.json"))}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Take the lock that lets one run work at a time; the kernel releases it when the process ends."""
        with (self.root / "acme" / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def see_to(self, site: str, wanted: Mapping[str, Any], force: bool = False) -> None:
        """Obtain a site's certificate, or renew it if it is due, and put a new one in place.

        Raises:
            CertificateProblem: this failed; the current certificate, if any, stays.
        """
        known = self.store.status().get(site) or {}
        facts = {**known, "tried": _moment(self.clock())}
        try:
            # Without --force-renewal, certbot keeps the previous CA's certificate until it is due.
            moved = known.get("kind") == "acme" and known.get("directory") != wanted["directory"]
            self._certbot(site, wanted, force or moved)
            pair = self._obtained(site)
            expires = self._check_period(pair)
            if pair != self.store.read(site):
                self._install(site, pair)
            elif (self.root / UNREAD).exists():  # an earlier run was killed before the reload
                self._reload()
            facts |= {
                "kind": "acme", "names": wanted["names"], "directory": wanted["directory"],
                "expires": _moment(expires), "error": "",
            }  # fmt: skip
        except (CertificateProblem, OSError) as error:
            stays = (
                f"The certificate in place stays; it expires {known.get('expires')}."
                if self.store.current(site)
                else "The site has no certificate yet and is served by plain HTTP."
            )
            facts["error"] = f"No new certificate from {wanted['directory']}: {error}"
            with contextlib.suppress(OSError):  # a full disk, which the error below reports already
                self.store.record(site, facts)
            raise CertificateProblem(f"{facts['error']}\n{stays}") from error
        self.store.record(site, facts)

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
            output = [
                line.strip()
                for line in f"{done.stdout}\n{done.stderr}".splitlines()
                if line.strip() and not line.startswith(_NOISE)
            ]
            refusal = self._refusal(acme / "logs" / "letsencrypt.log") if _HIDDEN in output else ""
            if refusal:
                output.append(f"The CA answered: {refusal}")
            raise CertificateProblem("\n".join(output[-12:]) or f"certbot ended with exit status {done.returncode}")

    @staticmethod
    def _refusal(log: Path) -> str:
        """Return the CA's error from the log of certbot's last run; empty if there is none."""
        try:
            lines = log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.removeprefix(_REFUSED) for line in reversed(lines) if line.startswith(_REFUSED)), "")

    def _obtained(self, site: str) -> Pair:
        live = self.root / "acme" / "config" / "live" / site
        return Pair((live / CERTIFICATE).read_text(), (live / KEY).read_text())

    def _check_period(self, pair: Pair) -> float:
        """Return when a certificate expires, in seconds since the epoch.

        Raises:
            CertificateProblem: by this host's clock it is not valid, or openssl cannot read it.
        """
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

    def _install(self, site: str, pair: Pair) -> None:
        """Put a pair in place and reload Nginx; if Nginx refuses it, put the previous pair back."""
        before = self.store.current(site)
        staged = self.store.stage(site, pair)
        (self.root / UNREAD).touch()
        self.store.switch(site, staged)
        try:
            self._reload()
        except BaseException:
            self.store.switch(site, before)
            raise
        finally:
            self.store.tidy(site)

    def _reload(self) -> None:
        self._nginx("-t", "-q")
        self._nginx("-s", "reload")
        (self.root / UNREAD).unlink(missing_ok=True)

    def _nginx(self, *words: str) -> None:
        done = self.run(["docker", "exec", CONTAINER, "nginx", "-c", "/etc/hostwright/nginx.conf", *words], {})
        if done.returncode:
            raise CertificateProblem(f"Nginx refuses it: {done.stderr.strip() or done.stdout.strip()}")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
