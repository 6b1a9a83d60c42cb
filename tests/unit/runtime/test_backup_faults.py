"""Each disk operation of a backup fails, or the process is killed at it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostwright import backup, catalogue, verify
from hostwright.errors import BackupError

from tests.unit.runtime.ledgers import SUM, change, make, names, one, put, unpack, writing

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

CALLS = ("write", "fsync", "rename", "link", "mkdir", "unlink", "rmdir", "open")
# Number of kills at random moments; HOSTWRIGHT_KILLS=full is for the long run.
KILLS = 200 if os.environ.get("HOSTWRIGHT_KILLS") == "full" else 12


class Faults:
    """Counts the disk operations of this process, and makes one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = -1
        self.code = errno.ENOSPC
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **options)
            self.count += 1
            if self.count == self.at:
                raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **options)

        return call


@pytest.fixture
def small(release: Release, monkeypatch: pytest.MonkeyPatch) -> Release:
    """A small site with media files and one backup."""
    from tests.unit.runtime.ledgers import execute

    release.database.parent.mkdir(parents=True)
    execute(release.database, "CREATE TABLE move (id INTEGER PRIMARY KEY, source, target, amount)")
    monkeypatch.setenv("HOSTWRIGHT_CONFIG", str(release.save()))
    put(release, "a.txt", b"a")
    put(release, "deep/b.txt", b"b")
    return release


def require_intact(release: Release, good: set[str]) -> None:
    """Require that every listed backup verifies and that all earlier ones exist."""
    found = verify.verify(release.backups)
    assert found["wrong"] == []
    assert good <= set(found["verified"])


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the destination is full"),
        (errno.EROFS, "the destination is read-only"),
        (errno.EACCES, "cannot write there"),
        (errno.EIO, "the disk failed"),
    ],
)
def test_after_any_failure_earlier_backups_are_intact_and_the_next_run_succeeds(
    small: Release, code: int, message: str
) -> None:
    good = {make(small, with_media=True)["id"]}
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch)
        faults.code = code
        put(small, "new.txt", b"n")
        change(small.database)
        good.add(make(small, with_media=True)["id"])
        calls = faults.count
        assert calls > 20
        for at in range(1, calls + 1, 1 if code == errno.ENOSPC else 4):
            faults.count, faults.at = 0, at
            change(small.database)
            put(small, "new.txt", str(at).encode())
            try:
                # A refused hard link is no failure: the file is copied instead.
                good.add(make(small, with_media=True)["id"])
            except BackupError as error:
                assert message in str(error), at
            faults.at = -1
            require_intact(small, good)
            if at % 8 == 1:
                make(small, keep=1, with_media=True)
                good = {backup.id for backup in catalogue.sealed(small.backups)}
    new = make(small, keep=1, with_media=True)["id"]
    assert {name.partition(".")[0] for name in names(small)} == {new}


@pytest.mark.usefixtures("clock")
def test_a_failed_removal_leaves_no_incomplete_listed_backup(small: Release) -> None:
    at = calls = 0
    while at <= calls:
        change(small.database)
        old = catalogue.Backup(small.backups, make(small, with_media=True)["id"])
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch)
            faults.at = at
            with contextlib.suppress(OSError):
                catalogue.remove(old)
        calls = max(calls, faults.count)
        require_intact(small, set())
        at += 1
    assert calls > 5


KILLER = """
import os, signal, sys
calls, at = {calls!r}, int(sys.argv[1])
count = 0
def counted(name, real):
    def call(*arguments, **options):
        global count
        if name == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **options)
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
from hostwright import __main__, backup, media, rebuild, restore
for name in calls:
    setattr(os, name, counted(name, getattr(os, name)))
status = __main__.main(sys.argv[2:])
print(count)
sys.exit(status)
"""


