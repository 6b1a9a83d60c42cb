"""The migrator as the committer uses it: a real process, its line protocol, and real databases."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

APP = Path(__file__).resolve().parents[3] / "app"

STEP = """
    import ctypes, os, signal, subprocess, sys, threading, time
    from pathlib import Path
    from django.conf import settings
    from django.db import connection, migrations

    def work(apps, schema_editor):
        note = apps.get_model("notes", "Note")
        {body}

    class Migration(migrations.Migration):
        atomic = {atomic}
        dependencies = [("notes", "{before}")]
        operations = [
            migrations.RunSQL("INSERT INTO notes_note (text) VALUES ('of {name}')", ""),
            migrations.RunPython(work, migrations.RunPython.noop),
            migrations.RunSQL("INSERT INTO notes_note (text) VALUES ('end of {name}')", ""),
        ]
"""


class Migrator:
    """The migrator's process; ``first`` is its first answer, which it sends without a command."""

    def __init__(self, release: Release) -> None:
        self.process = subprocess.Popen(
            [release.python, "-m", "hostwright", "migrator"],
            cwd=release.project,
            env=release.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.log = ""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self.first = self._read()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        found: dict[str, Any] = json.loads(line)
        return found

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def line(self, line: str) -> dict[str, Any]:
        self.send(line)
        return self._read()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a command; return the answer, also an error."""
        return self.line(
            json.dumps(
                {"do": do, **{name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}}
            )
        )

    def run(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a command that must succeed; return the answer."""
        answer = self.ask(do, **fields)
        assert "error" not in answer, answer
        return answer

    def children(self) -> list[int]:
        words = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="utf-8").split()
        return [int(word) for word in words]

    def close(self) -> int:
        """Close the process's standard input; return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(10)
        self._listener.join(10)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""
        self.process.stdout.close()
        return status


@pytest.fixture
def start(release: Release) -> Iterator[Callable[[], Migrator]]:
    started: list[Migrator] = []

    def begin() -> Migrator:
        started.append(Migrator(release))
        return started[-1]

    yield begin
    for migrator in started:
        migrator.process.kill()
        migrator.process.wait()
        for stream in (migrator.process.stdin, migrator.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def old(release: Release) -> Path:
    """The live database, generation 1, with one row."""
    release.database.parent.mkdir(parents=True)
    done = release.command("manage.py", "migrate")
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(release.database)) as connection:
        connection.execute("INSERT INTO notes_note (text) VALUES ('written before')")
        connection.commit()
    return release.database


@pytest.fixture
def new(release: Release) -> Path:
    """The path of the next generation's database."""
    directory = release.root / "databases" / "2"
    directory.mkdir(parents=True)
    return directory / "db.sqlite3"


def steps(release: Release, second: str = "pass", atomic: bool = True) -> None:
    """Give the project three more migrations."""
    before = "0001_initial"
    for name, body in (("0002_two", "pass"), ("0003_three", second), ("0004_four", "pass")):
        text = STEP.format(name=name, before=before, body=body, atomic=atomic)
        release.write({f"notes/migrations/{name}.py": text})
        before = name


def notes(database: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes_note ORDER BY id")]


def write(database: Path, wait: float = 0.0) -> None:
    with contextlib.closing(sqlite3.connect(database, timeout=wait)) as connection, connection:
        connection.execute("INSERT INTO notes_note (text) VALUES ('written meanwhile')")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if not path.name.endswith("-shm")}


def is_free(database: Path, within: float = 1.0) -> bool:
    try:
        write(database, within)
    except sqlite3.OperationalError as error:
        assert "locked" in str(error)
        return False
    return True


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


Start = Callable[[], Migrator]


