"""Transfer files between the control node and a host, through the connection of an action plugin.

The files are packed into a tar archive. To the host, the archive is sent in pieces, each on the standard input of a
command: memory use stays small, only root can read the pieces, and Ansible may repeat a command safely. From the host,
the archive is fetched as a file, because a verbose Ansible shows the output of commands.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PIECE = 8 << 20  # bytes
RESERVE = 16 << 20  # bytes that stay free
HEADER = 1024  # bytes per file that an archive needs in addition to the content, on average
TEMPORARY = "/var/tmp"  # noqa: S108 (mktemp makes the directory there)
OWNER = "10001:10001"  # the site's user and group


class CarrierError(Exception):
    """The transfer failed; the message gives the reason."""


@dataclass(frozen=True)
class Load:
    """What to send: the files and directories ``names`` below ``source``; without names, the archive ``source``."""

    source: Path
    names: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Approximate size of the archive in bytes."""
        if not self.names:
            return self.source.stat().st_size
        tops = [self.source / name for name in self.names]
        inside = (Path(top) / name for path in tops for top, *below in os.walk(path) for name in (*below[0], *below[1]))
        return sum(path.lstat().st_size + HEADER for paths in (tops, inside) for path in paths)

    def pieces(self) -> Iterator[bytes]:
        """Yield the archive in pieces.

        Raises:
            CarrierError: a file cannot be read.
        """
        if not self.names:
            with self.source.open("rb") as file:
                yield from iter(lambda: file.read(PIECE), b"")
            return
        command = ["tar", "--create", "--file=-", f"--directory={self.source}", "--", *self.names]
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as tar:
                while tar.stdout and (piece := tar.stdout.read(PIECE)):
                    yield piece
            if tar.returncode != 0:
                errors.seek(0)
                raise CarrierError(f"cannot pack {self.source}: {errors.read().decode(errors='replace').strip()}")


@dataclass(frozen=True)
class Carrier:
    """Transfers files through the connection of ``action``, an ``ActionBase``."""

    action: Any

    @contextmanager
    def lend(self, load: Load) -> Iterator[str]:
        """Copy the files to a temporary directory of the host, which only the site's user reads, for one block.

        Raises:
            CarrierError: the disk has too little space, or the transfer failed.
        """
        with self._directory({TEMPORARY: 2 * load.size}) as directory:
            self._send(load, f"{directory}/.archive", directory)
            yield directory

    def give(self, load: Load, target: str) -> None:
        """Copy the files to a directory of the host, creating it if needed; the site's user owns all of it.

        Raises:
            CarrierError: the disk has too little space, or the transfer failed.
        """
        owner, group = OWNER.split(":")
        self._run(f"install --directory --owner={owner} --group={group} --mode=0700 {shlex.quote(target)}")
        with self._directory({TEMPORARY: load.size, target: load.size}) as directory:
            self._send(load, f"{directory}/.archive", target)

    def fetch(self, source: str, names: Sequence[str], archive: Path) -> None:
        """Pack files of a host's directory into an archive on the control node.

        Raises:
            CarrierError: the disk has too little space, or the transfer failed.
        """
        inside, words = f"cd {shlex.quote(source)}", shlex.join(f"./{name}" for name in names)
        summed = f"awk '{{s += $1 + {HEADER}}} END {{printf \"%.0f\", s}}'"
        size = int(self._run(f"{inside} && find {words} -printf '%s\\n' | {summed}"))
        _require(archive.parent, "the control node", shutil.disk_usage(archive.parent).free, size)
        with self._directory({TEMPORARY: size}, root=False) as directory:  # the login user fetches it
            packed = f"{directory}/.archive"
            self._run(f"umask 077 && {inside} && tar --create --file={packed} {words}")
            size = int(self._run(f"chown --reference={directory} {packed} && stat --format=%s {packed}"))
            self.action._connection.fetch_file(packed, str(archive))
        if archive.stat().st_size != size:
            raise CarrierError(
                f"the archive of {source} is incomplete: {archive.stat().st_size} of {size} bytes arrived"
            )

    def _send(self, load: Load, archive: str, target: str) -> None:
        start = 0
        for piece in load.pieces():
            part = f"dd of={archive} oflag=seek_bytes iflag=fullblock bs=1M conv=notrunc status=none"
            self._run(f"{part} seek={start}", piece)
            start += len(piece)
        there = shlex.quote(target)
        self._run(f"umask 077 && tar --extract --file={archive} --directory={there} && rm --force {archive}")
        self._run(f"chmod --recursive u+rwX {there} && chown --recursive {OWNER} {there}")

    @contextmanager
    def _directory(self, needed: dict[str, int], root: bool = True) -> Iterator[str]:
        """Create a temporary directory on the host for one block.

        Args:
            needed: free bytes that must be available, by directory.
            root: whether root owns the directory; otherwise the login user does.
        """
        self._require_room(needed)
        directory = self._run(f"mktemp --directory {TEMPORARY}/hostwright-restore-XXXXXXXX", root=root).strip()
        try:
            yield directory
        finally:
            self.action._low_level_execute_command(f"rm --recursive --force {directory}")

    def _require_room(self, needed: dict[str, int]) -> None:
        words = shlex.join(needed)
        lines = self._run(f"stat --format=%d {words} && stat --file-system --format='%a %S' {words}").splitlines()
        devices, frees = lines[: len(needed)], [line.split() for line in lines[len(needed) :]]
        for path, device, (blocks, size) in zip(needed, devices, frees, strict=True):
            total = sum(number for number, other in zip(needed.values(), devices, strict=True) if other == device)
            _require(path, "the host", int(blocks) * int(size), total)

    def _run(self, command: str, data: bytes = b"", root: bool = True) -> str:
        """Run a command on the host as root or as the login user, and return its standard output.

        Raises:
            CarrierError: the command failed.
        """
        if data:
            result = run_with(self.action, command, data)
        else:
            result = self.action._low_level_execute_command(command, sudoable=root)
        if result["rc"] != 0:
            output = (result.get("stderr") or result["stdout"]).strip()
            raise CarrierError(f"'{command}' failed on the host ({result['rc']}): {output}")
        return str(result["stdout"])


def run_with(action: Any, command: str, data: bytes) -> dict[str, Any]:
    """Run a command on the host with data on its standard input; without pipelining, the data goes through a file."""
    become = action._connection.become
    if action._connection.has_pipelining and (become is None or become.pipelining):
        piped: dict[str, Any] = action._low_level_execute_command(command, in_data=data)
        return piped
    directory = action._make_tmp_path()
    try:
        there = action._connection._shell.join_path(directory, "request")
        action._transfer_data(there, data)
        action._fixup_perms2((directory, there), execute=False)
        result: dict[str, Any] = action._low_level_execute_command(f"{command} < {shlex.quote(there)}")
        return result
    finally:
        action._remove_tmp_path(directory, force=True)


def _require(path: Path | str, whose: str, free: int, size: int) -> None:
    if free < size + RESERVE:
        raise CarrierError(
            f"not enough disk space on {whose} for the backup: {(size + RESERVE) / 1e6:.0f} MB needed in {path}, "
            f"{free / 1e6:.0f} MB free"
        )
