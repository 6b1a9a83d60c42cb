"""The SSH server of a host, and the session that Ansible came in by: read, and asked what it would do with settings."""

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

# What `sshd -T` prints: the values of each keyword, in lower case, in their order.
Effective = dict[str, list[str]]


@dataclass(frozen=True)
class Session:
    """The SSH session that a process belongs to: who logged in, from which address, to which port of the host."""

    user: str
    address: str
    port: int


def session(pid: int, proc: Path = Path("/proc")) -> Session | None:
    """The session of a process; None if it did not come in by SSH.

    The environment of the module's own process does not tell, as sudo clears it; that of the login shell does.
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
    """The text of the drop-in; a YAML boolean is meant as yes or no."""
    lines = ["# Written by Ansible (hostwright.django.host_access)."]
    for keyword, value in settings.items():
        lines.append(f"{keyword} {('no', 'yes')[value] if isinstance(value, bool) else value}")
    return "\n".join([*lines, ""])


def parse_effective(text: str) -> Effective:
    """What ``sshd -T`` printed."""
    effective: Effective = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        effective.setdefault(keyword.lower(), []).append(value)
    return effective


class SshServer:
    """OpenSSH's server, its configuration below ``directory``."""

    def __init__(self, run: Runner, directory: Path = Path("/etc/ssh")) -> None:
        self.run = run
        self.directory = directory

    @property
    def drop_in(self) -> Path:
        """The file with our settings."""
        return self.directory / "sshd_config.d" / DROP_IN

    def effective(self, user: str, address: str, file: Path | None = None) -> Effective:
        """What holds for a user from an address.

        Args:
            user: name of the user.
            address: where the user comes from.
            file: another configuration file than the server's.

        Raises:
            ProblemError: the server does not take its configuration.
        """
        command = ["sshd", "-T", "-C", f"user={user},host={address},addr={address}"]
        answer = self.run([*command, "-f", str(file)] if file else command)
        if not answer.ok:
            raise ProblemError(
                Problem(
                    "the SSH server does not take its configuration",
                    self._real(answer.said, file.parent if file else self.directory),
                    "correct hardening_ssh_settings, or the file that is named ('sshd -t' on the host checks it)",
                )
            )
        return parse_effective(answer.stdout)

    def ports(self) -> set[int]:
        """The ports that the server listens on.

        Raises:
            ProblemError: the server does not take its configuration.
        """
        addresses = self.effective("root", "127.0.0.1").get("listenaddress", [])
        return {int(port) for address in addresses if (port := address.rpartition(":")[2]).isdecimal()}

    def refuse_beaten(self, settings: Mapping[str, str | int | bool], users: Sequence[str], address: str) -> Effective:
        """See, on copies, whether the settings will hold where the drop-in stands; return what holds for the last user.

        The first line with a keyword counts. So the settings at the top of everything are compared with the settings in
        the drop-in, for each of ``users`` from ``address``: if the server tells a difference, something beats them.

        Raises:
            ProblemError: the settings are wrong, or another line beats one of them.
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
                if beaten := [keyword for keyword in keywords if wanted.get(keyword) != effective.get(keyword)]:
                    raise ProblemError(self._beaten(beaten, user))
        return effective

    def refuse_keyless(self, effective: Effective, user: str) -> None:
        """Refuse to take passwords from a user who has nothing else to log in with.

        Raises:
            ProblemError: no authorized key.
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
                f"the user {user}, who logged in for this run, has no authorized key, and would not get in any more",
                ", ".join(map(str, files)) or f"{user} is no user of this host",
                f"give the user a key (ssh-copy-id {user}@HOST), log in with it, then run again; "
                "or leave SSH as it is with hardening_ssh: false",
            )
        )

    def _copy(self, place: Path, drop_in: str) -> Path:
        """Copy the configuration, with another drop-in, and have it include its own copy; return the main file."""
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

    def _beaten(self, keywords: Sequence[str], user: str) -> Problem:
        rivals = list(self._lines(keywords))
        return Problem(
            f"settings of SSH would not hold for the user {user}, as other lines come first: {', '.join(keywords)}",
            "; ".join(rivals)
            or f"{self.directory}/sshd_config includes {self.drop_in.parent}/*.conf too late or not at all",
            "remove these lines, or say in hardening_ssh_settings what they say; nothing was changed",
        )

    def _lines(self, keywords: Sequence[str]) -> Iterator[str]:
        for path in (*self._snippets(), self.directory / "sshd_config"):
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if (words := re.split(r"[\s=]+", line.strip(), maxsplit=1)) and words[0].lower() in keywords:
                    yield f"{path}, line {number}: {line.strip()}"

    def _snippets(self) -> list[Path]:
        return [path for path in sorted(self.drop_in.parent.glob("*.conf")) if path != self.drop_in]

    def _real(self, said: str, place: Path) -> str:
        return said.replace(str(place), str(self.directory))


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
