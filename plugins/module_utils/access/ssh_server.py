"""The SSH server of a host with its effective settings, and the SSH session of Ansible."""

from __future__ import annotations

import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..host.problems import Problem, ProblemError
from ..host.process import Runner

DROP_IN = "10-hostwright.conf"

# Output of `sshd -T`: the values of each lower-case keyword, in their order.
Effective = dict[str, list[str]]


@dataclass(frozen=True)
class Session:
    """An SSH session: the user, the client's address and the host's port."""

    user: str
    address: str
    port: int


def session(pid: int, proc: Path = Path("/proc")) -> Session | None:
    """Return the SSH session that a process belongs to; None if there is none.

    It reads the environment of the login shell: sudo clears that of the module's own process.
    """
    found = None
    while pid > 1:
        try:
            environment = (proc / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
            uid = (proc / str(pid)).stat().st_uid
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
        for variable in environment:
            if match := re.fullmatch(r"SSH_CONNECTION=(\S+) \d+ \S+ (\d+)", variable):
                found = Session(_name(uid), match[1], int(match[2]))
    return found


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def drop_in_text(settings: Mapping[str, str | int | bool]) -> str:
    """Return the text of the drop-in; YAML booleans become yes and no."""
    lines = ["# Written by Ansible (hostwright.django.host_access)."]
    for keyword, value in settings.items():
        lines.append(f"{keyword} {('no', 'yes')[value] if isinstance(value, bool) else value}")
    return "\n".join([*lines, ""])


def parse_effective(text: str) -> Effective:
    """Parse the output of ``sshd -T``."""
    effective: Effective = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        effective.setdefault(keyword.lower(), []).append(value)
    return effective


class SshServer:
    """OpenSSH's server; ``directory`` contains its configuration."""

    def __init__(self, run: Runner, directory: Path = Path("/etc/ssh")) -> None:
        self.run = run
        self.directory = directory

    @property
    def drop_in(self) -> Path:
        """The file with Hostwright's settings."""
        return self.directory / "sshd_config.d" / DROP_IN

    def effective(self, user: str, address: str, file: Path | None = None) -> Effective:
        """Return the effective settings for a user from an address.

        Args:
            user: name of the user.
            address: the client's address.
            file: configuration file to use instead of the server's.

        Raises:
            ProblemError: the server refuses its configuration.
        """
        command = ["sshd", "-T", "-C", f"user={user},host={address},addr={address}"]
        answer = self.run([*command, "-f", str(file)] if file else command)
        if not answer.ok:
            raise ProblemError(
                Problem(
                    "the SSH server refuses its configuration",
                    answer.said.replace(str(file.parent), str(self.directory)) if file else answer.said,
                    "correct hardening_ssh_settings, or the named file ('sshd -t' on the host checks it)",
                )
            )
        return parse_effective(answer.stdout)

    def ports(self) -> set[int]:
        """Return the ports that the server listens on.

        Raises:
            ProblemError: the server refuses its configuration.
        """
        addresses = self.effective("root", "127.0.0.1").get("listenaddress", [])
        return {int(port) for address in addresses if (port := address.rpartition(":")[2]).isdecimal()}

    def refuse_overridden(
        self, settings: Mapping[str, str | int | bool], users: Sequence[str], address: str
    ) -> Effective:
        """Check, on copies, that the settings take effect in the drop-in; return the last user's effective settings.

        sshd uses the first line with a keyword. So this compares the effective settings with the lines at the top of
        sshd_config and with the lines in the drop-in, for each of ``users`` from ``address``: if they differ, another
        line overrides the drop-in.

        Raises:
            ProblemError: the settings are wrong, or another line overrides one of them.
        """
        keywords = [keyword.lower() for keyword in settings]
        effective: Effective = {}
        with tempfile.TemporaryDirectory(prefix="hostwright-") as name:
            place = Path(name)
            first, later = self._copy(place / "first", ""), self._copy(place / "later", drop_in_text(settings))
            text = first.read_text(encoding="utf-8", errors="surrogateescape")
            first.write_text(drop_in_text(settings) + text, encoding="utf-8", errors="surrogateescape")
            for user in users:
                effective = self.effective(user, address, later)
                wanted = self.effective(user, address, first)
                if overridden := [keyword for keyword in keywords if wanted.get(keyword) != effective.get(keyword)]:
                    raise ProblemError(self._overridden(overridden, user))
        return effective

    def refuse_keyless(self, effective: Effective, user: str) -> None:
        """Refuse to turn off passwords for a user without a key.

        Raises:
            ProblemError: the user has no authorized key.
        """
        if effective.get("passwordauthentication") != ["no"]:
            return
        elsewhere = ("authorizedkeyscommand", "trustedusercakeys")
        if any(effective.get(keyword, ["none"]) != ["none"] for keyword in elsewhere):
            return
        files = list(_key_files(effective, user))
        if any(_has_key(path) for path in files):
            return
        raise ProblemError(
            Problem(
                f"the user {user}, who logged in for this run, has no authorized key and would be locked out",
                ", ".join(map(str, files)) or f"{user} is not a user of this host",
                f"install a key (ssh-copy-id {user}@HOST), log in with it, then run again; "
                "or leave SSH unchanged with hardening_ssh: false",
            )
        )

    def _copy(self, place: Path, drop_in: str) -> Path:
        """Copy the configuration with another drop-in, so that it includes the copied files; return the main file."""
        snippets = place / "sshd_config.d"
        snippets.mkdir(parents=True)
        for path in self._snippets():
            shutil.copy(path, snippets)
        (snippets / DROP_IN).write_text(drop_in, encoding="utf-8")
        text = (self.directory / "sshd_config").read_text(encoding="utf-8", errors="surrogateescape")
        include = rf"(?im)^(\s*include\b.*?)(?:{re.escape(str(self.directory))}/)?(?=sshd_config\.d/)"
        main = place / "sshd_config"
        main.write_text(re.sub(include, rf"\g<1>{place}/", text), encoding="utf-8", errors="surrogateescape")
        return main

    def _overridden(self, keywords: Sequence[str], user: str) -> Problem:
        return Problem(
            f"other lines override settings of SSH for the user {user}: {', '.join(keywords)}",
            "; ".join(self._lines(keywords))
            or f"{self.directory}/sshd_config includes {self.drop_in.parent}/*.conf too late or not at all",
            "remove these lines, or set the same values in hardening_ssh_settings; nothing was changed",
        )

    def _lines(self, keywords: Sequence[str]) -> Iterator[str]:
        for path in (*self._snippets(), self.directory / "sshd_config"):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if (words := re.split(r"[\s=]+", line.strip(), maxsplit=1)) and words[0].lower() in keywords:
                    yield f"{path}, line {number}: {line.strip()}"

    def _snippets(self) -> list[Path]:
        return [path for path in sorted(self.drop_in.parent.glob("*.conf")) if path != self.drop_in]


def _key_files(effective: Effective, user: str) -> Iterator[Path]:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return
    tokens = {"%%": "%", "%h": account.pw_dir, "%u": user, "%U": str(account.pw_uid)}
    for pattern in " ".join(effective.get("authorizedkeysfile", [])).split():
        if pattern != "none":
            yield Path(account.pw_dir, re.sub("%[%huU]", lambda token: tokens[token[0]], pattern))


def _has_key(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())
