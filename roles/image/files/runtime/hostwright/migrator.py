"""The migrator: a process with Django and the migrations loaded, which runs the slow steps of a release on command.

The committer on the host starts it in a container of the new image before it holds the site's requests. The protocol
is lines of JSON: commands on standard input, one answer to each on standard output. The project's own output goes to
standard error.

====================================  ==============================================================================
command (``do`` and its fields)       answer
====================================  ==============================================================================
(none, at the start)                  result of ``preflight`` with ``pending``
rehearse source scratch [backwards]   copy_seconds, migrate_seconds, bytes, peak_bytes, applied
  [limit]
rows source [limit]                   rows: row count by table
guard source wait [limit]             seconds
copy source destination [limit]       seconds, bytes; needs the guard
migrate database [backwards] [limit]  seconds, applied, head
check                                 held: true; an error if the guard is lost or the database has changed
release                               held: false
any that fails                        error (a message), log (the last 25 lines of output)
====================================  ==============================================================================

Paths are absolute; wait and limit are seconds; backwards lists migrations to reverse instead of applying any. The end
of standard input means that the committer is gone: the command in progress ends at once. If ``current`` then names this
release, the guard stays until SIGTERM, since a container of the old release may still write.
"""

import contextlib
import faulthandler
import functools
import json
import os
import select
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostwright import configuration, current, guard, migrations, preflight, snapshot
from hostwright.children import Answer, Child, ChildError, Task
from hostwright.configuration import Configuration
from hostwright.errors import HostwrightError

_PAUSE = 0.02
_SHORT_LIMIT = 10.0  # seconds for operations that take milliseconds, where the committer sets no limit
_LOAD_SECONDS = 60.0  # a project that loads for longer has its stack written to the log


class _CommitterGoneError(Exception):
    """Standard input has ended."""


class _Terminated(BaseException):
    """SIGTERM was received. Not an Exception, so that no error handler catches it."""


class _Limit:
    """The optional deadline of a command, after which its child is killed."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._moment = float("inf") if seconds is None else time.monotonic() + seconds

    def check(self, log: str) -> None:
        if time.monotonic() >= self._moment:
            raise ChildError(f"it did not end within {self._seconds:g} s and was killed", log, lost=True)


class _Commands:
    """The lines from the committer."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._received = b""

    def read(self) -> None:
        """Read available bytes; wait for some if there are none."""
        chunk = os.read(self.descriptor, 65536)
        if not chunk:
            raise _CommitterGoneError
        self._received += chunk

    def next(self) -> bytes:
        """Return the next line."""
        while b"\n" not in self._received:
            self.read()
        line, _, self._received = self._received.partition(b"\n")
        return line


class _Peak:
    """The largest observed total size of a directory's files, in bytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.bytes = 0

    def measure(self) -> None:
        self.bytes = max(self.bytes, sum(map(_size, self._directory.iterdir())))


class _Guarded:
    """The guard process and the database that it protects from writers."""

    def __init__(self, source: Path, child: Child) -> None:
        self.source = source
        self.child = child


def migrator() -> None:
    """Send the result of ``preflight``, then run the committer's commands until its input ends or SIGTERM arrives.

    Raises:
        HostwrightError: the project cannot be deployed.
    """
    release = configuration.require()
    release.require_socket()
    commands = _Commands(os.dup(0))
    answers = os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # The first process of a container has no default handlers. The committer decides about an interrupt.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    faulthandler.dump_traceback_later(_LOAD_SECONDS)  # in the log before the committer's own limit ends
    found = preflight.preflight(pending=True)
    _warm_up()
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGTERM, _terminate)
    _Migrator(release, commands, answers).run(found)


def _warm_up() -> None:
    """Load the modules of ``migrate``, and close the project's connections, before children are forked."""
    from django.core.management import get_commands, load_command_class
    from django.db import connections

    application = get_commands()["migrate"]
    if isinstance(application, str):
        load_command_class(application, "migrate")
    connections.close_all()


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ignore repeats during the short cleanup
    raise _Terminated


