"""Carry files between the control node and a host, through the connection of an action plugin.

The files travel as a tar archive. To the host it goes in pieces, each on the standard input of a command: memory stays
small, root alone reads them, and a command that Ansible repeats does no harm. From the host it comes as a file: what a
command prints, Ansible shows where it is verbose.
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
HEADER = 1024  # bytes that a file takes in an archive besides its content, on average
TEMPORARY = "/var/tmp"  # noqa: S108 (mktemp makes the directory there)
OWNER = "10001:10001"  # the site's user and group


class CarrierError(Exception):
    """Files were not carried; says why."""


@dataclass(frozen=True)
class Load:
    """What is carried to a host: files and directories below ``source``, or ``source`` itself, an archive of them."""

    source: Path
    names: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes of the archive, about."""
        if not self.names:
            return self.source.stat().st_size
        tops = [self.source / name for name in self.names]
        inside = (Path(top) / name for path in tops for top, *below in os.walk(path) for name in (*below[0], *below[1]))
        return sum(path.lstat().st_size + HEADER for paths in (tops, inside) for path in paths)

    def pieces(self) -> Iterator[bytes]:
        """The archive.

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
    """Carries through the connection of ``action``, an ``ActionBase``."""

    action: Any

    @contextmanager
    def lend(self, load: Load) -> Iterator[str]:
        """Have the files on the host for the time of the block, in a directory that only the site's user reads.

        Raises:
            CarrierError: there is no room, or the files did not arrive.
        """
        with self._directory({TEMPORARY: 2 * load.size}) as directory:
            self._send(load, f"{directory}/.archive", directory)
            yield directory

    def give(self, load: Load, target: str) -> None:
        """Put the files into a directory of the host, which is made if need be, as the site's user's.

        Raises:
            CarrierError: there is no room, or the files did not arrive.
        """
        owner, group = OWNER.split(":")
        self._run(f"install --directory --owner={owner} --group={group} --mode=0700 {shlex.quote(target)}")
        with self._directory({TEMPORARY: load.size, target: load.size}) as directory:
            self._send(load, f"{directory}/.archive", target)

    def fetch(self, source: str, names: Sequence[str], archive: Path) -> None:
        """Pack files of a host's directory into an archive on the control node.

        Raises:
            CarrierError: there is no room, or the files did not arrive.
        """
        inside, words = f"cd {shlex.quote(source)}", shlex.join(f"./{name}" for name in names)
        summed = f"awk '{{s += $1 + {HEADER}}} END {{printf \"%.0f\", s}}'"
        size = int(self._run(f"{inside} && find {words} -printf '%s\\n' | {summed}"))
        _require(archive.parent, "the control node", shutil.disk_usage(archive.parent).free, size)
        with self._directory({TEMPORARY: size}, root=False) as directory:  # the login user, who fetches, must read it
            packed = f"{directory}/.archive"
            self._run(f"umask 077 && {inside} && tar --create --file={packed} {words}")
            size = int(self._run(f"chown --reference={directory} {packed} && stat --format=%s {packed}"))
            self.action._connection.fetch_file(packed, str(archive))
        if archive.stat().st_size != size:
            raise CarrierError(f"of {source}, {archive.stat().st_size} of {size} packed bytes arrived")

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
        """A temporary directory on the host, root's or the login user's, where directories have the needed bytes."""
        self._require_room(needed)
        directory = self._run(f"mktemp --directory {TEMPORARY}/hostwright-restore-XXXXXXXX", root=root).strip()
        try:
            yield directory
        finally:
            self.action._low_level_execute_command(f"rm --recursive --force {directory}")

    def _require_room(self, needed: dict[str, int]) -> None:
        words = shlex.join(needed)
        told = self._run(f"stat --format=%d {words} && stat --file-system --format='%a %S' {words}").splitlines()
        devices, frees = told[: len(needed)], [line.split() for line in told[len(needed) :]]
        for path, device, (blocks, size) in zip(needed, devices, frees, strict=True):
            total = sum(number for number, other in zip(needed.values(), devices, strict=True) if other == device)
            _require(path, "the host", int(blocks) * int(size), total)

    def _run(self, command: str, data: bytes = b"", root: bool = True) -> str:
        """What a command on the host prints, run by root or by the login user.

        Raises:
            CarrierError: it failed.
        """
        if data:
            result = run_with(self.action, command, data)
        else:
            result = self.action._low_level_execute_command(command, sudoable=root)
        if result["rc"] != 0:
            said = (result.get("stderr") or result["stdout"]).strip()
            raise CarrierError(f"the host did not do '{command}' ({result['rc']}): {said}")
        return str(result["stdout"])


def run_with(action: Any, command: str, data: bytes) -> dict[str, Any]:
    """Run a command on the host with data on its standard input, by way of a file where a connection needs it."""
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
            f"no room on {whose} for the backup: {(size + RESERVE) / 1e6:.0f} MB are needed in {path}, "
            f"{free / 1e6:.0f} MB are free"
        )
