"""The Engine's configuration: merged, checked and applied, on a pretended Engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.host.docker_daemon import (
    NOTHING,
    RELOAD,
    RESTART,
    Daemon,
    action_for,
    changed_keys,
    merge,
    parse,
    without_credentials,
)
from ansible_collections.hostwright.django.plugins.module_utils.host.problems import ProblemError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import NOT_FOUND, Answer
from hypothesis import given
from hypothesis import strategies as st

OK = Answer(0)
FAILED = Answer(1, stderr="it failed")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(max_size=3), json_values, max_size=4)


class Engine:
    """A pretended Engine: runs or not, validates or not, accepts the options that it knows."""

    def __init__(self, path: Path, *, unit: str = "active", validates: bool = True) -> None:
        self.path = path
        self.unit = unit
        self.validates = validates
        self.answers = unit == "active"
        self.containers: dict[str, str] = {}
        self.live_restore = False
        self.known = {"debug", "live-restore", "log-level", "log-opts", "labels"}
        self.broken = False
        self.calls: list[str] = []
        self.events = 0
        self.notes: list[str] = []

    def _good(self, path: Path) -> bool:
        try:
            return not self.broken and set(json.loads(path.read_text())) <= self.known
        except (OSError, json.JSONDecodeError):
            return not self.broken

    def __call__(self, command: Sequence[str]) -> Answer:
        line = " ".join(command)
        self.calls.append(line)
        if line.startswith("systemctl is-active"):
            return OK if self.unit == "active" else Answer(3)
        if line.startswith("docker version"):
            return OK if self.answers else FAILED
        if line.startswith("dockerd --validate"):
            if not self.validates:
                return Answer(125, stderr="unknown flag: --validate")
            return OK if self._good(Path(command[-1])) else Answer(1, stderr=f"directives in {command[-1]}: nonsense")
        if line.startswith("docker ps"):
            return Answer(0, "".join(f"{name}\t{label}\n" for name, label in self.containers.items()))
        if line.startswith("docker info"):
            return Answer(0, str(self.live_restore).lower())
        if line.startswith(("systemctl reload", "systemctl restart")):
            note = self.path.resolve().parent / ".daemon.json.hostwright-pending"
            self.notes.append(note.read_text().strip())
        if line.startswith("systemctl reload"):
            self.events = int(self._good(self.path))
            return OK
        if line.startswith("systemctl restart"):
            self.answers = self._good(self.path)
            return OK if self.answers else Answer(1, stderr="Job for docker.service failed")
        if line.startswith("docker events"):
            return Answer(0, "event\n" * self.events)
        if line.startswith("journalctl"):
            return Answer(0, 'Starting it\nlevel=info msg="unable to be bored"\nunable to configure: nonsense\n')
        return OK

    def count(self, start: str) -> int:
        """Number of commands with that beginning."""
        return sum(call.startswith(start) for call in self.calls)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of the configuration."""
    return tmp_path / "docker" / "daemon.json"