class _Migrator:
    """Runs the committer's commands in sequence, each in a child process."""

    def __init__(self, release: Configuration, commands: _Commands, answers: int) -> None:
        self._release = release
        self._commands = commands
        self._answers = answers
        self._guarded: _Guarded | None = None

    def run(self, first: Answer) -> None:
        """Send the first answer, then run one command after the other."""
        try:
            with contextlib.suppress(_CommitterGoneError):
                self._send(first)
                while True:
                    self._send(self._obey(self._commands.next()))
            if self._guarded is not None and current.live(self._release) == current.number():
                self._guarded.child.wait()
        except _Terminated:
            return
        finally:
            self._drop()

    def _send(self, answer: Answer) -> None:
        try:
            os.write(self._answers, json.dumps(answer).encode() + b"\n")
        except BrokenPipeError as error:
            raise _CommitterGoneError from error

    def _obey(self, line: bytes) -> Answer:
        try:
            word = json.loads(line)
        except ValueError:
            word = None
        do = word.get("do") if isinstance(word, dict) else None
        commands: dict[Any, Callable[[dict[str, Any]], Answer]] = {
            "rehearse": self._rehearse,
            "rows": self._rows,
            "guard": self._guard,
            "copy": self._copy,
            "migrate": self._migrate,
            "check": self._check,
            "release": self._release_guard,
        }
        if not isinstance(do, str) or do not in commands:
            text = line[:200].decode(errors="replace")
            return {"error": f"not a command of the migrator ({', '.join(commands)}): {text}", "log": ""}
        try:
            return commands[do](word)
        except ChildError as error:
            return {"error": f"{do}: {error}" if error.lost else str(error), "log": error.log}
        except (HostwrightError, OSError) as error:
            return {"error": f"{do}: {error}", "log": ""}

    def _rehearse(self, word: dict[str, Any]) -> Answer:
        source, scratch, limit = _path(word, "source"), _path(word, "scratch"), _Limit(_seconds(word, "limit"))
        size = _size(source) + _size(source.with_name(source.name + "-wal"))
        database = scratch / "db.sqlite3"
        peak = _Peak(scratch)
        scratch.mkdir(mode=0o700)
        try:
            copied = self._once(functools.partial(_copying, source, database), limit, peak.measure)
            migrated = self._migrated(database, _names(word, "backwards"), limit, peak.measure)
            peak.measure()
        finally:
            shutil.rmtree(scratch)
        return {
            "copy_seconds": copied["seconds"],
            "migrate_seconds": migrated["seconds"],
            "bytes": size,
            "peak_bytes": peak.bytes,
            "applied": migrated["applied"],
        }

    def _guard(self, word: dict[str, Any]) -> Answer:
        source, wait, limit = _path(word, "source"), _seconds(word, "wait"), _Limit(_seconds(word, "limit"))
        if self._guarded is not None:
            raise HostwrightError(f"{self._guarded.source} is already guarded.")
        child = Child(functools.partial(guard.hold, source, wait or 0))
        try:
            answer = self._await(child, limit)
        except BaseException:
            child.close()
            raise
        self._guarded = _Guarded(source, child)
        return answer

    def _copy(self, word: dict[str, Any]) -> Answer:
        source, destination = _path(word, "source"), _path(word, "destination")
        limit = _Limit(_seconds(word, "limit"))
        self._held()  # The guard protects the live generation; the source may also be an older one, without writers.
        return self._once(functools.partial(_copying, source, destination), limit)

    def _migrate(self, word: dict[str, Any]) -> Answer:
        return self._migrated(_path(word, "database"), _names(word, "backwards"), _Limit(_seconds(word, "limit")))

    def _rows(self, word: dict[str, Any]) -> Answer:
        return self._once(functools.partial(_counting, _path(word, "source")), _Limit(_seconds(word, "limit")))

    def _check(self, _word: dict[str, Any]) -> Answer:
        self._held()
        return {"held": True}

    def _release_guard(self, _word: dict[str, Any]) -> Answer:
        try:
            return {"held": False} if self._guarded is None else self._ask(self._guarded, "release")
        finally:
            self._drop()

    def _held(self) -> _Guarded:
        """Return the guard; raise an error if it is lost or its database has changed."""
        if self._guarded is None:
            raise HostwrightError("the guard is not active.")
        guarded = self._guarded
        if not self._ask(guarded, "check")["held"]:
            raise HostwrightError(f"{guarded.source} was changed or replaced despite the guard.")
        return guarded

    def _ask(self, guarded: _Guarded, word: str) -> Answer:
        guarded.child.send(word)
        try:
            return self._await(guarded.child, _Limit(_SHORT_LIMIT))
        except ChildError as error:
            self._drop()
            raise ChildError(f"the guard is lost: {error}", error.log, lost=True) from error

    def _migrated(
        self, database: Path, backwards: list[str], limit: _Limit, measure: Callable[[], None] | None = None
    ) -> Answer:
        try:
            return self._once(functools.partial(_migrating, database, backwards), limit, measure)
        except ChildError as error:
            if not error.lost:
                raise
            try:
                place = self._once(functools.partial(_place, database), _Limit(_SHORT_LIMIT))["place"]
            except ChildError:
                raise error from None
            raise ChildError(f"The migration failed at {place}: {error}", error.log, lost=False) from error

    def _once(self, task: Task, limit: _Limit, measure: Callable[[], None] | None = None) -> Answer:
        child = Child(task)
        try:
            return self._await(child, limit, measure)
        finally:
            child.close()

    def _await(self, child: Child, limit: _Limit, measure: Callable[[], None] | None = None) -> Answer:
        """Wait for a child's next answer. Call ``measure`` meanwhile, and raise an error if the committer is gone."""
        while True:
            ready, _, _ = select.select([self._commands.descriptor, *child.descriptors], [], [], _PAUSE)
            if self._commands.descriptor in ready:
                self._commands.read()
            if measure is not None:
                measure()
            answer = child.poll()
            if answer is not None:
                return answer
            limit.check(child.log)

    def _drop(self) -> None:
        if self._guarded is not None:
            self._guarded.child.close()
            self._guarded = None


