"""Media files in backups: stored once, with any name, and changed or removed during a backup."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostwright import catalogue, content, disk, media, verify
from hostwright.errors import BackupError

from tests.unit.runtime.ledgers import damage, make, put, share_of

if TYPE_CHECKING:
    from tests.unit.runtime.conftest import Release

pytestmark = pytest.mark.usefixtures("ledger")


def tree(release: Release, manifest: dict[str, Any]) -> dict[str, Path]:
    root = release.backups / f"{manifest['id']}.media"
    return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}


def test_each_file_is_stored_once(release: Release) -> None:
    put(release, "a.txt", b"a")
    put(release, "deep/er/b.txt", b"bb")
    put(release, "c.txt", b"ccc")
    first = make(release, with_media=True)
    assert {key: first["media"][key] for key in ("files", "bytes", "new_files", "new_bytes")} == {
        "files": 3, "bytes": 6, "new_files": 3, "new_bytes": 6,
    }  # fmt: skip
    put(release, "c.txt", b"CCCC", age=50)
    (release.root / "media" / "a.txt").unlink()
    second = make(release, with_media=True)
    assert (second["media"]["files"], second["media"]["new_files"], second["media"]["new_bytes"]) == (2, 1, 4)
    before, after = tree(release, first), tree(release, second)
    assert {name: path.read_bytes() for name, path in before.items()} == {
        "a.txt": b"a", "deep/er/b.txt": b"bb", "c.txt": b"ccc",
    }  # fmt: skip
    assert {name: path.read_bytes() for name, path in after.items()} == {"deep/er/b.txt": b"bb", "c.txt": b"CCCC"}
    assert after["deep/er/b.txt"].samefile(before["deep/er/b.txt"])
    assert {oct(path.stat().st_mode & 0o777) for path in after.values()} == {"0o600"}
    # sha256sum can check it.
    for manifest in (first, second):
        listing = manifest["media"]["listing"]["name"]
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", listing], cwd=release.backups, check=True)
    # The second backup is complete without the first.
    third = make(release, keep=1, with_media=True)
    assert sorted(tree(release, third)) == ["c.txt", "deep/er/b.txt"]
    assert not (release.backups / f"{first['id']}.media").exists()
    assert verify.verify(release.backups) == {"verified": [third["id"]], "wrong": []}


def test_nothing_written_after_a_backup_s_moment_is_in_it(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    put(release, "a.txt", b"a")
    list_files, ends = media.Tree.list_files, []

    def slow(of: media.Tree) -> None:
        list_files(of)
        time.sleep(1.1)
        ends.append(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    monkeypatch.setattr(media.Tree, "list_files", slow)
    assert make(release, with_media=True)["time"] >= ends[0]


def test_unusual_file_names(release: Release) -> None:
    names = [b"new\nline", b"back\\slash", b"\\n", b"caf\xe9", "ü".encode(), b" space ", b"-rf", b"return\r"]
    for name in names:
        (release.root / "media" / os.fsdecode(name)).write_bytes(name)
    first = make(release, with_media=True)
    assert first["media"]["files"] == len(names)
    listing = first["media"]["listing"]["name"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", listing], cwd=release.backups, check=True)
    second = make(release, with_media=True)
    assert second["media"]["new_files"] == 0
    assert verify.verify(release.backups)["wrong"] == []
    for path in (release.root / "media").iterdir():
        path.unlink()
    manifest = second
    found = media.put_back(catalogue.Backup(release.backups, manifest["id"]), manifest, release.root / "media")
    assert found == len(names)
    assert {path.read_bytes() for path in (release.root / "media").iterdir()} == set(names)


def test_links_and_special_files_are_reported_and_not_followed(release: Release) -> None:
    put(release, "real.txt", b"x")
    (release.root / "secret").write_text("secret", encoding="utf-8")
    (release.root / "media" / "link").symlink_to(release.root / "secret")
    (release.root / "media" / "directory").symlink_to(release.root / "config")
    (release.root / "media" / "broken").symlink_to("nowhere")
    os.mkfifo(release.root / "media" / "pipe")
    found = make(release, with_media=True)["media"]
    assert (found["files"], found["skipped_total"]) == (1, 4)
    assert sorted(found["skipped"]) == ["broken", "directory", "link", "pipe"]


def test_files_that_vanish_after_the_copy_of_the_database_are_listed(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "deep/b.txt", "stays.txt"):
        put(release, name, b"x")
    examine = content.examine

    def meanwhile(database: Path) -> content.Content:
        (release.root / "media" / "a.txt").unlink()
        shutil.rmtree(release.root / "media" / "deep")
        # No row of the copy names this file; it is harmless.
        put(release, "new.txt", b"x")
        return examine(database)

    with monkeypatch.context() as patch:
        patch.setattr(content, "examine", meanwhile)
        found = make(release, with_media=True)["media"]
    assert (found["files"], found["vanished"], found["vanished_total"]) == (2, ["a.txt", "deep/b.txt"], 2)
    assert make(release, with_media=True)["media"]["vanished_total"] == 0


def test_a_file_that_vanishes_during_its_copy_leaves_nothing(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    put(release, "a.txt", b"x")
    put(release, "b.txt", b"x")
    copy = media._copy

    def vanishing(source: bytes, target: bytes) -> tuple[str, bool]:
        if source.endswith(b"a.txt"):
            Path(os.fsdecode(source)).unlink()
        return copy(source, target)

    monkeypatch.setattr(media, "_copy", vanishing)
    manifest = make(release, with_media=True)
    assert (manifest["media"]["files"], manifest["media"]["vanished"]) == (1, ["a.txt"])
    assert verify.verify(release.backups)["wrong"] == []


def test_a_file_that_changes_during_each_copy_is_reported(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(release, "growing.log", b"x")
    put(release, "quiet.txt", b"x")
    write = disk.Output.write

    def growing(output: disk.Output, data: bytes) -> int:
        with path.open("ab") as file:
            file.write(b"more")
        return write(output, data)

    with monkeypatch.context() as patch:
        patch.setattr(disk.Output, "write", growing)
        found = make(release, with_media=True)["media"]
    assert "growing.log" in found["changed"]
    assert verify.verify(release.backups)["wrong"] == []


def test_a_damaged_shared_file_is_copied_again(release: Release, capsys: pytest.CaptureFixture[str]) -> None:
    """Each backup rereads another part of the linked files; after SHARES backups all were reread."""
    # The second backup rereads part 1.
    name = next(name for name in (f"file{number}" for number in range(1000)) if share_of(name) == 1)
    put(release, name, b"some bytes")
    first = make(release, with_media=True)
    assert first["media"]["share"] == 0
    damage(tree(release, first)[name])
    second = make(release, with_media=True)
    assert (second["media"]["mended"], second["media"]["new_files"]) == ([name], 1)
    assert "1 media file(s) of earlier backups are damaged" in capsys.readouterr().err
    found = verify.verify(release.backups)
    assert (found["verified"], [wrong["id"] for wrong in found["wrong"]]) == ([second["id"]], [first["id"]])
    assert f"{name}: is damaged" in found["wrong"][0]["problem"]


def test_a_damaged_listing_is_not_used(release: Release) -> None:
    put(release, "a.txt", b"x")
    first = make(release, with_media=True)
    damage(release.backups / first["media"]["listing"]["name"])
    assert make(release, with_media=True)["media"]["new_files"] == 1


def test_an_extra_or_missing_file_is_found(release: Release) -> None:
    put(release, "a.txt", b"x")
    manifest = make(release, with_media=True)
    extra = release.backups / f"{manifest['id']}.media" / "extra"
    extra.touch()
    assert "has 2 files, but 1 are listed" in verify.verify(release.backups)["wrong"][0]["problem"]
    extra.unlink()
    assert verify.verify(release.backups)["wrong"] == []
    tree(release, manifest)["a.txt"].unlink()
    assert "a.txt: is missing" in verify.verify(release.backups)["wrong"][0]["problem"]


def test_a_copy_that_reads_back_differently_fails_the_backup(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    put(release, "a.txt", b"x")

    def forgetful(path: Path) -> None:
        damage(path / "a.txt")

    monkeypatch.setattr(media, "flush_all", forgetful)
    with pytest.raises(BackupError, match="the copy read back differs from what was written"):
        make(release, with_media=True)


def test_memory_does_not_grow_with_the_number_of_files(release: Release) -> None:
    root = release.root / "media"
    for number in range(40):
        (root / f"{number:02}").mkdir()
    for number in range(20000):
        (root / f"{number % 40:02}" / f"{'a-long-name-' * 8}{number}").touch()
    code = f"""