def put(path: Path, text: str) -> None:
    """Write a configuration that exists beforehand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def configure(
    engine: Engine, options: dict[str, Any], restart: str = "auto", *, check: bool = False
) -> tuple[bool, str]:
    """Run the transaction; return whether something changed, and the action."""
    outcome = Daemon(engine.path, engine, patience=0.3).configure(options, restart, check)
    return outcome.changed, outcome.action


class TestParse:
    @pytest.mark.parametrize("text", ["", " \n", "{}"])
    def test_nothing(self, text: str) -> None:
        assert parse(text, Path("/etc/docker/daemon.json")) == {}

    def test_invalid_json_names_file_line_and_column(self) -> None:
        with pytest.raises(ProblemError) as caught:
            parse('{\n  "debug": true,\n  "labels" 1\n}\n', Path("/etc/docker/daemon.json"))
        assert caught.value.problem.where == '/etc/docker/daemon.json, line 3, column 12: "labels" 1'
        assert "not changed" in caught.value.problem.do

    @pytest.mark.parametrize("text", ["[]", "1", '"x"', '{"a": NaN}', '{"a": 1}{', "{'a': 1}", '{"a": 1,}', "{"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(ProblemError):
            parse(text, Path("/etc/docker/daemon.json"))

    @given(st.text(max_size=20))
    def test_any_text_is_an_object_or_a_problem(self, text: str) -> None:
        try:
            assert isinstance(parse(text, Path("x")), dict)
        except ProblemError as error:
            assert error.problem.where.startswith("x")


class TestMerge:
    def test_dictionaries_merge_lists_replace_null_removes(self) -> None:
        before = {"log-opts": {"max-file": "3", "tag": "t"}, "labels": ["a", "b"], "debug": True, "foreign": {"k": 1}}
        merged = merge(before, {"log-opts": {"max-size": "10m", "tag": None}, "labels": ["c"], "debug": None})
        assert merged == {"log-opts": {"max-file": "3", "max-size": "10m"}, "labels": ["c"], "foreign": {"k": 1}}

    @given(json_objects, json_objects)
    def test_again_changes_nothing(self, before: dict[str, Any], options: dict[str, Any]) -> None:
        once = merge(before, options)
        assert changed_keys(once, merge(once, options)) == ()
        assert action_for(once, merge(once, options)) == NOTHING

    @given(json_objects, json_objects)
    def test_other_keys_stay(self, before: dict[str, Any], options: dict[str, Any]) -> None:
        merged = merge(before, options)
        assert {key: merged[key] for key in before if key not in options} == {
            key: value for key, value in before.items() if key not in options
        }

    @given(json_objects, json_objects)
    def test_the_arguments_are_not_modified(self, before: dict[str, Any], options: dict[str, Any]) -> None:
        copy = json.loads(json.dumps(before))
        merge(before, options)
        assert before == copy


class TestAction:
    @pytest.mark.parametrize(
        ("before", "after", "action"),
        [
            ({}, {}, NOTHING),
            ({}, {"debug": True}, RELOAD),
            ({"debug": 1}, {"debug": True}, RELOAD),
            ({"debug": True}, {}, RESTART),
            ({"max-concurrent-downloads": 1}, {}, RELOAD),
            ({}, {"live-restore": True, "labels": ["a"]}, RELOAD),
            ({}, {"live-restore": True, "log-level": "warn"}, RESTART),
            ({}, {"features": {"buildkit": True}}, RELOAD),
            (
                {"features": {"buildkit": True}},
                {"features": {"buildkit": True, "containerd-snapshotter": True}},
                RESTART,
            ),
            ({}, {"features": "x"}, RESTART),
            ({}, {"data-root": "/mnt"}, RESTART),
        ],
    )
    def test_reload_where_it_suffices(self, before: dict[str, Any], after: dict[str, Any], action: str) -> None:
        assert action_for(before, after) == action


class TestConfigure:
    def test_new_file_is_written_readable_and_reloaded(self, path: Path) -> None:
        engine = Engine(path)
        assert configure(engine, {"debug": True}) == (True, RELOAD)
        assert json.loads(path.read_text()) == {"debug": True}
        assert path.stat().st_mode & 0o777 == 0o644
        assert engine.notes == [RELOAD]
        assert [entry.name for entry in path.parent.iterdir()] == ["daemon.json"]

    def test_a_second_run_changes_nothing(self, path: Path) -> None:
        put(path, '{"debug":true,  "labels": ["x"]}')
        engine = Engine(path)
        assert configure(engine, {"debug": True}) == (False, NOTHING)
        assert path.read_text() == '{"debug":true,  "labels": ["x"]}'
        assert engine.calls == []

    def test_check_mode_writes_nothing(self, path: Path) -> None:
        engine = Engine(path)
        assert configure(engine, {"log-level": "warn"}, check=True) == (True, RESTART)
        assert not path.parent.exists()
        assert engine.count("systemctl re") == 0

    def test_owner_and_mode_are_kept_and_a_link_is_followed(self, path: Path, tmp_path: Path) -> None:
        real = tmp_path / "elsewhere.json"
        put(real, "{}")
        real.chmod(0o640)
        path.parent.mkdir()
        path.symlink_to(real)
        configure(Engine(path), {"debug": True})
        assert path.is_symlink()
        assert json.loads(real.read_text()) == {"debug": True}
        assert real.stat().st_mode & 0o777 == 0o640

    def test_invalid_file_is_not_changed(self, path: Path) -> None:
        put(path, "{oops")
        engine = Engine(path)
        with pytest.raises(ProblemError, match="not valid JSON"):
            configure(engine, {"debug": True})
        assert path.read_text() == "{oops"
        assert engine.calls == []

    def test_binary_file_is_refused(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b'{"a": "\xff"}')
        with pytest.raises(ProblemError, match="not UTF-8"):
            configure(Engine(path), {"debug": True})

    def test_options_that_the_engine_refuses_are_not_written(self, path: Path) -> None:
        put(path, "{}")
        with pytest.raises(ProblemError) as caught:
            configure(Engine(path), {"nonsense": 1})
        assert caught.value.problem.where == f"directives in {path}: nonsense"
        assert path.read_text() == "{}"

    def test_foreign_container_forbids_a_restart(self, path: Path) -> None:
        put(path, "{}")
        engine = Engine(path)
        engine.containers = {"polls-7": "release", "stranger": ""}
        for check in (True, False):
            with pytest.raises(ProblemError) as caught:
                configure(engine, {"log-level": "warn"}, check=check)
            assert caught.value.problem.where.startswith("stranger: they would stop")
            assert "docker_restart: always" in caught.value.problem.do
        assert path.read_text() == "{}"
        assert engine.count("systemctl restart") == 0

    def test_foreign_container_with_live_restore_would_keep_running(self, path: Path) -> None:
        engine = Engine(path)
        engine.containers = {"stranger": ""}
        engine.live_restore = True
        with pytest.raises(ProblemError, match="would keep running"):
            configure(engine, {"log-level": "warn"})

    def test_foreign_container_does_not_forbid_a_reload(self, path: Path) -> None:
        engine = Engine(path)
        engine.containers = {"stranger": ""}
        assert configure(engine, {"debug": True}) == (True, RELOAD)

    @pytest.mark.parametrize(
        ("containers", "restart"), [({"polls-7": "release"}, "auto"), ({"stranger": ""}, "always")]
    )
    def test_restart_where_it_is_permitted(self, path: Path, containers: dict[str, str], restart: str) -> None:
        engine = Engine(path)
        engine.containers = containers
        assert configure(engine, {"log-level": "warn"}, restart) == (True, RESTART)
        assert engine.count("systemctl restart") == 1

    @pytest.mark.parametrize("options", [{"debug": True, "nonsense": 1}, {"live-restore": True}])
    @pytest.mark.parametrize("before", [None, '{"labels": ["a"]}\n'])
    def test_old_engine_that_rejects_it_gets_the_previous_file_back(
        self, path: Path, options: dict[str, Any], before: str | None
    ) -> None:
        if before is not None:
            put(path, before)
        engine = Engine(path, validates=False)
        engine.known = {"labels"}
        with pytest.raises(ProblemError) as caught:
            configure(engine, options)
        assert caught.value.problem.where == "unable to configure: nonsense"
        assert "the Engine runs with it" in caught.value.problem.do
        assert (path.read_text() if path.exists() else None) == before
        assert not (path.parent / ".daemon.json.hostwright-pending").exists()
        assert engine.answers

    def test_engine_that_does_not_start_again_is_reported(self, path: Path) -> None:
        put(path, "{}")
        engine = Engine(path, validates=False)
        engine.broken = True
        with pytest.raises(ProblemError, match="does not start with it either"):
            configure(engine, {"log-level": "warn"})
        assert path.read_text() == "{}"

    def test_interrupted_run_is_finished_by_the_next(self, path: Path) -> None:
        class KilledError(Exception):
            pass

        class Killed(Engine):
            def __call__(self, command: Sequence[str]) -> Answer:
                if " ".join(command).startswith("systemctl restart"):
                    raise KilledError
                return super().__call__(command)

        with pytest.raises(KilledError):
            configure(Killed(path), {"log-level": "warn"})
        assert json.loads(path.read_text()) == {"log-level": "warn"}
        engine = Engine(path)
        assert configure(engine, {"log-level": "warn"}, check=True) == (True, RESTART)
        assert configure(engine, {"log-level": "warn"}) == (True, RESTART)
        assert engine.count("systemctl restart") == 1
        assert configure(engine, {"log-level": "warn"}) == (False, NOTHING)

    def test_engine_that_does_not_run_reads_the_file_when_it_starts(self, path: Path) -> None:
        engine = Engine(path, unit="inactive")
        assert configure(engine, {"log-level": "warn"}) == (True, NOTHING)
        assert engine.count("systemctl re") == 0

    def test_engine_of_another_kind_is_left_alone(self, path: Path) -> None:
        engine = Engine(path, unit="inactive")
        engine.answers = True
        with pytest.raises(ProblemError, match="not run by systemd"):
            configure(engine, {"log-level": "warn"})
        assert not path.exists()

    def test_missing_dockerd_validates_nothing(self, path: Path) -> None:
        engine = Engine(path, unit="inactive")
        engine_call = engine.__call__

        def without_dockerd(command: Sequence[str]) -> Answer:
            return Answer(NOT_FOUND) if command[0] == "dockerd" else engine_call(command)

        outcome = Daemon(path, without_dockerd).configure({"nonsense": 1}, "auto", check=False)
        assert outcome.changed


def test_credentials_in_urls_are_masked() -> None:
    text = '{"proxies": {"https-proxy": "http://user:pass@proxy:3128", "no-proxy": "a@b"}}'
    shown = '{"proxies": {"https-proxy": "http://********@proxy:3128", "no-proxy": "a@b"}}'
    assert without_credentials(text) == shown
