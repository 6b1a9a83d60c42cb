"""Make ``import sqlite3`` mean pysqlite3, whose SQLite is free of the WAL-reset bug.

``hostwright.pth`` imports this module at the start of every Python process of the image, so that
``manage.py shell`` has the safe library too. It prints nothing, takes a few milliseconds, and does not change sqlite3
where pysqlite3 is not installed.
"""

import sys
from typing import Any

from hostwright.errors import HostwrightError

# https://sqlite.org/wal.html, "The WAL-reset bug": 3.7.0 to 3.51.2, fixed in 3.51.3 and in two older lines.
_FIRST_AFFECTED = (3, 7, 0)
_REPAIRED = (3, 51, 3)
# https://sqlite.org/c3ref/c_limit_attached.html: the initial value of a limit is the compile option
# MAX_…, with one exception.
_LIMIT = "SQLITE_LIMIT_"
_FACTORY = 5  # position of the connection's class among the arguments of sqlite3.connect
_REPAIRED_LINES = {(3, 50): 7, (3, 44): 6}


def replace() -> bool:
    """Replace sqlite3 by pysqlite3 in this process.

    Returns:
        Whether pysqlite3 is installed.
    """
    try:
        import pysqlite3
        import pysqlite3.dbapi2
    except ImportError:
        return False
    if sys.modules.get("sqlite3") is pysqlite3:
        return True
    pysqlite3.__getattr__ = _constant
    if not hasattr(pysqlite3.Connection, "getlimit"):
        _add_limits(pysqlite3)
    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
    return True


def _add_limits(module: Any) -> None:
    """Add ``getlimit`` of Python 3.11's sqlite3 to the connections of pysqlite3: Django 6.1 calls it."""
    import _sqlite3

    names = [name for name in dir(_sqlite3) if name.startswith(_LIMIT)]
    compiled = {getattr(_sqlite3, name): f"MAX_{name.removeprefix(_LIMIT)}" for name in names}
    compiled[_sqlite3.SQLITE_LIMIT_WORKER_THREADS] = "DEFAULT_WORKER_THREADS"

    class Connection(module.Connection):  # type: ignore[misc]  # known at run time only
        def getlimit(self, category: int, /) -> int:
            """Return a limit: the compiled one, since pysqlite3 cannot change limits."""
            if category not in compiled:
                raise module.ProgrammingError("'category' is out of bounds")
            options = dict(row[0].partition("=")[::2] for row in self.execute("PRAGMA compile_options"))
            return int(options[compiled[category]])

    plain = module.connect

    def connect(*arguments: Any, **options: Any) -> Any:
        if len(arguments) <= _FACTORY:
            options.setdefault("factory", Connection)
        return plain(*arguments, **options)

    module.connect = module.dbapi2.connect = connect


def _constant(name: str) -> object:
    # pysqlite3 lacks the newer error codes (SQLITE_CONSTRAINT_UNIQUE, …); their values are the same in every SQLite.
    if name.startswith("SQLITE_"):
        import _sqlite3

        return getattr(_sqlite3, name)
    raise AttributeError(f"module 'sqlite3' has no attribute {name!r}")


def is_safe(version: tuple[int, int, int]) -> bool:
    """Return whether a SQLite library is free of the WAL-reset bug.

    Args:
        version: such as ``(3, 51, 3)``.
    """
    if version < _FIRST_AFFECTED or version >= _REPAIRED:
        return True
    repaired = _REPAIRED_LINES.get(version[:2])
    return repaired is not None and version[2] >= repaired


def require_safe() -> str:
    """Return the version of this process's SQLite library.

    Raises:
        HostwrightError: the library has the WAL-reset bug.
    """
    import sqlite3

    if not is_safe(sqlite3.sqlite_version_info):
        raise HostwrightError(
            f"SQLite {sqlite3.sqlite_version} can corrupt a database in WAL mode (the WAL-reset bug). Use 3.51.3 or "
            "newer (3.50.7 or 3.44.6 in those lines): install pysqlite3 0.6.1 or newer in the image's server directory."
        )
    return sqlite3.sqlite_version


replace()
