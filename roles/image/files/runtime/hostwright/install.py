"""Prepare an image for the runtime at build: the import path of every Python process, and the site's user."""

import compileall
import site
from pathlib import Path

from hostwright.errors import HostwrightError

USER, UID = "site", 10001
_PTH = "hostwright.pth"


def install(prefix: Path = Path("/opt/hostwright"), root: Path = Path("/")) -> list[str]:
    """Write ``hostwright.pth`` and the user's lines in /etc/passwd and /etc/group.

    Args:
        prefix: directory with ``requirements``, ``server`` and ``runtime``, in the order of the path.
        root: root of the file system; another directory in tests.

    Returns:
        The files that changed.
    """
    directories = site.getsitepackages()
    if not directories:
        raise HostwrightError("This Python has no site directory for hostwright.pth: use another base image.")
    directory = root / Path(directories[0]).relative_to("/")
    directory.mkdir(parents=True, exist_ok=True)
    changed = []
    if _write(directory / _PTH, pth(prefix)):
        changed.append(str(directory / _PTH))
    passwd = f"{USER}:x:{UID}:{UID}:Hostwright site:/tmp:/usr/sbin/nologin"
    for name, line in (("passwd", passwd), ("group", f"{USER}:x:{UID}:")):
        path = root / "etc" / name
        if _add_line(path, line):
            changed.append(str(path))
    compileall.compile_dir(str(prefix / "runtime"), quiet=2)
    return changed


def pth(prefix: Path) -> str:
    """Return the text of ``hostwright.pth``. Python runs each of its lines separately when it starts."""
    lines = [f"import site; site.addsitedir({str(prefix / name)!r})" for name in ("requirements", "server", "runtime")]
    return "\n".join([*lines, "import hostwright.sqlite"]) + "\n"


def _write(path: Path, text: str) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return True


def _add_line(path: Path, line: str) -> bool:
    """Add an account's line unless its id exists; raise an error if its name exists with another id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    name, _, number = line.split(":")[:3]
    for existing in text.splitlines():
        fields = existing.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2] != number:
            raise HostwrightError(f"{path}: the base image has an account {name!r} with another id, {fields[2]}.")
        if len(fields) > 2 and fields[2] == number:
            return False
    if text and not text.endswith("\n"):
        text += "\n"
    path.write_text(f"{text}{line}\n", encoding="utf-8")
    return True
