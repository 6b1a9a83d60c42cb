"""Make ``import sqlite3`` mean pysqlite3, whose SQLite is free of the WAL-reset bug.

``hostwright.pth`` imports this module at the start of every Python process of the image, so that
``manage.py shell`` has the safe library too. It is silent, costs some milliseconds, and leaves
sqlite3 alone where pysqlite3 is not installed.
"""

import sys

from hostwright.errors import HostwrightError

# https://sqlite.org/wal.html, "The WAL-reset bug": 3.7.0 to 3.51.2, repaired in 3.51.3 and on two older lines.
_FIRST_AFFECTED = (3, 7, 0)
_REPAIRED = (3, 51, 3)
_REPAIRED_LINES = {(3, 50): 7, (3, 44): 6}


def replace() -> bool:
    """Put pysqlite3 in the place of sqlite3 for this process.

    Returns:
        Whether pysqlite3 is there.
    """
    try:
        import pysqlite3
        import pysqlite3.dbapi2
    except ImportError:
        return False
    if sys.modules.get("sqlite3") is pysqlite3:
        return True
    pysqlite3.__getattr__ = _constant
    sys.modules["sqlite3"] = pysqlite3
    sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
    return True


def _constant(name: str) -> object:
    # pysqlite3 lacks the newer error codes (SQLITE_CONSTRAINT_UNIQUE, …), which are the same in every SQLite.
    if name.startswith("SQLITE_"):
        import _sqlite3

        return getattr(_sqlite3, name)
    raise AttributeError(f"module 'sqlite3' has no attribute {name!r}")


def is_safe(version: tuple[int, int, int]) -> bool:
    """Tell whether a SQLite library is free of the WAL-reset bug.

    Args:
        version: such as ``(3, 51, 3)``.
    """
    if version < _FIRST_AFFECTED or version >= _REPAIRED:
        return True
    repaired = _REPAIRED_LINES.get(version[:2])
    return repaired is not None and version[2] >= repaired


def require_safe() -> str:
    """Refuse to go on with an affected SQLite.

    Returns:
        The version of the library that this process uses.

    Raises:
        HostwrightError: it is an affected one.
    """
    import sqlite3

    if not is_safe(sqlite3.sqlite_version_info):
        raise HostwrightError(
            f"SQLite {sqlite3.sqlite_version} can corrupt a database in WAL mode (the WAL-reset bug): at least "
            "3.51.3 is needed (or 3.50.7, 3.44.6 on those lines). pysqlite3 0.6.1 or newer belongs in the image's "
            "server directory."
        )
    return sqlite3.sqlite_version


replace()