def _copying(source: Path, destination: Path, _channel: socket.socket) -> Answer:
    return snapshot.snapshot(source, destination)


def _counting(source: Path, _channel: socket.socket) -> Answer:
    from hostwright import content

    with snapshot.reading(source) as connection:
        return {"rows": content.rows(connection)}


def _migrating(database: Path, backwards: list[str], _channel: socket.socket) -> Answer:
    start = time.monotonic()
    done = migrations.reverse(backwards, database) if backwards else migrations.migrate(database)
    return {**done, "seconds": round(time.monotonic() - start, 3)}


def _place(database: Path, _channel: socket.socket) -> Answer:
    """Return the migration that a killed process was applying: the first pending one."""
    migrations.use(database)
    left = migrations.pending()["pending"]
    return {"place": left[0] if left else "after the last migration"}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _path(word: dict[str, Any], field: str) -> Path:
    value = word.get(field)
    if not isinstance(value, str) or not value.startswith("/"):
        raise HostwrightError(f'"{field}" must be an absolute path, not {value!r}.')
    return Path(value)


def _names(word: dict[str, Any], field: str) -> list[str]:
    value = word.get(field) or []
    if not isinstance(value, list) or not all(isinstance(name, str) and "." in name for name in value):
        raise HostwrightError(f'"{field}" must be a list of migrations such as "polls.0002_x", not {value!r}.')
    return value


def _seconds(word: dict[str, Any], field: str) -> float | None:
    value = word.get(field)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise HostwrightError(f'"{field}" must be a number of seconds, not {value!r}.')
    return value
