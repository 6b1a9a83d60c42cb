"""One release of a site on its host: plan, then act; whatever fails leaves the old release serving."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.site import (
    APP_GID,
    APP_UID,
    Record,
    ReleaseError,
    Site,
    make_directory,
    remove_tree,
    with_numbers,
    write_durably,
)

HASHED_NAME = re.compile(r"\.[0-9a-f]{12}\.[^./]+$")  # as ManifestStaticFilesStorage names files
PROBE = ("python3", "-m", "hostwright", "probe")
LOG_LINES = "25"
TITLE_LABEL = "org.opencontainers.image.title"
DEVELOPMENT = "-dev"  # ends the tags of images for development, which no release names
TMP = "/tmp"  # noqa: S108 (the container's own, in memory)


@dataclass(frozen=True)
class Limits:
    """What a container may use: ``memory`` and ``tmp`` as Docker writes sizes, ``cpus`` in cores."""

    memory: str = "512m"
    cpus: float = 1.0
    pids: int = 256
    tmp: str = "256m"


@dataclass(frozen=True)
class Spec:
    """What a release is asked to be.

    ``source_digest`` is that of the project alone, ``image_digest`` that of all that decides the image's content;
    ``configuration`` lacks what only the release's number decides.
    """

    image: str
    source_digest: str
    image_digest: str
    configuration: dict[str, Any]
    limits: Limits
    static_url: str
    secrets: dict[str, str] = field(repr=False)
    health_timeout: int = 60
    stop_timeout: int = 30
    migrate_timeout: int = 600
    keep_releases: int = 3

    def digest(self, secret_key: str) -> str:
        """What identifies the wish; secrets take part keyed, so that the record tells nothing of them."""
        wish = asdict(self)
        for unrelated in ("secrets", "health_timeout", "migrate_timeout", "keep_releases"):
            del wish[unrelated]
        private = hmac.new(secret_key.encode(), json.dumps(self.secrets, sort_keys=True).encode(), "sha256").hexdigest()
        return hashlib.sha256(f"{json.dumps(wish, sort_keys=True)}{private}".encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What a call did: ``action`` is ``none``, ``started`` (the live release was down) or ``released``.

    ``previous`` is the release that was live before the call.
    """

    action: str
    release: int
    previous: Record | None
    migrations: tuple[str, ...] = ()
    seconds_down: float = 0.0
    warnings: tuple[str, ...] = ()


