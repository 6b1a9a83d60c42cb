"""The Docker Engine's configuration file: merged, validated, written and applied as one transaction.

The order is: make every decision and refuse invalid input; record the pending action in a file beside the
configuration; replace the configuration by a rename; reload or restart; verify that the Engine applied it; remove the
record. If the Engine does not apply it, the previous configuration is restored. An interrupted run leaves the record,
so that the next run finishes the work.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .files import write_durably
from .problems import Problem, ProblemError
from .process import NOT_FOUND, Answer, Runner

LABEL = "hostwright"
UNIT = "docker.service"
NOTE = ".daemon.json.hostwright-pending"

NOTHING, RELOAD, RESTART = "none", "reload", "restart"

# The options that a running Engine reloads on SIGHUP, by https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior
# and moby's daemon/reload.go: the first group whether the key is set or removed, the second only when it is set (a
# removed key keeps its value there until a restart).
RELOADED_ALWAYS = frozenset({"max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts"})
RELOADED_WHEN_SET = frozenset(
    {
        "debug",
        "default-runtime",
        "insecure-registries",
        "labels",
        "live-restore",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)
# The only feature that is reloaded; containerd-snapshotter, for example, is read at the start only.
RELOADED_FEATURES = frozenset({"buildkit"})

EVENTS = ("docker", "events", "--filter", "type=daemon", "--filter", "event=reload")
# Log lines that explain why the Engine rejects a configuration, and routine lines that do not.
CAUSE = re.compile(r"level=(error|fatal)|unable to|failed to|invalid|cannot ", re.IGNORECASE)
ROUTINE = re.compile(
    r"level=(debug|info|warning)|^docker\.service|^(Starting|Started|Stopping|Stopped|Failed to start) "
)

Options = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The change that was made, or in check mode would be made, to the configuration."""

    changed: bool
    action: str
    keys: tuple[str, ...]
    before: str
    after: str
    configuration: Options


def parse(text: str, path: Path) -> Options:
    """The options in a configuration file's text; an empty file has none.

    Raises:
        ProblemError: the text is not JSON, or not an object.
    """

    def refuse(what: str, where: str) -> NoReturn:
        raise ProblemError(
            Problem(
                what,
                where,
                f"correct the file ('python3 -m json.tool {path}' shows the place) or move it away, then run again; "
                "it was not changed",
            )
        )

    def constant(name: str) -> NoReturn:
        refuse(f"the Docker Engine's configuration is not valid JSON: {name} is not a JSON value", str(path))

    if not text.strip():
        return {}
    try:
        options = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1].strip()
        refuse(
            f"the Docker Engine's configuration is not valid JSON: {error.msg}",
            f"{path}, line {error.lineno}, column {error.colno}" + (f": {line[:120]}" if line else ""),
        )
    if not isinstance(options, dict):
        refuse(f"the Docker Engine's configuration is not a JSON object but {type(options).__name__}", str(path))
    return options


def read(path: Path) -> str:
    """The configuration file's text; empty if the file does not exist.

    Raises:
        ProblemError: the file is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ProblemError(
            Problem(
                "the Docker Engine's configuration is not valid JSON: it is not UTF-8 text",
                f"{path}, byte {error.start + 1}",
                "correct the file or move it away, then run again; it was not changed",
            )
        ) from error


def merge(existing: Mapping[str, Any], options: Mapping[str, Any]) -> Options:
    """Merge ``options`` into a copy of ``existing``, as JSON Merge Patch (RFC 7396) defines it.

    Objects merge key by key at any depth, a null removes the key, anything else (lists too) replaces.
    """
    merged = dict(existing)
    for key, value in options.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """The top-level keys whose values differ, sorted."""
    return tuple(
        sorted(
            key
            for key in {*before, *after}
            if (key in before) != (key in after) or not same(before.get(key), after.get(key))
        )
    )


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; unlike with ``==``, true and 1 differ."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def action_for(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The action that makes a running Engine apply the change: ``none``, ``reload`` or ``restart``."""
    keys = changed_keys(before, after)
    if not keys:
        return NOTHING
    return RELOAD if all(_reloadable(key, before, after) for key in keys) else RESTART


