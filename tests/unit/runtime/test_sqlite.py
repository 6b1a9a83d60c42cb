"""The safe SQLite is in every Python process of the image, and an affected one is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hostwright import install, sqlite
from hostwright.errors import HostwrightError

RUNTIME = Path(install.__file__).parents[1]


@pytest.mark.parametrize("version", [(3, 6, 23), (3, 44, 6), (3, 44, 9), (3, 50, 7), (3, 51, 3), (3, 53, 4), (4, 0, 0)])
def test_versions_free_of_the_wal_reset_bug(version: tuple[int, int, int]) -> None:
    assert sqlite.is_safe(version)


@pytest.mark.parametrize(
    "version", [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 45, 6), (3, 46, 1), (3, 50, 6), (3, 51, 0), (3, 51, 2)]
)
def test_versions_with_the_wal_reset_bug(version: tuple[int, int, int]) -> None:
    assert not sqlite.is_safe(version)


def test_a_fresh_process_has_pysqlite3_for_sqlite3(python: Path) -> None:
    code = """
import sys
assert "hostwright.sqlite" in sys.modules
import sqlite3, sqlite3.dbapi2
from sqlite3 import dbapi2
assert sqlite3.connect is dbapi2.connect is sqlite3.dbapi2.connect
print(sqlite3.__name__, sqlite3.sqlite_version_info >= (3, 51, 3), sqlite3.SQLITE_CONSTRAINT_UNIQUE)
"""
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("pysqlite3 True 2067\n", "")


def test_without_pysqlite3_nothing_is_printed_and_sqlite3_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "runtime").symlink_to(RUNTIME)
    (tmp_path / "hostwright.pth").write_text(install.pth(tmp_path), encoding="utf-8")
    code = f"import site; site.addsitedir({str(tmp_path)!r}); import sqlite3; print(sqlite3.__name__)"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("sqlite3\n", "")


def test_an_affected_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    assert sqlite.require_safe() == sqlite3.sqlite_version
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 46, 1))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.46.1")
    with pytest.raises(HostwrightError, match=r"SQLite 3\.46\.1 can corrupt .* 3\.51\.3"):
        sqlite.require_safe()


def test_connections_return_the_limit_of_variables(python: Path) -> None:
    code = """
import sqlite3
from sqlite3 import dbapi2
class Own(dbapi2.Connection): pass
connection = dbapi2.connect(":memory:")
limit = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
marks = ",".join("?" * limit)
assert connection.execute(f"SELECT 1 WHERE 0 IN ({marks})", [0] * limit).fetchall() == [(1,)]
try:
    connection.execute(f"SELECT 1 WHERE 0 IN ({marks},?)", [0] * (limit + 1))
except dbapi2.OperationalError as error:
    print(error)
target = sqlite3.connect(":memory:")
connection.backup(target)
print(type(dbapi2.connect(":memory:", factory=Own)).__name__)
"""
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("too many SQL variables\nOwn\n", "")


def test_connections_return_every_limit(python: Path) -> None:
    """Django 6.1 asks for the columns too, where it logs a query with its parameters (``last_executed_query``)."""
    code = """
import sqlite3, _sqlite3
connection = sqlite3.connect(":memory:")
names = [name for name in dir(_sqlite3) if name.startswith("SQLITE_LIMIT_")]
found = {name.removeprefix("SQLITE_LIMIT_"): connection.getlimit(getattr(sqlite3, name)) for name in names}
assert len(found) >= 12 and all(isinstance(limit, int) for limit in found.values())
print(found["COLUMN"], found["ATTACHED"], found["WORKER_THREADS"])
connection.execute(f"SELECT {','.join('1' * found['COLUMN'])}")
try:
    connection.execute(f"SELECT {','.join('1' * (found['COLUMN'] + 1))}")
except sqlite3.OperationalError as error:
    print(error)
try:
    connection.getlimit(-1)
except sqlite3.ProgrammingError as error:
    print(error)
"""
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    expected = "2000 10 0\ntoo many columns in result set\n'category' is out of bounds\n"
    assert (result.stdout, result.stderr) == (expected, "")
