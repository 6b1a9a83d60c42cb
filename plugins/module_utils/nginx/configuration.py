"""Nginx's configuration in its volume: checked whole by the Nginx that will run it, before it replaces anything."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..host.engine import Engine, EngineError
from ..host.files import write_durably
from .acme import UNREAD, Pair, write_pair
from .tls_change import Certificates

TARGET = "/etc/hostwright"  # where the volume is in the container
OWN = ("nginx.conf", "sites", "pages", "scripts")  # what of the directory belongs to the configuration
ACME = "acme/sites"  # what is asked of the CA for each site: no secret, but not Nginx's
SITE = re.compile(rf"(sites/[^./][^/]*\.conf|{ACME}/.*)")  # those of sites that are not named stay as they are
CONFLICT = "conflicting server name"  # Nginx only warns, and one of two sites would never be served


class ConfigurationRefusedError(Exception):
    """Nginx did not accept the configuration; the message shows the line."""


@dataclass(frozen=True)
class Change:
    """How the directory differs from the wanted files: texts before and after by path, None where there is none."""

    before: dict[str, str | None]
    after: dict[str, str | None]

    def __bool__(self) -> bool:
        return bool(self.after)


def sites_of(files: Mapping[str, str]) -> list[str]:
    """Names of the sites that the files are for."""
    return [name.removeprefix("sites/").removesuffix(".conf") for name in files if name.startswith("sites/")]


def change_of(directory: Path, files: Mapping[str, str], gone: Collection[str] = ()) -> Change:
    """Compare a configuration directory with the wanted files (by relative path).

    Files that are not wanted any more go, but for the sites: another inventory may look after one of them. Of
    those only the ``gone`` go.
    """
    present = {
        str(path.relative_to(directory))
        for own in (*OWN, ACME)
        for path in [directory / own, *(directory / own).rglob("*")]
        if path.is_file()
    }
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    for name in sorted(set(files) | {name for name in present if name in gone or not SITE.fullmatch(name)}):
        old = (directory / name).read_text(errors="replace") if name in present else None
        if old != files.get(name):
            before[name], after[name] = old, files.get(name)
    return Change(before, after)


def check(
    engine: Engine, image: str, directory: Path, files: Mapping[str, str], pairs: Mapping[str, Pair] | None = None
) -> None:
    """Have ``nginx -t`` of the image judge the files, beside whatever else the directory holds.

    Args:
        engine: runs the check.
        image: has the Nginx.
        directory: what the files are for.
        files: their texts by relative path.
        pairs: new certificates by their sites' names; those of other sites are taken as they lie in the directory.

    Raises:
        ConfigurationRefusedError: with Nginx's message and the line it names.
        EngineError: the Engine could not run the check.
    """
    with tempfile.TemporaryDirectory(prefix=".check-", dir=directory) as scratch:
        mounts = ["--mount", f"type=bind,source={scratch},target={TARGET},readonly"]
        for name, text in files.items():
            target = Path(scratch) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for path in directory.glob("sites/*.conf"):
            place = Path(scratch) / "sites" / path.name
            if not place.exists():
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(path.read_bytes())
        for path in directory.iterdir():
            if path.name == "tls" and pairs:
                (Path(scratch) / "tls").mkdir()
                for part in path.iterdir():
                    if part.name not in pairs:
                        mounts += _shown(part, Path(scratch) / "tls" / part.name, f"{TARGET}/tls")
            elif path.name not in (*OWN, "acme") and not path.name.startswith("."):
                mounts += _shown(path, Path(scratch) / path.name)
        for path in (Path(scratch), *Path(scratch).rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() else 0o644)
        for site, pair in (pairs or {}).items():
            (Path(scratch) / "tls" / site).mkdir(parents=True)
            write_pair(Path(scratch) / "tls" / site, pair)
        done = engine.run(
            [
                "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--pull", "never",
                "--security-opt", "no-new-privileges", "--pids-limit", "128", "--ulimit", "core=0",
                "--label", "hostwright=check", "--tmpfs", "/tmp:mode=1777",  # noqa: S108 (the container's own)
                *mounts, image, "nginx", "-t", "-q", "-c", f"{TARGET}/nginx.conf",
            ],
            timeout=60,
        )  # fmt: skip
    if done.status == 0 and CONFLICT not in done.said:
        return
    found = re.search(rf"{TARGET}/(\S+):(\d+)", done.said)
    line = ""
    if found and found[1] in files:
        lines = files[found[1]].splitlines()
        number = int(found[2])
        line = f"\nline {number} of {found[1]}: {lines[number - 1].strip()}" if 0 < number <= len(lines) else ""
    raise ConfigurationRefusedError(done.said + line)


def _shown(path: Path, place: Path, below: str = TARGET) -> list[str]:
    """Have a file or a directory appear beside the files to check, uncopied: it may be a private key."""
    if path.is_symlink():
        place.symlink_to(path.readlink())
        return []
    if path.is_dir():
        place.mkdir()
    else:
        place.touch()
    return ["--mount", f"type=bind,source={path},target={below}/{path.name},readonly"]


def write(directory: Path, change: Change, certificates: Certificates | None = None) -> None:
    """Bring the directory to the wanted files, each replaced whole; what is no longer wanted goes last.

    Nginx has to read them then; until ``read`` is called ``unread`` says so, whatever happens meanwhile. A crash at any
    moment leaves what Nginx can start with: certificates come before the files that name them and go after them.
    """
    (directory / UNREAD).touch()
    if certificates:
        certificates.place()
    for name, text in change.after.items():
        if text is None:
            continue
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, text, 0o644, os.geteuid(), os.getegid())
    for name, text in change.after.items():
        if text is None:
            (directory / name).unlink()
    if certificates:
        certificates.remove()


def unread(directory: Path) -> bool:
    """Whether Nginx may not have read what the directory holds."""
    return (directory / UNREAD).exists()


def read(engine: Engine, image: str, container: str, directory: Path) -> None:
    """Have Nginx read its configuration, if it runs; a stopped one reads it when it starts.

    A container of another image may be unable to (a module that is only in the new one): it is about to be replaced.

    Raises:
        EngineError: the Engine could not be asked or the signal not sent.
    """
    found = engine.container(container)
    if found and found["State"]["Running"]:
        # Not 'docker kill --signal HUP': the Engine would take that for a stop and not start Nginx at the next boot.
        try:
            engine("exec", container, "nginx", "-c", f"{TARGET}/nginx.conf", "-s", "reload")
        except EngineError:
            wanted = engine.image(image)
            if wanted is None or wanted.id == found["Image"]:
                raise
    (directory / UNREAD).unlink(missing_ok=True)
