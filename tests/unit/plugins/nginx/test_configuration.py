"""Nginx's configuration is written to its volume as a whole, and only after Nginx has accepted it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.nginx.configuration import (
    Change,
    ConfigurationRefusedError,
    change_of,
    check,
    reload,
    unread,
    write,
)

FILES = {"nginx.conf": "events {}\n", "sites/polls.conf": "server {\n    listen 80;\n    bad;\n}\n"}

Docker = Callable[[str], Engine]


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """Return a function that makes an Engine whose program is a shell script; it logs its calls."""

    def make(script: str) -> Engine:
        program = tmp_path / "docker"
        program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
        return Engine(str(program))

    return make


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "nginx"
    path.mkdir()
    return path


def calls(directory: Path) -> str:
    path = directory.parent / "calls"
    return path.read_text() if path.exists() else ""


def held(directory: Path) -> dict[str, str]:
    return {p.relative_to(directory).as_posix(): p.read_text() for p in directory.rglob("*") if p.is_file()}


def test_a_bare_host_gets_all_files(directory: Path) -> None:
    for place in (directory, directory / "nothing"):
        change = change_of(place, FILES)
        assert change == Change(dict.fromkeys(FILES), dict(FILES))
        assert change


def test_each_difference_is_a_change(directory: Path) -> None:
    write(directory, change_of(directory, FILES))
    assert not change_of(directory, FILES)
    (directory / "tls").mkdir()
    (directory / "tls" / "key.pem").write_text("private")
    assert not change_of(directory, FILES)
    (directory / "pages").mkdir()
    (directory / "pages" / "gone.html").write_text("old")
    changed = {"nginx.conf": "events { }\n", "sites/blog.conf": "new\n"}
    change = change_of(directory, changed)
    assert change.before == {"nginx.conf": "events {}\n", "pages/gone.html": "old", "sites/blog.conf": None}
    assert change.after == {"nginx.conf": "events { }\n", "pages/gone.html": None, "sites/blog.conf": "new\n"}
    write(directory, change)
    assert held(directory) == {
        **changed,
        "sites/polls.conf": FILES["sites/polls.conf"],  # it may belong to another inventory
        "tls/key.pem": "private",
        ".unread": "",
    }


def test_a_leftover_of_an_interrupted_run_is_a_change(directory: Path) -> None:
    write(directory, change_of(directory, FILES))
    (directory / "sites" / ".polls.conf.new").write_text("half")
    change = change_of(directory, FILES)
    assert change.after == {"sites/.polls.conf.new": None}
    write(directory, change)
    assert not change_of(directory, FILES)


def test_a_file_that_is_not_text_is_replaced(directory: Path) -> None:
    (directory / "nginx.conf").write_bytes(b"\xff\xfe")
    write(directory, change_of(directory, FILES))
    assert not change_of(directory, FILES)


def test_files_can_be_read_by_nginx_and_are_replaced_whole(directory: Path) -> None:
    write(directory, change_of(directory, FILES))
    old = (directory / "nginx.conf").open()
    write(directory, change_of(directory, {**FILES, "nginx.conf": "new"}))
    assert old.read() == "events {}\n"
    assert stat.S_IMODE((directory / "nginx.conf").stat().st_mode) == 0o644


def test_an_accepted_configuration(directory: Path, docker: Docker) -> None:
    check(docker("exit 0"), "hostwright-nginx:13", directory, FILES)
    words = calls(directory)
    for part in (
        "run --rm --network none --read-only",
        "hostwright-nginx:13 nginx -t",
        "--label hostwright=",
        "no-new-privileges",
    ):
        assert part in words
    assert held(directory) == {}
    assert list(directory.iterdir()) == []


def test_nginx_checks_the_new_files_together_with_the_existing_ones(directory: Path, docker: Docker) -> None:
    write(directory, change_of(directory, {"nginx.conf": "old", "sites/other.conf": "old"}))
    (directory / "tls").mkdir()
    (directory / "tls" / "key.pem").write_text("private")
    (directory / "dh.pem").write_text("parameters")
    (directory / "link").symlink_to("dh.pem")
    script = (
        'for word; do case "$word" in type=bind,source=*/.check-*) word=${word#type=bind,source=};'
        f" cd ${{word%%,*}} && find . | sort > {directory.parent}/seen;"
        f" cat nginx.conf >> {directory.parent}/seen; find . -perm 644 >> {directory.parent}/modes ;; esac; done"
    )
    check(docker(script), "nginx", directory, FILES)
    assert (directory.parent / "seen").read_text().split("\n") == [
        ".",
        "./dh.pem",
        "./link",
        "./nginx.conf",
        "./sites",
        "./sites/other.conf",
        "./sites/polls.conf",
        "./tls",
        "events {}",
        "",
    ]
    assert "./sites/polls.conf" in (directory.parent / "modes").read_text()
    mounted = calls(directory)
    assert f"type=bind,source={directory}/tls,target=/etc/hostwright/tls,readonly" in mounted
    assert f"type=bind,source={directory}/dh.pem,target=/etc/hostwright/dh.pem,readonly" in mounted
    assert "source=" + str(directory / "sites") not in mounted


def test_a_refused_configuration_shows_the_line_and_changes_nothing(directory: Path, docker: Docker) -> None:
    write(directory, change_of(directory, {"nginx.conf": "old"}))
    before = held(directory)
    engine = docker("echo 'nginx: [emerg] unknown directive \"bad\" in /etc/hostwright/sites/polls.conf:3' >&2; exit 1")
    with pytest.raises(ConfigurationRefusedError) as caught:
        check(engine, "nginx", directory, FILES)
    assert 'unknown directive "bad"' in str(caught.value)
    assert str(caught.value).endswith("line 3 of sites/polls.conf: bad;")
    assert held(directory) == before


@pytest.mark.parametrize(
    "said",
    ["host not found in upstream", "in /etc/hostwright/sites/polls.conf:99", "in /etc/hostwright/tls/x.pem:1", "a:0"],
)
def test_a_refusal_that_names_no_line_of_the_files_is_shown_unchanged(
    directory: Path, docker: Docker, said: str
) -> None:
    with pytest.raises(ConfigurationRefusedError) as caught:
        check(docker(f"echo '{said}'; exit 1"), "nginx", directory, FILES)
    assert str(caught.value) == said


def test_a_domain_of_another_site_is_refused_though_nginx_only_warns(directory: Path, docker: Docker) -> None:
    said = 'nginx: [warn] conflicting server name "localhost" on 0.0.0.0:8080, ignored'
    with pytest.raises(ConfigurationRefusedError, match="conflicting server name"):
        check(docker(f"echo '{said}' >&2"), "nginx", directory, FILES)


def test_a_check_that_cannot_run_is_not_a_refusal(directory: Path) -> None:
    with pytest.raises(EngineError):
        check(Engine("/nowhere/docker"), "nginx", directory, FILES)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("running", [True, False])
def test_a_running_nginx_is_reloaded(directory: Path, docker: Docker, running: bool) -> None:
    write(directory, change_of(directory, FILES))
    assert unread(directory)
    state = json.dumps([{"State": {"Running": running}}])
    reload(docker(f"echo '{state}'"), "nginx", "hostwright-nginx", directory)
    assert ("exec hostwright-nginx nginx -c /etc/hostwright/nginx.conf -s reload" in calls(directory)) == running
    assert not unread(directory)


def refusing(docker: Docker, running: str, wanted: str) -> Engine:
    """Return an Engine in which the reload of a container fails; its image is ``running``, the new one ``wanted``."""
    container = json.dumps([{"State": {"Running": True}, "Image": running}])
    image = json.dumps([{"Id": wanted, "RootFS": {"Layers": []}, "Size": 1, "Architecture": "amd64", "Config": {}}])
    return docker(f"case $1 in exec) exit 1;; container) echo '{container}';; image) echo '{image}';; esac")


def test_a_failed_reload_stays_pending_for_the_next_run(directory: Path, docker: Docker) -> None:
    write(directory, change_of(directory, FILES))
    with pytest.raises(EngineError):
        reload(refusing(docker, "sha256:1", "sha256:1"), "nginx", "hostwright-nginx", directory)
    assert not change_of(directory, FILES)
    assert unread(directory)


def test_a_failed_reload_of_a_container_of_the_old_image_is_ignored(directory: Path, docker: Docker) -> None:
    write(directory, change_of(directory, FILES))
    reload(refusing(docker, "sha256:1", "sha256:2"), "nginx", "hostwright-nginx", directory)
    assert not unread(directory)