import re, sys
from pathlib import Path
sys.path.insert(0, {str(Path(media.__file__).parents[1])!r})
import hostwright.sqlite
from hostwright import media
from hostwright.catalogue import Backup
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
base = peak()
made = Path({str(release.root)!r}) / "made"
made.mkdir()
tree = media.Tree(Path({str(root)!r}), made)
tree.list_files()
found = tree.copy(Backup(made, "20200101T000000Z-r1"), made, None)
assert found["files"] == 20000
print((peak() - base) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 10, f"{result.stdout} MiB for 20 000 files"


def test_remains_of_a_killed_restore_are_not_backed_up_and_the_next_one_removes_them(release: Release) -> None:
    put(release, "deep/a.txt", b"aa")
    left = release.root / "media" / "deep" / ".hostwright-restore-x1"
    left.mkdir()
    (left / "file").write_bytes(b"a")
    manifest = make(release, with_media=True)
    assert (manifest["media"]["files"], manifest["media"]["skipped_total"]) == (1, 0)
    assert left.exists()
    (release.root / "media" / "deep" / "a.txt").unlink()
    backup = catalogue.Backup(release.backups, manifest["id"])
    assert media.put_back(backup, manifest, release.root / "media") == 1
    assert [path.name for path in (release.root / "media" / "deep").iterdir()] == ["a.txt"]