def _reloadable(key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if key == "features":
        features = [side.get(key) or {} for side in (before, after)]
        if not all(isinstance(side, Mapping) for side in features):
            return False
        return set(changed_keys(*features)) <= RELOADED_FEATURES
    return key in RELOADED_ALWAYS or (key in RELOADED_WHEN_SET and key in after)


def without_credentials(text: str) -> str:
    """The text with the credentials in every URL masked (URLs of proxies contain passwords)."""
    return re.sub(r"://[^/\s\"@]+@", "://********@", text)


class Daemon:
    """The Engine on this host: its configuration file, and the programs that control it."""

    def __init__(self, path: Path, run: Runner, patience: float = 10, now: Callable[[], float] = time.time) -> None:
        """Set the configuration file.

        Args:
            path: the configuration file.
            run: runs a program.
            patience: seconds within which the Engine must report a reload.
            now: the clock, in seconds since the epoch.
        """
        self.path = Path(os.path.realpath(path))
        self.run = run
        self.patience = patience
        self.now = now

    @property
    def note(self) -> Path:
        """The file that records the action that is still pending after an interrupted run."""
        return self.path.parent / NOTE

    def configure(self, options: Mapping[str, Any], restart: str, check: bool) -> Outcome:
        """Merge ``options`` into the configuration and apply it.

        Args:
            options: the options to merge into the present configuration.
            restart: ``auto`` (only while no foreign container runs) or ``always``.
            check: make every decision and every check, but change nothing.

        Raises:
            ProblemError: the change is refused or failed; the configuration is as before.
        """
        text = read(self.path)
        before = parse(text, self.path)
        after = merge(before, options)
        keys = changed_keys(before, after)
        wanted = max(action_for(before, after), self._pending(), key=(NOTHING, RELOAD, RESTART).index)
        if wanted == NOTHING:
            return Outcome(False, NOTHING, (), text, text, before)

        action = self._possible(wanted)
        new = json.dumps(after, indent=2, ensure_ascii=False) + "\n" if keys else text
        if keys:
            self._validate(new)
        if action == RESTART and restart == "auto":
            self._refuse_foreign(keys)
        if not check:
            self._commit(text, new, action)
        return Outcome(True, action, keys, text, new, after)

    def foreign(self) -> tuple[str, ...]:
        """The names of the running containers that do not belong to Hostwright.

        Raises:
            ProblemError: the Engine cannot list its containers.
        """
        listed = self.run(["docker", "ps", "--format", f'{{{{.Names}}}}\t{{{{.Label "{LABEL}"}}}}'])
        if not listed.ok:
            raise ProblemError(
                Problem(
                    "the Docker Engine runs but cannot list its containers",
                    listed.said or "docker ps",
                    "see 'systemctl status docker' and 'journalctl -u docker', then run again",
                )
            )
        rows = (line.split("\t") for line in listed.stdout.splitlines() if line)
        return tuple(sorted(row[0] for row in rows if len(row) < 2 or not row[1].strip()))

    def _pending(self) -> str:
        """The action that an interrupted run left; a restart if the record is unreadable."""
        try:
            action = self.note.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return NOTHING
        return action if action in (RELOAD, RESTART) else RESTART

    def _possible(self, wanted: str) -> str:
        """The wanted action, or none for a stopped Engine, which reads the file when it starts.

        Raises:
            ProblemError: an Engine answers that systemd does not run.
        """
        if self.run(["systemctl", "is-active", "--quiet", UNIT]).ok:
            return wanted
        if not self.run(["docker", "version", "--format", "{{.Server.Version}}"]).ok:
            return NOTHING
        raise ProblemError(
            Problem(
                f"the Docker Engine that answers here is not run by systemd's {UNIT}, so its options cannot be changed",
                str(self.path),
                "change them where this Engine is started, and leave docker_daemon_options empty for this host",
            )
        )

    def _validate(self, text: str) -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".json") as candidate:
            candidate.write(text)
            candidate.flush()
            answer = self.run(["dockerd", "--validate", "--config-file", candidate.name])
        if answer.ok or answer.status == NOT_FOUND or "unknown flag" in answer.said:
            return
        raise ProblemError(
            Problem(
                "the Docker Engine refuses these options",
                answer.said.replace(candidate.name, str(self.path)),
                "correct docker_daemon_options; the configuration was not changed",
            )
        )

    def _refuse_foreign(self, keys: Sequence[str]) -> None:
        foreign = self.foreign()
        if not foreign:
            return
        live = self.run(["docker", "info", "--format", "{{.LiveRestoreEnabled}}"]).stdout.strip() == "true"
        effect = (
            "they would keep running (live-restore is on), but Docker could not manage them during the restart"
            if live
            else "they would stop, and only those with a restart policy would start again"
        )
        change = f"change of {', '.join(keys)}" if keys else "change that an earlier run has written"
        raise ProblemError(
            Problem(
                f"the {change} needs a restart of the Docker Engine, which runs containers that are not Hostwright's",
                f"{', '.join(foreign)}: {effect}",
                "stop them, or set docker_restart: always to permit the restart; nothing was changed",
            )
        )

    def _commit(self, old: str, new: str, action: str) -> None:
        existed = self.path.exists()
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if action != NOTHING:
            replace(self.note, action + "\n")
        if new != old:
            replace(self.path, new)
        failure = self._apply(action)
        if failure is None:
            self.note.unlink(missing_ok=True)
            return
        if existed:
            replace(self.path, old)
        else:
            self.path.unlink(missing_ok=True)
        failure_again = self._reload() if action == RELOAD and self._answers() else self._apply(RESTART)
        if failure_again is None:
            self.note.unlink(missing_ok=True)
            state = "and the Engine runs with it"
        else:
            state = f"but the Engine does not start with it either: {failure_again}"
        raise ProblemError(
            Problem(
                f"the Docker Engine did not apply its new options ({action})",
                failure,
                f"correct them; the previous configuration was restored, {state}",
            )
        )

    def _apply(self, action: str) -> str | None:
        """Make the Engine read its configuration; return the failure, or None."""
        if action == RELOAD:
            return self._reload()
        if action == RESTART:
            since = self.now()
            self.run(["systemctl", "reset-failed", UNIT, "docker.socket"])
            done = self.run(["systemctl", "restart", UNIT])
            return None if done.ok and self._answers() else self._log(since, done)
        return None

    def _reload(self) -> str | None:
        """Reload, and wait for the event that the Engine sends after it; return the failure, or None."""
        since = self.now()
        done = self.run(["systemctl", "reload", UNIT])
        if not done.ok:
            return self._log(since, done)
        while self.now() < since + self.patience:
            events = self.run([*EVENTS, "--since", f"{since:.6f}", "--until", f"{self.now():.6f}"])
            if events.ok and events.stdout.strip():
                return None
            time.sleep(0.1)
        return self._log(since, Answer(1, stderr=f"the Engine reported no reload within {self.patience:.0f} s"))

    def _answers(self) -> bool:
        return self.run(["docker", "version", "--format", "{{.Server.Version}}"]).ok

    def _log(self, since: float, failed: Answer) -> str:
        """The reason of a failure: the Engine's log lines since then, else the failed program's output."""
        journal = self.run(["journalctl", "--unit", UNIT, "--since", f"@{int(since)}", "--output", "cat", "--no-pager"])
        causes = [line for line in journal.stdout.splitlines() if CAUSE.search(line) and not ROUTINE.search(line)]
        return without_credentials("\n".join(causes[-5:]) or failed.said)


def replace(path: Path, text: str) -> None:
    """Replace a file atomically and durably, keeping its owner and mode; a new file gets mode 0644."""
    try:
        former = path.stat()
    except FileNotFoundError:
        write_durably(path, text, 0o644, os.geteuid(), os.getegid())
    else:
        write_durably(path, text, former.st_mode & 0o7777, former.st_uid, former.st_gid)