def test_after_a_kill_at_any_disk_operation_every_listed_backup_is_intact(small: Release) -> None:
    good = {make(small, with_media=True)["id"]}
    words = ("backup", "--output", small.backups, "--media", small.root / "media", "--keep", '{"last": 3}')
    code = KILLER.format(calls=CALLS)
    counted = small.command("-c", code, "0", *words)
    calls = int(counted.stdout.splitlines()[-1])
    assert calls > 20
    # A sample of the operations; the long run takes all.
    chosen = range(1, calls + 1) if KILLS > 12 else random.Random(5).sample(range(1, calls + 1), 10)
    for at in chosen:
        change(small.database)
        put(small, "new.txt", str(at).encode())
        assert small.command("-c", code, str(at), *words).returncode == -9
        newest = max(good)
        require_intact(small, {newest})
        good = {backup.id for backup in catalogue.sealed(small.backups)}
    new = make(small, keep=1, with_media=True)["id"]
    assert {name.partition(".")[0] for name in names(small)} == {new}


def test_after_kills_at_random_moments_of_a_busy_site_every_listed_backup_is_intact(
    release: Release, ledger: Path
) -> None:
    """The newest backup is never lost, and the next run removes incomplete files."""
    put(release, "a.txt", b"a")
    newest = make(release, with_media=True)["id"]
    start = time.monotonic()
    words: tuple[str | Path, ...] = (
        "-m",
        "hostwright",
        "backup",
        "--output",
        release.backups,
        "--media",
        release.root / "media",
    )
    command: list[str | Path] = [release.python, *words, "--keep", '{"last": 5}']
    options: dict[str, Any] = {"env": release.environment(), "cwd": release.project, "stdout": subprocess.DEVNULL}
    with writing(ledger, writers=1):
        subprocess.run(command, check=True, **options)
        took = time.monotonic() - start
        moments = random.Random(11)
        killed = 0
        for number in range(KILLS):
            put(release, "changing.txt", str(number).encode())
            process = subprocess.Popen(command, **options)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0.1, 1.1) * took)
            process.kill()
            killed += process.wait() == -9
            found = verify.verify(release.backups)
            assert found["wrong"] == []
            assert max(found["verified"]) >= newest
            newest = max(found["verified"])
        assert killed > KILLS / 3
        new = make(release, keep=1, with_media=True)
        assert one(unpack(release, new), "SELECT sum(balance) FROM account") == SUM
    assert {name.partition(".")[0] for name in names(release)} == {new["id"]}
    print(f"{killed} of {KILLS} runs were killed while they ran, a run took {took:.2f} s")


@contextlib.contextmanager
def small_file_system(place: Path, size: int) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if re.search("permission denied|must be superuser", mounted.stderr):
        pytest.skip("whoever runs this may not mount; the same is simulated above")
    assert mounted.returncode == 0, mounted.stderr
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_file_system_that_fills_up_at_any_point(
    release: Release, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system itself is full, so SQLite's own copy fails too."""
    monkeypatch.setattr(backup, "_require_space", lambda *_: None)
    put(release, "a.bin", os.urandom(300_000))
    assert ledger.exists()
    outcomes = set()
    for size in range(128 << 10, 3 << 20, 128 << 10):
        with small_file_system(release.backups, size):
            try:
                made = make(release, with_media=True)["id"]
                assert verify.verify(release.backups) == {"verified": [made], "wrong": []}
                outcomes.add("made")
            except BackupError as error:
                assert "full" in str(error) or "Check the free space" in str(error), size
                assert verify.verify(release.backups) == {"verified": [], "wrong": []}
                outcomes.add("full")
            assert not [name for name in names(release) if name.startswith(".partial")]
    assert outcomes == {"made", "full"}


def test_a_directory_of_another_owner_is_reported(release: Release, ledger: Path) -> None:
    """Root runs without the capabilities that override owners; another user has a read-only directory."""
    good = make(release)["id"]
    assert ledger.exists()
    root = os.geteuid() == 0
    if root:
        os.chown(release.backups, 12345, 12345)
    release.backups.chmod(0o755 if root else 0o555)
    setpriv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown"] if root else []
    code = "import sys; from hostwright import __main__; sys.exit(__main__.main())"
    result = subprocess.run(
        [
            *setpriv, release.python, "-c", code, "backup", "--output", release.backups, "--record", release.record,
        ],
        env=release.environment(), cwd=release.project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, "cannot write there: the role backup sets the owner" in result.stderr) == (1, True)
    assert verify.verify(release.backups) == {"verified": [good], "wrong": []}
