"""A Docker Engine in memory: it keeps images and containers, does what a release asks for, and fails on command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.commands import Answer
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.site import Site


class Killed(BaseException):
    """The process got SIGKILL: nothing of its own runs any more."""


@dataclass
class App:
    """An image of a site: its migrations, its static files, and how it behaves."""

    migrations: tuple[str, ...] = ("polls.0001_initial",)
    static: dict[str, str] = field(default_factory=lambda: {"site.css": "body {}"})
    static_url: str | None = "/static/"
    healthy: bool = True
    dies: bool = False
    labels: tuple[str, ...] = ("hostwright=image", "org.opencontainers.image.title=polls")


@dataclass
class Container:
    """A container: of which image, with which options, whether it runs."""

    image: str
    options: list[str]
    running: bool = False
    restart: str = "no"

    def value(self, option: str) -> list[str]:
        """All values of an option."""
        return [self.options[i + 1] for i, word in enumerate(self.options) if word == option]


class PretendedEngine(Engine):
    """Understands the commands of a release. Databases are JSON files with their migrations and rows.

    ``fail_at`` is the number of the call that fails; ``fault`` says how: ``status`` (exit status 1), ``time``
    (EngineError), ``gone`` (EngineError, and so do all calls after it) or ``kill`` (the caller dies).
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.images: dict[str, App] = {}
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.calls: list[list[str]] = []
        self.fail_at = -1
        self.fault = "status"

    def run(self, arguments: Sequence[str], timeout: float = 300) -> Answer:  # noqa: ARG002
        number = len(self.calls)
        self.calls.append(list(arguments))
        if number == self.fail_at:
            if self.fault == "kill":
                raise Killed
            if self.fault == "time":
                raise EngineError(f"'docker {arguments[0]}' did not end")
            if self.fault == "status":
                return Answer(1, stderr=f"pretended failure of {arguments[0]}")
        if self.fault == "gone" and number >= self.fail_at >= 0:
            raise EngineError("Cannot connect to the Docker daemon")
        name = "_".join(arguments[:2]) if arguments[0] in ("image", "container", "volume") else arguments[0]
        answer: Answer = getattr(self, f"_do_{name}")(list(arguments))
        return answer

    def _do_image_inspect(self, words: list[str]) -> Answer:
        if words[2] not in self.images:
            return Answer(1, stderr=f"Error: No such image: {words[2]}")
        found = {"Id": f"sha256:{words[2]}", "RootFS": {"Layers": ["sha256:a"]}, "Architecture": "amd64"}
        return Answer(0, json.dumps([found]))

    def _do_image_ls(self, words: list[str]) -> Answer:
        wanted = {words[i + 1].removeprefix("label=") for i, word in enumerate(words) if word == "--filter"}
        ours = [name for name, app in reversed(self.images.items()) if wanted <= set(app.labels)]
        return Answer(0, "\n".join(f"sha256:{n} {n if ':' in n else '<none>:<none>'}" for n in ours))

    def _do_image_rm(self, words: list[str]) -> Answer:
        name = words[-1].removeprefix("sha256:")
        if any(container.image == name for container in self.containers.values()):
            return Answer(1, stderr=f"conflict: unable to remove {name}: container is using it")
        del self.images[name]
        return Answer(0)

    def _do_container_inspect(self, words: list[str]) -> Answer:
        container = self.containers.get(words[2])
        if container is None:
            return Answer(1, stderr=f"Error: No such container: {words[2]}")
        state = {
            "State": {"Running": container.running},
            "HostConfig": {"RestartPolicy": {"Name": container.restart}},
            "Config": {"Labels": dict(label.split("=", 1) for label in container.value("--label"))},
        }
        return Answer(0, json.dumps([state]))

    def _do_volume_inspect(self, words: list[str]) -> Answer:
        if words[-1] not in self.volumes:
            return Answer(1, stderr="Error: No such volume")
        return Answer(0, json.dumps(self.volumes[words[-1]]))

    def _do_ps(self, words: list[str]) -> Answer:
        wanted = {words[i + 1].removeprefix("label=") for i, word in enumerate(words) if word == "--filter"}
        names = [name for name, container in self.containers.items() if wanted <= set(container.value("--label"))]
        return Answer(0, "\n".join(names))

    def _do_rm(self, words: list[str]) -> Answer:
        return Answer(0) if self.containers.pop(words[-1], None) else Answer(1, stderr="Error: No such container")

    def _do_create(self, words: list[str]) -> Answer:
        name = words[words.index("--name") + 1]
        if name in self.containers:
            return Answer(125, stderr=f"Conflict. The container name {name} is already in use")
        self.containers[name] = Container(words[-2], words[:-2], restart=words[words.index("--restart") + 1])
        return Answer(0, name)

    def _do_start(self, words: list[str]) -> Answer:
        return self._set(words, "running", True)

    def _do_stop(self, words: list[str]) -> Answer:
        return self._set(words, "running", False)

    def _do_update(self, words: list[str]) -> Answer:
        return self._set(words, "restart", words[2])

    def _set(self, words: list[str], attribute: str, value: Any) -> Answer:
        if words[-1] not in self.containers:
            return Answer(1, stderr=f"Error response from daemon: No such container: {words[-1]}")
        container = self.containers[words[-1]]
        setattr(container, attribute, value)
        if words[0] == "start" and self.images[container.image].dies:
            container.running = False
        return Answer(0)

    def _do_exec(self, words: list[str]) -> Answer:
        container = self.containers[words[1]]
        if container.running and self.images[container.image].healthy:
            return Answer(0, "{}")
        return Answer(1, stderr="last answer: 500")

    def _do_logs(self, words: list[str]) -> Answer:  # noqa: ARG002
        return Answer(0, "first line\nValueError: the reason in the log")

    def _do_cp(self, words: list[str]) -> Answer:
        container = self.containers[words[1].partition(":")[0]]
        for name, text in self.images[container.image].static.items():
            path = Path(words[2]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Answer(0)

    def _do_run(self, words: list[str]) -> Answer:
        at = next(i for i, word in enumerate(words) if word in self.images)
        app, verb = self.images[words[at]], words[at + 1 :]
        configured = next(word.removeprefix("HOSTWRIGHT_CONFIG=") for word in words if word.startswith("HOSTWRIGHT_C"))
        database = self.on_host(json.loads(self.on_host(configured).read_text())["database"])
        content = json.loads(database.read_text()) if database.exists() else {"migrations": [], "rows": []}
        pending = [name for name in app.migrations if name not in content["migrations"]]
        if verb[0] == "preflight":
            return Answer(0, json.dumps({"static_url": app.static_url, "pending": pending}))
        if verb[0] == "snapshot":
            source, target = (self.on_host(word) for word in verb[1:3])
            if target.exists():
                return Answer(1, stderr=f"{target} exists")
            shutil.copyfile(source, target)
        if verb[0] == "migrate":
            if "broken" in "".join(pending):
                database.write_text("half migrated")
                return Answer(1, stderr="django.db.utils.OperationalError: near the migration")
            content["migrations"] += pending
            database.write_text(json.dumps(content))
        return Answer(0, "{}")

    def on_host(self, path: str) -> Path:
        """Where a path of a container is on the host."""
        for directory, target, _ in self.site.volumes.values():
            if Path(path).is_relative_to(target):
                return directory / Path(path).relative_to(target)
        raise AssertionError(path)
