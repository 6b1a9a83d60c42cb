"""Layers built from the difference between two file systems, with real archives."""

from __future__ import annotations

import dataclasses
import io
import platform
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.image import bootstrap
from ansible_collections.hostwright.django.plugins.module_utils.image.bootstrap import Base, layer_difference
from hypothesis import given, settings
from hypothesis import strategies as st

Tree = dict[str, Any]  # path: text, or (text, mode), or "-> target", or "=> hard link", or None for a directory


def archive(tree: Tree, mtime: float = 1, prefix: str = "./") -> io.BytesIO:
    """Pack a tree into a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in tree.items():
            content, mode = value if isinstance(value, tuple) else (value, None)
            member = tarfile.TarInfo(prefix + name)
            member.mtime = mtime
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, mode or 0o755
            elif content.startswith("-> "):
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, content[3:], 0o777
            elif content.startswith("=> "):
                member.type, member.linkname, member.mode = tarfile.LNKTYPE, prefix + content[3:], mode or 0o644
            else:
                member.size, member.mode = len(content.encode()), mode or 0o644
            tar.addfile(member, io.BytesIO(content.encode()) if member.isreg() else None)
    out.seek(0)
    return out


def difference(lower: Tree | None, upper: Tree, **options: Any) -> tarfile.TarFile:
    """Return the layer between two trees; the lower one is packed like ``docker export`` does, with another time."""
    out = io.BytesIO()
    below = archive(lower, mtime=2.5, prefix="") if lower is not None else None
    written = layer_difference(below, archive(upper, **options), out)
    out.seek(0)
    layer = tarfile.open(fileobj=out)  # noqa: SIM115
    assert len(layer.getmembers()) == written
    return layer


def names(layer: tarfile.TarFile) -> list[str]:
    return [member.name for member in layer]


def extracted(directory: Path, *layers: io.BytesIO | tarfile.TarFile) -> dict[str, tuple[str, int]]:
    """Extract archives over each other; return the text or link target, and the mode, by path."""
    directory.mkdir()
    for layer in layers:
        tar = layer if isinstance(layer, tarfile.TarFile) else tarfile.open(fileobj=layer)  # noqa: SIM115
        # As an attribute: the argument of `extract` came with Python 3.11.4, Debian 12 has 3.11.2.
        tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        for member in tar:
            path = directory / member.name
            if path.is_symlink() or (path.exists() and not (path.is_dir() and member.isdir())):
                path.unlink()
            tar.extract(member, directory, set_attrs=not member.issym())
    found = {}
    for path in sorted(directory.rglob("*")):
        text = f"-> {path.readlink()}" if path.is_symlink() else path.read_text() if path.is_file() else "directory"
        found[path.relative_to(directory).as_posix()] = (text, stat.S_IMODE(path.lstat().st_mode))
    return found


LOWER: Tree = {"usr": None, "usr/bin": None, "usr/bin/sh": ("shell", 0o755), "usr/lib": "-> lib64", "etc": None}


def test_an_equal_tree_with_other_times_gives_an_empty_layer() -> None:
    assert names(difference(LOWER, LOWER, mtime=99)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("usr/bin/sh", ("shell", 0o700)),
        ("usr/bin/sh", ("shell", 0o4755)),
        ("usr/bin/sh", ("other", 0o755)),
        ("usr/bin/sh", "-> bash"),
        ("usr/lib", "-> lib32"),
        ("usr/bin", (None, 0o700)),
        ("new", "file"),
        ("empty", ""),
    ],
)
def test_only_changed_files_are_in_the_layer(name: str, value: Any) -> None:
    layer = difference(LOWER, {**LOWER, name: value})
    assert names(layer) == [f"./{name}"]


def test_another_owner_is_a_change() -> None:
    upper = archive({"a": "text"})
    packed = io.BytesIO()
    with tarfile.open(fileobj=upper) as old, tarfile.open(fileobj=packed, mode="w") as new:
        for member in old:
            member.uid = 33
            new.addfile(member, old.extractfile(member))
    packed.seek(0)
    out = io.BytesIO()
    assert layer_difference(archive({"a": "text"}), packed, out) == 1
    out.seek(0)
    assert tarfile.open(fileobj=out).getmembers()[0].uid == 33  # noqa: SIM115


def test_a_hard_link_to_a_file_of_the_lower_layer_becomes_a_file() -> None:
    layer = difference({"perl": ("code", 0o755)}, {"perl": ("code", 0o755), "perl5": ("=> perl", 0o755)})
    [member] = layer.getmembers()
    assert (member.name, member.type, member.linkname, member.size) == ("./perl5", tarfile.REGTYPE, "", 4)
    content = layer.extractfile(member)
    assert content is not None
    assert content.read() == b"code"


def test_hard_links_with_long_names_keep_them() -> None:
    long = "d/" * 60 + "file"
    layer = difference({}, {long: "text", long + "2": f"=> {long}"})
    assert names(layer) == [f"./{long}", f"./{long}2"]
    for member in layer:
        assert (member.type, member.linkname) == (tarfile.REGTYPE, "")
        content = layer.extractfile(member)
        assert content is not None
        assert content.read() == b"text"


def test_a_file_that_is_a_hard_link_in_the_lower_layer_is_no_change() -> None:
    assert names(difference({"a": "x", "b": "=> a"}, {"b": "x", "a": "=> b"})) == []


def test_logs_caches_translations_and_manuals_are_left_out() -> None:
    upper: Tree = {
        "dev": None,
        "dev/null": "",
        "var/log/x": "",
        "var/cache/x": "",
        "usr/share/man/x": "",
        "usr/share/locale/de": "",
        "usr/share/info/x": "",
        "usr/share/doc/x/changelog": "",
        "usr/share/doc/x/copyright": "",
        "usr/share/zoneinfo": "",
        "device": "",
    }
    assert names(difference(None, upper)) == [
        "./dev",
        "./usr/share/doc/x/copyright",
        "./usr/share/zoneinfo",
        "./device",
    ]


def test_the_root_itself_is_left_out() -> None:
    assert names(difference(None, {"": None, "a": ""}, prefix="./")) == ["./a"]


def test_extended_attributes_survive() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("./ping")
        member.pax_headers = {"SCHILY.xattr.security.capability": "capability"}
        tar.addfile(member)
    packed.seek(0)
    out = io.BytesIO()
    layer_difference(None, packed, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as layer:
        assert layer.getmember("./ping").pax_headers["SCHILY.xattr.security.capability"] == "capability"


def test_the_lower_layer_and_the_difference_are_the_upper_tree(tmp_path: Path) -> None:
    lower = {**LOWER, "same": "s", "link": "text", "tool": ("t", 0o755), "was-link": "-> same"}
    upper = {**lower, "same2": "=> same", "link": "-> same", "tool": ("t2", 0o755), "was-link": "now text", "d": None}
    upper |= {"d/new": ("n", 0o600), "etc": (None, 0o700)}
    both = extracted(tmp_path / "both", archive(lower), difference(lower, upper))
    assert both == extracted(tmp_path / "upper", archive(upper))


files = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "e"]),
    st.tuples(st.sampled_from(["", "x", "yy", "-> a", "-> b"]), st.sampled_from([0o644, 0o755, 0o600])),
)


@given(lower=files, more=files)
@settings(max_examples=40, deadline=None)
def test_both_layers_give_any_upper_tree(tmp_path_factory: pytest.TempPathFactory, lower: Tree, more: Tree) -> None:
    upper = {**lower, **more}
    directory = tmp_path_factory.mktemp("trees")
    both = extracted(directory / "both", archive(lower), difference(lower, upper))
    assert both == extracted(directory / "upper", archive(upper))


BASE = Base("13", ("python3", "ca-certificates"))


def test_the_key_is_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert BASE.key == "01a800fc8941"
    assert BASE.tag == "hostwright-base:01a800fc8941"


def test_the_key_does_not_depend_on_order_repetition_or_mirror() -> None:
    packages = ("ca-certificates", "python3", "python3")
    assert Base("13", packages, mirror="http://mirror.example.org/debian").key == BASE.key


@pytest.mark.parametrize("change", [{"debian": "12"}, {"packages": ("python3",)}, {"serial": 2}])
def test_the_key_depends_on_the_content(change: dict[str, Any]) -> None:
    assert dataclasses.replace(BASE, **change).key != BASE.key


def test_the_key_depends_on_the_machine_and_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {BASE.key}
    monkeypatch.setattr(platform, "machine", lambda: "sparc")
    keys.add(BASE.key)
    monkeypatch.setattr(bootstrap, "RECIPE", 99)
    keys.add(BASE.key)
    assert len(keys) == 3


def test_the_error_without_mmdebstrap_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(bootstrap.BootstrapError, match="apt-get install mmdebstrap"):
        bootstrap._mmdebstrap(BASE, tmp_path / "full.tar")


def test_a_failed_bootstrap_shows_its_last_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\necho 'E: no such package' >&2\nexit 25\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(bootstrap.BootstrapError, match=r"(?s)Debian 13 .*E: no such package"):
        bootstrap._mmdebstrap(BASE, tmp_path / "full.tar")