def test_a_migration_of_the_reference_site(release: Release, tmp_path: Path, start: Start) -> None:
    release.configuration["database"] = str(tmp_path / "databases" / "1" / "db.sqlite3")
    release.variables |= {"HOSTWRIGHT_SETTINGS": "mysite.settings", "HOSTWRIGHT_WSGI": "mysite.wsgi.application"}
    for path in sorted(release.project.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    subprocess.run(["cp", "-r", f"{APP}/.", release.project], check=True)
    (release.project / "db.sqlite3").unlink(missing_ok=True)
    release.database.parent.mkdir(parents=True)
    old_state = release.command("manage.py", "migrate", "polls", "0001")
    assert old_state.returncode == 0, old_state.stderr
    new = tmp_path / "databases" / "2" / "db.sqlite3"
    new.parent.mkdir()
    migrator = start()
    pending = migrator.first["pending"]
    assert pending[-1] == "sessions.0001_initial"
    assert "polls.0002_demo_questions" in pending
    assert (migrator.first["static_url"], migrator.first["overlay"]) == ("/static/", True)
    before = contents(release.database.parent)
    scratch = tmp_path / "databases" / "rehearsal"
    rehearsed = migrator.run("rehearse", source=release.database, scratch=scratch, limit=30)
    assert rehearsed["applied"] == pending
    assert 0 < rehearsed["copy_seconds"] < 5
    assert 0 < rehearsed["migrate_seconds"] < 10
    assert rehearsed["bytes"] == sum(map(len, before.values()))
    assert rehearsed["peak_bytes"] > rehearsed["bytes"]
    assert contents(release.database.parent) == before
    assert not scratch.exists()
    assert 0 <= migrator.run("guard", source=release.database, wait=1)["seconds"] < 1
    copied = migrator.run("copy", source=release.database, destination=new, limit=10)
    assert copied["bytes"] == new.stat().st_size
    migrated = migrator.run("migrate", database=new, limit=30)
    assert (migrated["applied"], migrated["head"]["polls"]) == (pending, "0002_demo_questions")
    assert migrated["seconds"] > 0
    assert sorted(path.name for path in new.parent.iterdir()) == ["db.sqlite3"]
    assert migrator.run("check") == {"held": True}
    assert contents(release.database.parent).keys() >= before.keys()
    assert migrator.run("release") == {"held": False}
    assert migrator.children() == []
    with contextlib.closing(sqlite3.connect(new)) as connection:
        assert connection.execute("SELECT count(*) FROM polls_question").fetchone()[0] > 0
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with contextlib.closing(sqlite3.connect(release.database)) as connection:
        assert connection.execute("SELECT count(*) FROM polls_question").fetchone()[0] == 0
    assert not (release.project / "db.sqlite3").exists()
    assert migrator.close() == 0


def test_migrations_are_reversed_in_a_rehearsal_and_in_a_release(
    release: Release, old: Path, new: Path, start: Start
) -> None:
    steps(release)
    for_ever = STEP.format(name="0002_for_ever", before="0001_initial", body="pass", atomic=True)
    release.write({"notes/migrations/0002_for_ever.py": for_ever.replace(', "")', ")")})
    text = (release.project / "notes/migrations/0002_two.py").read_text(encoding="utf-8")
    release.write({"notes/migrations/0002_two.py": text.replace("0001_initial", "0002_for_ever")})
    assert release.command("manage.py", "migrate").returncode == 0
    migrator = start()
    assert migrator.first["applied"][-2:] == ["notes.0003_three", "notes.0004_four"]
    backwards = ["notes.0003_three", "notes.0004_four"]
    before = contents(old.parent)
    migrator.run("rehearse", source=old, scratch=new.parent / "scratch", backwards=backwards)
    assert contents(old.parent) == before
    migrator.run("guard", source=old, wait=1)
    migrator.run("copy", source=old, destination=new)
    assert migrator.run("migrate", database=new, backwards=backwards)["head"]["notes"] == "0002_two"
    assert contents(old.parent).keys() >= before.keys()
    everything = ["notes.0002_two", "notes.0002_for_ever"]
    failed = migrator.ask("migrate", database=new, backwards=everything)
    assert "The migrations of notes cannot be reversed: IrreversibleError" in failed["error"]
    assert '"backwards" must be a list' in migrator.ask("migrate", database=new, backwards="notes.0002_two")["error"]


def test_rows_are_counted_by_table(old: Path, start: Start) -> None:
    migrator = start()
    assert migrator.run("rows", source=old)["rows"]["notes_note"] == 1
    write(old)
    assert migrator.run("rows", source=old)["rows"]["notes_note"] == 2


def test_another_database_is_copied_under_the_guard(old: Path, new: Path, start: Start) -> None:
    retired = new.parent / "retired.sqlite3"
    retired.write_bytes(old.read_bytes())
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    migrator.run("copy", source=retired, destination=new)
    assert notes(new) == ["written before"]
    assert not is_free(old, 0)


def test_the_first_line_on_a_missing_database_creates_nothing(release: Release, start: Start) -> None:
    migrator = start()
    assert migrator.first["pending"][-1] == "notes.0001_initial"
    assert not release.database.parent.exists()
    assert migrator.close() == 0


def test_a_project_that_does_not_import_is_explained(release: Release) -> None:
    release.write({"notes/models.py": "import nonsense\n"})
    result = release.verb("migrator")
    assert (result.returncode, result.stdout) == (1, "")
    assert "notes/models.py:1: import nonsense" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_guard_keeps_writers_out_and_lets_readers_in(old: Path, new: Path, start: Start) -> None:
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        write(old)
    assert notes(old) == ["written before"]
    again = migrator.ask("guard", source=old, wait=1)
    assert "is already guarded" in again["error"]
    migrator.run("copy", source=old, destination=new)
    assert notes(new) == ["written before"]
    assert oct(new.stat().st_mode & 0o777) == "0o600"
    # The process of the copy opened the same files and has ended; the guard's process still has its lock.
    assert not is_free(old, 0)
    assert migrator.run("check") == {"held": True}
    assert migrator.run("release") == {"held": False}
    write(old)
    assert migrator.run("release") == {"held": False}


def test_a_writer_that_does_not_end_makes_the_guard_fail(old: Path, start: Start) -> None:
    migrator = start()
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        refused = migrator.ask("guard", source=old, wait=0.5)
        assert 0.4 < time.monotonic() - begin < 2
        problem = "another process has kept the write lock for 0.5 s. End it, or try again later."
        assert refused["error"] == f"{old}: {problem}"
        assert migrator.children() == []
        assert "the guard is not active" in migrator.ask("check")["error"]
        writer.execute("ROLLBACK")
    assert migrator.run("guard", source=old, wait=0)["seconds"] < 0.5


def test_a_guard_waits_for_a_writer(old: Path, start: Start) -> None:
    migrator = start()
    with contextlib.closing(sqlite3.connect(old, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO notes_note (text) VALUES ('acknowledged late')")
        threading.Timer(0.4, writer.execute, ["COMMIT"]).start()
        assert 0.2 < migrator.run("guard", source=old, wait=5)["seconds"] < 3
    assert notes(old) == ["written before", "acknowledged late"]


def test_a_commit_despite_the_guard_is_found(old: Path, start: Start) -> None:
    migrator = start()
    # A WAL needs locks, so the database leaves WAL mode.
    with contextlib.closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    migrator.run("guard", source=old, wait=1)
    assert migrator.run("check") == {"held": True}
    # A writer that ignores locks, as one on another kernel would.
    with contextlib.closing(sqlite3.connect(f"file:{old}?vfs=unix-none", uri=True)) as writer, writer:
        writer.execute("INSERT INTO notes_note (text) VALUES ('unlocked')")
    assert "was changed" in migrator.ask("check")["error"]


def test_a_replaced_database_is_found(old: Path, new: Path, start: Start) -> None:
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    kept = old.with_name("kept")
    old.rename(kept)
    assert "was changed or replaced" in migrator.ask("check")["error"]
    assert "was changed or replaced" in migrator.ask("copy", source=old, destination=new)["error"]
    kept.rename(old)
    assert migrator.run("check") == {"held": True}


def test_a_copy_needs_the_guard(old: Path, new: Path, start: Start) -> None:
    migrator = start()
    assert migrator.ask("copy", source=old, destination=new)["error"] == "copy: the guard is not active."
    migrator.run("guard", source=old, wait=1)
    os.kill(migrator.children()[0], signal.SIGKILL)
    lost = migrator.ask("check")["error"]
    assert "the guard is lost: the process was ended by SIGKILL (it may have run out of memory)" in lost
    assert migrator.ask("copy", source=old, destination=new)["error"] == "copy: the guard is not active."
    assert not new.exists()
    migrator.run("guard", source=old, wait=1)
    new.write_text("in the way", encoding="utf-8")
    assert "a snapshot never overwrites anything" in migrator.ask("copy", source=old, destination=new)["error"]


@pytest.mark.parametrize("atomic", [True, False])
def test_a_migration_that_fails_in_the_second_of_three_is_named(
    release: Release, old: Path, new: Path, start: Start, atomic: bool
) -> None:
    steps(release, "print('looking'); raise ValueError('no such colour')", atomic)
    migrator = start()
    assert migrator.first["pending"] == ["notes.0002_two", "notes.0003_three", "notes.0004_four"]
    scratch = release.root / "scratch"
    before = contents(old.parent)
    rehearsed = migrator.ask("rehearse", source=old, scratch=scratch, limit=30)
    migrator.run("guard", source=old, wait=1)
    migrator.run("copy", source=old, destination=new)
    migrated = migrator.ask("migrate", database=new)
    for answer in (rehearsed, migrated):
        assert answer["error"].startswith("The migration failed at notes.0003_three: ValueError: no such colour")
        assert "at notes/migrations/0003_three.py:9: print('looking'); raise ValueError" in answer["error"]
        assert "looking" in answer["log"]
        assert "Applying notes.0002_two... OK" in answer["log"]
    assert not scratch.exists()
    # The copy shows the progress of the migrations; its source is unchanged.
    assert notes(new)[1:] == ["of 0002_two", "end of 0002_two", *([] if atomic else ["of 0003_three"])]
    assert migrator.run("check") == {"held": True}
    assert migrator.run("release") == {"held": False}
    assert contents(old.parent)["db.sqlite3"] == before["db.sqlite3"]
    assert migrator.close() == 0


@pytest.mark.parametrize("atomic", [True, False])
def test_a_migration_that_hangs_is_killed_at_its_limit(release: Release, old: Path, start: Start, atomic: bool) -> None:
    child = release.root / "child"
    steps(
        release, f"Path({str(child)!r}).write_text(str(subprocess.Popen(['sleep', '60']).pid)); time.sleep(60)", atomic
    )
    migrator = start()
    scratch = release.root / "scratch"
    begin = time.monotonic()
    answer = migrator.ask("rehearse", source=old, scratch=scratch, limit=1.5)
    assert 1.4 < time.monotonic() - begin < 4
    expected = "The migration failed at notes.0003_three: it did not end within 1.5 s and was killed"
    assert answer["error"] == expected
    assert "Applying notes.0003_three..." in answer["log"]
    assert not scratch.exists()
    assert migrator.children() == []
    assert not is_alive(int(child.read_text(encoding="utf-8")))
    assert "error" in migrator.ask("rehearse", source=old, scratch=scratch, limit=0)
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL (it may have run out of memory)"),
        ("ctypes.string_at(0)", "was ended by SIGSEGV"),
        # The parent's handler of SIGTERM must not run in the child.
        ("os.kill(os.getpid(), signal.SIGTERM)", "was ended by SIGTERM"),
        ("os._exit(3)", "ended without an answer, with exit status 3"),
    ],
)
def test_a_child_that_dies_does_not_end_the_migrator(
    release: Release, old: Path, start: Start, body: str, expected: str
) -> None:
    steps(release, body)
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    answer = migrator.ask("rehearse", source=old, scratch=release.root / "scratch")
    assert answer["error"] == f"The migration failed at notes.0003_three: the process {expected}"
    assert not (release.root / "scratch").exists()
    assert migrator.run("check") == {"held": True}


def test_what_the_project_prints_goes_to_standard_error(release: Release, old: Path, start: Start) -> None:
    release.variables["PYTHONUNBUFFERED"] = ""
    release.settings("import os\nprint('settings')\nos.write(1, b'raw settings\\n')\nassert not os.read(0, 10)")
    body = (
        "print('migration'); os.write(1, b'raw migration\\n'); os.system('echo from a shell'); assert not os.read(0, 9)"
    )
    steps(release, body)
    migrator = start()
    assert migrator.first["pending"]
    assert len(migrator.run("rehearse", source=old, scratch=release.root / "scratch")["applied"]) == 3
    assert migrator.close() == 0
    # The last line was in the buffer until the end of the process.
    for text in ("settings", "raw settings", "migration", "raw migration", "from a shell", "0004_four... OK"):
        assert f"{text}\n" in migrator.log


def test_the_log_shows_where_an_endless_import_is(release: Release) -> None:
    release.settings("import time\ntime.sleep(60)")
    script = "from hostwright import migrator; migrator._LONG = 0.5; migrator.migrator()"
    process = subprocess.Popen(
        [release.python, "-c", script], cwd=release.project, env=release.environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(re.search(r'settings.py", line \d+ in <module>', line) for line in lines)
    finally:
        process.kill()
        process.communicate()


def test_an_unread_log_does_not_block_the_migrator(release: Release, old: Path) -> None:
    steps(release, "print('x' * 99 + '\\n' * 1, end='', flush=True) or [print('y' * 99) for _ in range(9999)]; 1 / 0")
    process = subprocess.Popen(
        [release.python, "-m", "hostwright", "migrator"],
        cwd=release.project,
        env=release.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    word = {"do": "rehearse", "source": str(old), "scratch": str(release.root / "scratch"), "limit": 20}
    alarm = threading.Timer(40, process.kill)
    alarm.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdin.write(json.dumps(word).encode() + b"\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
    finally:
        alarm.cancel()
        process.kill()
        process.communicate()
    assert "ZeroDivisionError" in answer["error"]
    assert answer["log"].splitlines() == ["y" * 99] * 25


def test_migrations_see_the_copy_and_never_the_configured_database(
    release: Release, old: Path, new: Path, start: Start
) -> None:
    steps(release, "print('at', settings.DATABASES['default']['NAME'], connection.settings_dict['NAME'])")
    migrator = start()
    before = contents(old.parent)
    migrator.run("guard", source=old, wait=1)
    migrator.run("copy", source=old, destination=new)
    assert migrator.run("migrate", database=new)["head"]["notes"] == "0004_four"
    migrator.run("release")
    assert contents(old.parent) == before
    migrator.close()
    assert f"at {new} {new}\n" in migrator.log


def test_with_the_overlay_off_the_given_database_is_migrated(release: Release, new: Path, start: Start) -> None:
    release.variables["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    migrator = start()
    assert migrator.first["overlay"] is False
    assert migrator.run("migrate", database=new)["applied"][-1] == "notes.0001_initial"
    assert notes(new) == []
    assert not (release.project / "db.sqlite3").exists()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nonsense", "not a command of the migrator (rehearse, rows, guard,"),
        ("[1]", "not a command"),
        (
            '{"do": "dance"}',
            'not a command of the migrator (rehearse, rows, guard, copy, migrate, check, release): {"do": "dance"}',
        ),
        ('{"do": ["guard"]}', "not a command"),
        ('{"do": "migrate"}', '"database" must be an absolute path, not None'),
        ('{"do": "migrate", "database": "here"}', "must be an absolute path, not 'here'"),
        (
            '{"do": "guard", "source": "/nowhere/db.sqlite3", "wait": 1}',
            "/nowhere/db.sqlite3: the database does not exist",
        ),
        ('{"do": "guard", "source": "/x", "wait": "long"}', "\"wait\" must be a number of seconds, not 'long'"),
        ('{"do": "rehearse", "source": "/nowhere", "scratch": "/"}', "File exists"),
        ('{"do": "check"}', "the guard is not active"),
    ],
)
def test_invalid_commands_are_answered_with_an_error(shared: Migrator, line: str, expected: str) -> None:
    answer = shared.line(line)
    assert answer.keys() == {"error", "log"}
    assert expected in answer["error"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Iterator[Migrator]:
    from tests.unit.runtime.conftest import make_release

    migrator = Migrator(make_release(tmp_path_factory.mktemp("shared"), python))
    yield migrator
    assert migrator.close() == 0


def test_the_committer_s_end_before_the_commit_drops_the_guard(release: Release, old: Path, start: Start) -> None:
    release.current.unlink()
    release.current.symlink_to("releases/0")
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    assert migrator.close() == 0
    write(old)


def test_the_committer_s_end_after_the_commit_keeps_the_guard(old: Path, start: Start) -> None:
    migrator = start()
    migrator.run("guard", source=old, wait=1)
    assert migrator.process.stdin is not None
    migrator.process.stdin.close()
    time.sleep(0.5)  # long enough for a guard that does not stay to end
    assert migrator.process.poll() is None
    assert not is_free(old, 0)
    migrator.process.send_signal(signal.SIGTERM)
    assert migrator.process.wait(2) == 0
    assert is_free(old)


def test_the_committer_s_end_stops_the_command_in_progress(release: Release, old: Path, start: Start) -> None:
    release.current.unlink()
    steps(release, "print('asleep'); time.sleep(60)")
    migrator = start()
    scratch = release.root / "scratch"
    migrator.run("guard", source=old, wait=1)
    migrator.send(json.dumps({"do": "rehearse", "source": str(old), "scratch": str(scratch)}))
    assert until(lambda: "asleep" in migrator.log)
    assert scratch.exists()
    assert migrator.close() == 0
    assert not scratch.exists()
    write(old)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_the_migrator(release: Release, old: Path, start: Start, number: signal.Signals) -> None:
    steps(release, "print('asleep'); time.sleep(60)")
    migrator = start()
    scratch = release.root / "scratch"
    migrator.run("guard", source=old, wait=1)
    migrator.send(json.dumps({"do": "rehearse", "source": str(old), "scratch": str(scratch)}))
    assert until(lambda: "asleep" in migrator.log)
    children = migrator.children()
    assert len(children) == 2
    begin = time.monotonic()
    migrator.process.send_signal(number)
    assert migrator.process.wait(2) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert until(lambda: not any(map(is_alive, children)), 2)
    write(old)
    assert time.monotonic() - begin < 1
    assert scratch.exists() is (number == signal.SIGKILL)


def test_sigterm_ends_the_start(release: Release) -> None:
    marker = release.root / "started"
    release.settings(f"import time\nopen({str(marker)!r}, 'w').close()\ntime.sleep(60)")
    process = subprocess.Popen(
        [release.python, "-m", "hostwright", "migrator"],
        cwd=release.project,
        env=release.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert until(marker.exists)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=2)[0] == b""
    finally:
        process.kill()
        process.wait()
