"""The migrator: a process that has Django set up and the migrations loaded, and does at a word what takes its time.

The committer on the host starts it in a container of the new image before it holds the site's requests. They talk by
lines of JSON, words on standard input and one answer each on standard output. What the project prints goes to standard
error.

====================================  ==============================================================================
word (``do`` and its fields)          answer
====================================  ==============================================================================
(none, at the start)                  as of ``preflight``, with ``pending``
rehearse source scratch [backwards]   copy_seconds, migrate_seconds, bytes, peak_bytes, applied
  [limit]
rows source [limit]                   rows: their number by table
guard source wait [limit]             seconds
copy source destination [limit]       seconds, bytes; under the guard only
migrate database [backwards] [limit]  seconds, applied, head
check                                 held: true; an error if the guard is lost or the database has changed
release                               held: false
any that fails                        error (for people), log (the last 25 lines that were written meanwhile)
====================================  ==============================================================================

Paths are absolute; wait and limit are seconds; backwards lists migrations to take back, instead of applying any. When
standard input ends the committer is gone: what is being done ends at once. The guard stays until SIGTERM if ``current``
names this release, for the old one may still have a writer.
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
_PATIENCE = 10.0
_LONG = 60.0  # seconds for the project to load, after which it is asked where it is
"""Seconds for what takes milliseconds, where the committer sets no limit."""


class _CommitterGoneError(Exception):
    """Nobody says words any more."""


class _Terminated(BaseException):
    """SIGTERM has come; it is no Exception, so that nothing on the way takes it for an error."""


class _Limit:
    """A moment after which a word's child is killed, if there is one."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._moment = float("inf") if seconds is None else time.monotonic() + seconds

    def check(self, log: str) -> None:
        if time.monotonic() >= self._moment:
            raise ChildError(f"it did not end within {self._seconds:g} s, and was killed", log, lost=True)


class _Words:
    """The lines that the committer writes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._received = b""

    def read(self) -> None:
        """Take in what is there; wait if nothing is."""
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
    """The largest total size of a directory's files that was seen, bytes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.bytes = 0

    def look(self) -> None:
        self.bytes = max(self.bytes, sum(map(_size, self._directory.iterdir())))


class _Guarded:
    """The guard's process and the database that it keeps from being written."""

    def __init__(self, source: Path, child: Child) -> None:
        self.source = source
        self.child = child


def migrator() -> None:
    """Say what ``preflight`` finds, then do what the committer says until it is gone or SIGTERM comes.

    Raises:
        HostwrightError: the project cannot be deployed.
    """
    release = configuration.require()
    release.require_socket()
    words = _Words(os.dup(0))
    answers = os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    # The first process of a container has no default handlers. An interrupt is for the committer to decide about.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    faulthandler.dump_traceback_later(_LONG)  # the committer's patience has an end too, and shows what was said
    found = preflight.preflight(pending=True)
    _get_ready()
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGTERM, _terminate)
    _Migrator(release, words, answers).run(found)


def _get_ready() -> None:
    """Load what ``migrate`` would load, and close what the project has opened: children are forked from here."""
    from django.core.management import get_commands, load_command_class
    from django.db import connections

    application = get_commands()["migrate"]
    if isinstance(application, str):
        load_command_class(application, "migrate")
    connections.close_all()


def _terminate(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and what follows is short
    raise _Terminated


class _Migrator:
    """Does the words, one after the other, each in a child."""

    def __init__(self, release: Configuration, words: _Words, answers: int) -> None:
        self._release = release
        self._words = words
        self._answers = answers
        self._guarded: _Guarded | None = None

    def run(self, first: Answer) -> None:
        """Say the first answer, then do one word after the other."""
        try:
            with contextlib.suppress(_CommitterGoneError):
                self._say(first)
                while True:
                    self._say(self._obey(self._words.next()))
            if self._guarded is not None and current.named(self._release) == current.number():
                self._guarded.child.wait()
        except _Terminated:
            return
        finally:
            self._drop()

    def _say(self, answer: Answer) -> None:
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
        words: dict[Any, Callable[[dict[str, Any]], Answer]] = {
            "rehearse": self._rehearse,
            "rows": self._rows,
            "guard": self._guard,
            "copy": self._copy,
            "migrate": self._migrate,
            "check": self._check,
            "release": self._let_go,
        }
        if not isinstance(do, str) or do not in words:
            text = line[:200].decode(errors="replace")
            return {"error": f"not a word of the migrator ({', '.join(words)}): {text}", "log": ""}
        try:
            return words[do](word)
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
            copied = self._once(functools.partial(_copying, source, database), limit, peak.look)
            migrated = self._migrated(database, _names(word, "backwards"), limit, peak.look)
            peak.look()
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
            raise HostwrightError(f"{self._guarded.source} is guarded already.")
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
        self._held()  # of the generation that is left; another one may be copied, which nobody writes to
        return self._once(functools.partial(_copying, source, destination), limit)

    def _migrate(self, word: dict[str, Any]) -> Answer:
        return self._migrated(_path(word, "database"), _names(word, "backwards"), _Limit(_seconds(word, "limit")))

    def _rows(self, word: dict[str, Any]) -> Answer:
        return self._once(functools.partial(_counting, _path(word, "source")), _Limit(_seconds(word, "limit")))

    def _check(self, _word: dict[str, Any]) -> Answer:
        self._held()
        return {"held": True}

    def _let_go(self, _word: dict[str, Any]) -> Answer:
        try:
            return {"held": False} if self._guarded is None else self._ask(self._guarded, "release")
        finally:
            self._drop()

    def _held(self) -> _Guarded:
        """Return the guard, which has kept the source as it was until this moment."""
        if self._guarded is None:
            raise HostwrightError("no guard is held.")
        guarded = self._guarded
        if not self._ask(guarded, "check")["held"]:
            raise HostwrightError(f"{guarded.source} has changed, or been replaced, although it was guarded.")
        return guarded

    def _ask(self, guarded: _Guarded, word: str) -> Answer:
        guarded.child.send(word)
        try:
            return self._await(guarded.child, _Limit(_PATIENCE))
        except ChildError as error:
            self._drop()
            raise ChildError(f"the guard is lost: {error}", error.log, lost=True) from error

    def _migrated(
        self, database: Path, backwards: list[str], limit: _Limit, look: Callable[[], None] | None = None
    ) -> Answer:
        try:
            return self._once(functools.partial(_migrating, database, backwards), limit, look)
        except ChildError as error:
            if not error.lost:
                raise
            try:
                place = self._once(functools.partial(_place, database), _Limit(_PATIENCE))["place"]
            except ChildError:
                raise error from None
            raise ChildError(f"The migration failed at {place}: {error}", error.log, lost=False) from error

    def _once(self, task: Task, limit: _Limit, look: Callable[[], None] | None = None) -> Answer:
        child = Child(task)
        try:
            return self._await(child, limit, look)
        finally:
            child.close()

    def _await(self, child: Child, limit: _Limit, look: Callable[[], None] | None = None) -> Answer:
        """Wait for a child's next answer, look at something meanwhile, and notice that the committer is gone."""
        while True:
            ready, _, _ = select.select([self._words.descriptor, *child.descriptors], [], [], _PAUSE)
            if self._words.descriptor in ready:
                self._words.read()
            if look is not None:
                look()
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
    """Name the migration that a killed process was at: the first that is pending."""
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