class Releaser:
    """Makes releases of one site with one Engine."""

    def __init__(self, site: Site, engine: Engine) -> None:
        self.site = site
        self.engine = engine
        self.step = "begin"

    def plan(self, spec: Spec) -> Outcome:
        """What ``run`` would do, as far as a look without changes tells."""
        if not self.site.current.is_symlink():
            return Outcome("released", 1, None)
        current = self.site.current_record()
        key = self.site.configuration / "secrets" / "secret_key"
        if current is None or not key.exists() or current.spec_digest != spec.digest(key.read_text()):
            return Outcome("released", self.site.next_number(), current)
        return Outcome("none" if self._running(current.container) else "started", current.release, current)

    def run(self, spec: Spec) -> Outcome:
        """Bring the site to what the spec asks for.

        Raises:
            ReleaseError: it failed; what served before serves on.
        """
        with self._explained(), self._locked():
            current = self.site.current_record()
            wish = spec.digest(self.site.secret_key())
            self._sweep(current)
            if current and current.spec_digest == wish:
                return self._keep_up(current, spec)
            return self._release(current, spec, wish)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.site.make_directories()
        with self.site.lock():
            yield

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            raise ReleaseError(self.step, str(error)) from error
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise ReleaseError(self.step, f"{error.strerror or error}{where}") from error

    def _running(self, container: str) -> bool:
        found = self.engine.container(container)
        return bool(found and found["State"]["Running"])

    def _sweep(self, current: Record | None) -> None:
        """Remove what a release that never came about has left: containers, directories, generations.

        Raises:
            ReleaseError: there are databases, but no live release; they may be all that is left of the site.
        """
        self.step = "tidy up after an unfinished release"
        records = self.site.records()
        generations = self.site.generations()
        if current is None and generations and not self.site.unfinished.exists():
            databases = self.site.data / "databases"
            cure = (
                f"ln -s releases/{max(records)} {self.site.current}" if records else f"mv {databases} {databases}.old"
            )
            raise ReleaseError(
                self.step,
                f"{databases} holds databases of earlier releases, but {self.site.current}, which names the live one, "
                f"is gone; nothing was touched. To go on with {'that release' if records else 'an empty one'}: {cure}",
            )
        names = self.engine(
            "ps", "--all", "--filter", "label=hostwright=release",
            "--filter", f"label=hostwright.site={self.site.name}", "--format", "{{.Names}}",
        )  # fmt: skip
        for name in names.split():
            if current is None or name != current.container:
                self.engine("rm", "--force", "--volumes", name)
        live = current.release if current else 0
        kept = {number: record for number, record in records.items() if number <= live}
        for number in self.site.traces() - set(kept):
            self.site.remove(number)
        for generation in generations - {record.generation for record in kept.values()}:
            self.site.remove_generation(generation)
        self.site.unfinished.unlink(missing_ok=True)

    def _keep_up(self, current: Record, spec: Spec) -> Outcome:
        """Nothing to release; a live release that is down is started again, one cut short after its commit finished."""
        self.step = "start the live release again"
        running = self._running(current.container)
        if not running:
            if self.engine.container(current.container) is None:
                self._create(current.container, spec, current.release)
            self.engine("start", current.container)
            self._probe(current.container, spec.health_timeout)
        self._finish(current, None, spec)
        return Outcome("none" if running else "started", current.release, current)

    def _release(self, current: Record | None, spec: Spec, wish: str) -> Outcome:
        number = self.site.next_number()
        generation = current.generation if current else 1
        container = f"{self.site.name}-{number}"
        down_since = 0.0
        seconds_down = 0.0
        try:
            self.step = "prepare the release"
            make_directory(self.site.release(number), 0o1770, 0, APP_GID)
            self.site.write_secrets(number, spec.secrets)
            self._configure(spec, number, generation)
            image = self.engine.image(spec.image)
            if image is None:
                raise ReleaseError(self.step, f"there is no image {spec.image} on the host: push it first")
            self._check_names(container)
            self._check_volumes()
            self.step = "look at the project and its migrations"
            found = self._runtime(spec, number, "preflight", "--pending")
            if not {"pending", "static_url"} <= found.keys():
                raise ReleaseError(self.step, f"the runtime in {spec.image} does not say it: build the image anew")
            self._check_urls(found, spec)
            if current and found["pending"]:
                generation = 1 + max(self.site.generations())
                self.step = "stop the old release, to migrate a copy of its database"
                if self._running(current.container):
                    down_since = time.monotonic()
                    self._stop(current.container, spec)
                self._copy_database(current.generation, generation, spec, number)
            if current is None:
                write_durably(self.site.unfinished, "", 0o600)
                make_directory(self.site.generation(generation), 0o700, APP_UID, APP_GID)
            if found["pending"]:
                self.step = "migrate the new database generation"
                self._runtime(spec, number, "migrate", timeout=spec.migrate_timeout)
            self.step = "start the new release"
            self._create(container, spec, number)
            self._publish_static(container, number)
            self.engine("start", container)
            self.step = "wait until the new release is ready"
            self._probe(container, spec.health_timeout)
            self.step = "commit"
            record = Record(
                site=self.site.name, release=number, image=spec.image, image_id=image.id,
                version=spec.image.rpartition(":")[2], source_digest=spec.source_digest, generation=generation,
                container=container, configuration=f"/site/config/releases/{number}.json",
                created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), migrations=tuple(found["pending"]),
                previous=current.release if current else None, spec_digest=wish,
            )  # fmt: skip
            self.site.commit(record)
        except BaseException as error:
            self._undo(current, number, generation)
            if isinstance(error, ReleaseError | EngineError | OSError):
                raise
            raise ReleaseError(self.step, f"{type(error).__name__}: {error}") from error
        if down_since:
            seconds_down = time.monotonic() - down_since
        self._finish(record, current, spec)
        return Outcome("released", number, current, tuple(found["pending"]), seconds_down, _warnings(found))

    def _finish(self, live: Record, old: Record | None, spec: Spec) -> None:
        """What remains after the commit, here or, if it was cut short, at the next call."""
        self.step = "retire the old release"
        found = self.engine.container(live.container)
        if found is None or found["HostConfig"]["RestartPolicy"]["Name"] != "unless-stopped":
            self.engine("update", "--restart", "unless-stopped", live.container)
        if old and self.engine.container(old.container):
            self.engine("update", "--restart", "no", old.container)
            self._stop(old.container, spec)
            self.engine("rm", "--force", "--volumes", old.container)
        self._forget(live.release, spec.keep_releases)
        self._forget_images(live)
        self.site.unfinished.unlink(missing_ok=True)

    def _undo(self, current: Record | None, number: int, generation: int) -> None:
        """Back to the old release: it serves again before anything is tidied up. A committed release stays.

        What cannot be undone now (the Engine may be the trouble) is left to the next call's tidying up.
        """
        if self.site.current.is_symlink() and self.site.current.readlink().name == str(number):
            return
        if current and not self._serves(current.container):
            self._try("start", current.container)
            self._try("exec", current.container, *PROBE, "--timeout", "30")
        for name in (f"{self.site.name}-{number}", self._helper):
            with suppress(EngineError):
                self._remove(name)
        with suppress(OSError):
            self.site.remove(number)
            if current is None or generation != current.generation:
                remove_tree(self.site.generation(generation))
            self.site.unfinished.unlink(missing_ok=True)

    def _serves(self, container: str) -> bool:
        with suppress(EngineError):
            return self._running(container)
        return False

    def _try(self, *arguments: str) -> None:
        with suppress(EngineError):
            self.engine.run(arguments)

    def _create(self, container: str, spec: Spec, number: int) -> None:
        self.engine("create", "--name", container, *self._options(spec, number), spec.image, "serve")

    def _configure(self, spec: Spec, number: int, generation: int) -> None:
        text = json.dumps(with_numbers(spec.configuration, number, generation), indent=1, sort_keys=True) + "\n"
        write_durably(self.site.release_configuration(number), text, 0o640, 0, APP_GID)

    def _check_names(self, container: str) -> None:
        """A container of somebody else's under a name that we need is refused, never removed."""
        for name in (container, self._helper):
            found = self.engine.container(name)
            if found and not self._ours(found):
                raise ReleaseError(
                    self.step,
                    f"there is a container {name} on the host, which is not of this site: rename it or the site",
                )

    def _ours(self, found: Mapping[str, Any]) -> bool:
        labels = found["Config"].get("Labels") or {}
        return labels.get("hostwright") == "release" and labels.get("hostwright.site") == self.site.name

    def _remove(self, name: str) -> None:
        """Remove a container of this site's; somebody else's of that name stays."""
        found = self.engine.container(name)
        if found and self._ours(found):
            self.engine.run(["rm", "--force", "--volumes", name])

    def _check_volumes(self) -> None:
        """A volume of ours that is bound elsewhere would hide the site's data: refuse it."""
        for name, (directory, _, _) in self.site.volumes.items():
            done = self.engine.run(["volume", "inspect", "--format", "{{json .Options}}", name])
            if done.status == 0 and (json.loads(done.stdout) or {}).get("device") != str(directory):
                raise ReleaseError(
                    self.step,
                    f"the Docker volume {name} exists already and is not bound to {directory}: it is not of this site; "
                    f"look at it with 'docker volume inspect {name}', rename the site or remove the volume",
                )

    def _mounts(self) -> list[str]:
        options: list[str] = []
        for name, (directory, target, read_only) in self.site.volumes.items():
            mount = (
                f"type=volume,source={name},target={target},volume-driver=local,volume-opt=type=none,volume-opt=o=bind,"
                f"volume-opt=device={directory},volume-nocopy,volume-label=hostwright=site"
            )
            options += ["--mount", mount + (",readonly" if read_only else "")]
        return options

    def _hardened(self, spec: Spec) -> list[str]:
        limits = spec.limits
        return [
            "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--memory", limits.memory, "--memory-swap", limits.memory, "--cpus", str(limits.cpus),
            "--pids-limit", str(limits.pids), "--tmpfs", f"{TMP}:rw,nosuid,nodev,noexec,size={limits.tmp},mode=1777",
            "--user", f"{APP_UID}:{APP_GID}", "--pull", "never",
            "--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3",
        ]  # fmt: skip

    def _options(self, spec: Spec, number: int) -> list[str]:
        return [
            *self._hardened(spec), *self._mounts(),
            "--label", "hostwright=release", "--label", f"hostwright.site={self.site.name}",
            "--label", f"hostwright.release={number}", "--hostname", self.site.name, "--restart", "no",
            "--stop-timeout", str(spec.stop_timeout), "--env", f"HOSTWRIGHT_CONFIG=/site/config/releases/{number}.json",
            "--health-cmd", "python3 -m hostwright probe --timeout 5", "--health-interval", "30s",
            "--health-timeout", "10s", "--health-retries", "3",
        ]  # fmt: skip

    @property
    def _helper(self) -> str:
        return f"{self.site.name}-release"

    def _runtime(self, spec: Spec, number: int, *verb: str, timeout: float = 120) -> dict[str, Any]:
        """Run a verb of the image's runtime in a container of its own, without network; return its last line's JSON."""
        self._remove(self._helper)
        command = [
            "run", "--rm", "--name", self._helper, "--network", "none", *self._hardened(spec), *self._mounts(),
            "--label", "hostwright=release", "--label", f"hostwright.site={self.site.name}",
            "--env", f"HOSTWRIGHT_CONFIG=/site/config/releases/{number}.json", spec.image, *verb,
        ]  # fmt: skip
        done = self.engine.run(command, timeout)
        if done.status != 0:
            raise ReleaseError(self.step, f"'{verb[0]}' failed in {spec.image} (exit {done.status})", _tail(done.said))
        lines = done.stdout.strip().splitlines()
        try:
            result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        except ValueError:
            result = {}
        return result

    def _check_urls(self, found: Mapping[str, Any], spec: Spec) -> None:
        url = "/" + (found["static_url"] or spec.static_url).lstrip("/")  # none: the project has no static files
        if url != spec.static_url:
            raise ReleaseError(
                self.step,
                f"the project's STATIC_URL is {url}, but Nginx serves static files at {spec.static_url}: "
                "set site_static_url",
            )

    def _copy_database(self, old: int, new: int, spec: Spec, number: int) -> None:
        self.step = "copy the database into a new generation"
        make_directory(self.site.generation(new), 0o700, APP_UID, APP_GID)
        self._configure(spec, number, new)
        base = "/site/data/databases"
        self._runtime(
            spec,
            number,
            "snapshot",
            f"{base}/{old}/db.sqlite3",
            f"{base}/{new}/db.sqlite3",
            timeout=spec.migrate_timeout,
        )

    def _publish_static(self, container: str, number: int) -> None:
        """Copy the image's static files beside the release and share the hashed ones with the releases around it."""
        target = self.site.static / str(number)
        make_directory(target, 0o755)
        self.engine("cp", f"{container}:/opt/hostwright/static/.", str(target))
        (self.site.release(number) / "static").symlink_to(Path("../../../static") / str(number))
        shared = self.site.static / "shared"
        for path in target.rglob("*"):
            if path.is_file() and HASHED_NAME.search(path.name):
                link = shared / path.relative_to(target)
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(path, link)

    def _probe(self, container: str, timeout: int) -> None:
        """Wait until the container answers as the site through its own socket.

        Raises:
            ReleaseError: it ended or did not become ready; with the end of its log.
        """
        done = self.engine.run(["exec", container, *PROBE, "--timeout", str(timeout)], timeout + 30)
        if done.status == 0:
            return
        log = self.engine.run(["logs", "--tail", LOG_LINES, container]).said
        if self._running(container):
            reason = f"{container} did not become ready within {timeout} s: {_tail(done.said, 3)}"
        else:
            reason = f"{container} ended while it started"
        raise ReleaseError(self.step, reason, _tail(log))

    def _stop(self, container: str, spec: Spec) -> None:
        self.engine("stop", "-t", str(spec.stop_timeout), container, timeout=spec.stop_timeout + 60)

    def _forget(self, live: int, keep: int) -> None:
        """Drop releases beyond the kept ones, and the database generations that no kept one names."""
        records = self.site.records()
        kept = {record.release for record in list(records.values())[-max(keep, 1) :]} | {live}
        for number in set(records) - kept:
            self.site.remove(number)
        for generation in self.site.generations() - {records[number].generation for number in kept}:
            self.site.remove_generation(generation)

    def _forget_images(self, live: Record) -> None:
        """Drop the site's images that are older than the live one and that no kept release names.

        Only images of ours are looked at.
        """
        kept = self.site.records().values()
        names, ids = {record.image for record in kept}, {record.image_id for record in kept}
        site = live.image.rpartition(":")[0]
        labels = ("hostwright=image", f"{TITLE_LABEL}={site}")
        listed = self.engine.run(
            [
                "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}",
                *(word for label in labels for word in ("--filter", f"label={label}")),
            ]
        )  # fmt: skip
        images = [line.split() for line in listed.stdout.splitlines()]  # the newest one first
        newer = next((n for n, (_, name) in enumerate(images) if name == live.image), len(images))
        for identity, name in images[newer:]:
            untagged = name == "<none>:<none>" and identity not in ids
            old = name.startswith(f"{site}:") and name not in names and not name.endswith(DEVELOPMENT)
            if untagged or old:
                self.engine.run(["image", "rm", identity if untagged else name])  # refused while a container uses it


def _warnings(found: Mapping[str, Any]) -> tuple[str, ...]:
    """What the preflight has noticed that does not keep the release from being made."""
    unknown = found.get("unknown") or []
    newer = (
        [f"the database has migrations that this version lacks, so it is newer than the code: {', '.join(unknown)}"]
        if unknown
        else []
    )
    return (*found.get("warnings", []), *newer)


def _tail(text: str, lines: int = int(LOG_LINES)) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
