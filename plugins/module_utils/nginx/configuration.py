"""Nginx's configuration in its volume: checked by the Nginx that will use it, before any file is replaced."""

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

TARGET = "/etc/hostwright"  # the volume's path in the container
OWN = ("nginx.conf", "sites", "pages", "scripts")  # the parts of the directory that are configuration
ACME = "acme/sites"  # each site's settings for certbot: not secret, and not read by Nginx
SITE = re.compile(rf"(sites/[^./][^/]*\.conf|{ACME}/.*)")  # files of a site; those of other inventories are kept
CONFLICT = "conflicting server name"  # a warning only, but Nginx would never serve one of the two sites


class ConfigurationRefusedError(Exception):
    """Nginx did not accept the configuration; the message shows the line."""


@dataclass(frozen=True)
class Change:
    """Difference between the directory and the wanted files: texts before and after, by path; None: no file."""

    before: dict[str, str | None]
    after: dict[str, str | None]

    def __bool__(self) -> bool:
        return bool(self.after)


def sites_of(files: Mapping[str, str]) -> list[str]:
    """Return the names of the sites in ``files``."""
    return [name.removeprefix("sites/").removesuffix(".conf") for name in files if name.startswith("sites/")]


def change_of(directory: Path, files: Mapping[str, str], removed: Collection[str] = ()) -> Change:
    """Compare a configuration directory with the wanted files (by relative path).

    Other files of the configuration are removed; of sites' files only those in ``removed``, because the others may
    belong to another inventory.
    """
    present = {
        str(path.relative_to(directory))
        for own in (*OWN, ACME)
        for path in [directory / own, *(directory / own).rglob("*")]
        if path.is_file()
    }
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    for name in sorted(set(files) | {name for name in present if name in removed or not SITE.fullmatch(name)}):
        old = (directory / name).read_text(errors="replace") if name in present else None
        if old != files.get(name):
            before[name], after[name] = old, files.get(name)
    return Change(before, after)


def check(
    engine: Engine, image: str, directory: Path, files: Mapping[str, str], pairs: Mapping[str, Pair] | None = None
) -> None:
    """Check the files with ``nginx -t`` of the image, together with the other files of the directory.

    Args:
        engine: runs the check.
        image: image with Nginx.
        directory: configuration directory for which the files are meant.
        files: their texts by relative path.
        pairs: new certificates by site; other sites' certificates are used as they are in the directory.

    Raises:
        ConfigurationRefusedError: with Nginx's message and the line that it names.
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
                        mounts += _mount(part, Path(scratch) / "tls" / part.name, f"{TARGET}/tls")
            elif path.name not in (*OWN, "acme") and not path.name.startswith("."):
                mounts += _mount(path, Path(scratch) / path.name)
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


def _mount(path: Path, place: Path, below: str = TARGET) -> list[str]:
    """Return the options that mount a file or directory beside the files to check: a private key must not be copied."""
    if path.is_symlink():
        place.symlink_to(path.readlink())
        return []
    if path.is_dir():
        place.mkdir()
    else:
        place.touch()
    return ["--mount", f"type=bind,source={path},target={below}/{path.name},readonly"]


def write(directory: Path, change: Change, certificates: Certificates | None = None) -> None:
    """Write the wanted files, each by one rename, then remove the others.

    From then on ``unread`` is true until ``reload`` succeeds, also after a crash. After a crash at any moment
    Nginx can start: certificates are written before the files that refer to them and removed after them.
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
    """Whether Nginx may not have read the directory's current content."""
    return (directory / UNREAD).exists()


def reload(engine: Engine, image: str, container: str, directory: Path) -> None:
    """Reload Nginx if it runs; a stopped one reads its configuration when it starts.

    A failed reload of a container with another image is ignored: the configuration may need a module of the new image,
    and the container is about to be replaced.

    Raises:
        EngineError: the Engine did not answer, or the reload failed.
    """
    found = engine.container(container)
    if found and found["State"]["Running"]:
        # Not 'docker kill --signal HUP': the Engine would treat it as a stop and not start Nginx at the next boot.
        try:
            engine("exec", container, "nginx", "-c", f"{TARGET}/nginx.conf", "-s", "reload")
        except EngineError:
            wanted = engine.image(image)
            if wanted is None or wanted.id == found["Image"]:
                raise
    (directory / UNREAD).unlink(missing_ok=True)
