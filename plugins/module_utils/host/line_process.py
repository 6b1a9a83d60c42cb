"""A program that exchanges lines with this process, through its standard input and output."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Sequence

from .process import search_path

CHUNK = 65536


class ConversationError(Exception):
    """The program ended, or printed no line in time."""


class Conversation:
    """A running program; its standard error goes to a file, so that it never blocks."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the program.

        Raises:
            OSError: the program cannot be started.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the conversation)
        self._read = b""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._in, self._out = os.fdopen(ours_in, "rb", buffering=0), os.fdopen(ours_out, "wb", buffering=0)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=self._errors,
                env={**os.environ, "PATH": search_path(), "LC_ALL": "C"},
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def say(self, line: str) -> None:
        """Send one line.

        Raises:
            ConversationError: the program has closed its standard input.
        """
        try:
            self._out.write(f"{line}\n".encode())
        except OSError as error:
            raise ConversationError("it ended") from error

    def hear(self, timeout: float) -> str:
        """Wait for the next line, up to ``timeout`` seconds.

        Raises:
            ConversationError: the program ended, or printed no line in time.
        """
        until = time.monotonic() + timeout
        while b"\n" not in self._read:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise ConversationError(f"it printed no line within {timeout:.0f} s")
            chunk = os.read(self._in.fileno(), CHUNK)
            if not chunk:
                raise ConversationError(f"it ended with exit status {self._process.wait()}")
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return line.decode(errors="replace")

    def errors(self) -> str:
        """The program's standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def end(self) -> None:
        """Close the program's standard input, which ends the program, without waiting for it."""
        self._out.close()

    def close(self, patience: float = 10) -> None:
        """End the program; kill it if it still runs after ``patience`` seconds."""
        self.end()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._in.close()
        self._errors.close()
