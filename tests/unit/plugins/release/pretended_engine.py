"""A Docker Engine in memory: it has images and containers, runs the commands of a release, and fails on request."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.host.line_process import Conversation, ConversationError
from ansible_collections.hostwright.django.plugins.module_utils.host.process import Answer
from ansible_collections.hostwright.django.plugins.module_utils.release.probe import READY_PATH, Reply
from ansible_collections.hostwright.django.plugins.module_utils.release.site import Site


class Killed(BaseException):
    """The process got SIGKILL: no more of its code runs."""


@dataclass
class App:
    """An image of a site: its migrations, its static files (text, or the target of a link), and its behaviour."""

    migrations: tuple[str, ...] = ("polls.0001_initial",)
    static: Mapping[str, str | Path] = field(default_factory=lambda: {"site.css": "body {}"})
    static_url: str | None = "/static/"
    healthy: bool = True
    dies: bool = False
    labels: tuple[str, ...] = ("hostwright=image", "org.opencontainers.image.title=polls")


@dataclass
class Container:
    """A container: its image, its options and its state."""

    image: str
    options: list[str]
    running: bool = False
    restarting: bool = False
    restart: str = "no"
    restarts: int = 0

    def value(self, option: str) -> list[str]:
        """Return all values of an option."""
        return [self.options[i + 1] for i, word in enumerate(self.options) if word == option]


class PretendedEngine(Engine):
    """Understands the commands of a release. Databases are JSON files with their migrations and rows.

    ``fail_at`` is the number of the call that fails; ``fault`` says how: ``status`` (exit status 1), ``time``
    (EngineError), ``gone`` (EngineError, and so do all calls after it) or ``kill`` (the caller dies).

    At each call of the Engine each worker reads ``rest``, except those in ``restless``; ``rested`` has the paused ones.
    """

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.images: dict[str, App] = {}
        self.containers: dict[str, Container] = {}
        self.volumes: dict[str, dict[str, str]] = {}
        self.networks: dict[str, list[str]] = {}
        self.calls: list[list[str]] = []
        self.fail_at = -1
        self.fault = "status"
        self.guarded: Path | None = None
        self.migration_seconds = 0.1
        self.peak = 1
        self.restless: set[str] = set()
        self.rested: list[str] = []

    def talk(self, *arguments: str) -> Conversation:
        answer = self.run(arguments)
        return PretendedMigrator(self, list(arguments), answer)

    def ask(self, socket: Path, host: str, scheme: str, url: str, timeout: float) -> Reply:  # noqa: ARG002
        """Answer as a release through its socket."""
        container = self.containers.get(f"{self.site.name}-{socket.parent.name}")
        if container is None or not container.running:
            return Reply(0, "FileNotFoundError")
        if not self.database_of(container.options).exists():
            return Reply(503, "no database")
        app = self.images[container.image]
        if url == READY_PATH and set(app.migrations) <= set(
            self.content(self.database_of(container.options))["migrations"]
        ):
            return Reply(200, "ready")
        return Reply(200 if app.healthy and url != READY_PATH else 503, "")

    def database_of(self, words: list[str]) -> Path:
        """Return the path on the host of the database in a container's configuration."""
        configured = next(word.removeprefix("HOSTWRIGHT_CONFIG=") for word in words if word.startswith("HOSTWRIGHT_C"))
        return self.on_host(json.loads(self.on_host(configured).read_text())["database"])

    def content(self, database: Path) -> dict[str, list[str]]:
        """Return the content of a database."""
        found: dict[str, list[str]] = (
            json.loads(database.read_text()) if database.exists() else {"migrations": [], "rows": []}
        )
        return found

    def run(self, arguments: Sequence[str], timeout: float = 300) -> Answer:  # noqa: ARG002
        self._update_workers()
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
        name = "_".join(arguments[:2]) if arguments[0] in ("image", "container", "volume", "network") else arguments[0]
        answer: Answer = getattr(self, f"_do_{name}")(list(arguments))
        return answer

    def _update_workers(self) -> None:
        self.rested = []
        for name, container in self.containers.items():
            variables = dict(value.split("=", 1) for value in container.value("--env"))
            if not container.running or "HOSTWRIGHT_WORKER" not in variables or name in self.restless:
                continue
            number = int(Path(variables["HOSTWRIGHT_CONFIG"]).stem)
            answer = self.site.rested(number, variables["HOSTWRIGHT_WORKER"])
            rest = self.site.rest(number)
            if rest.exists() and rest.stat().st_mtime > time.time():
                answer.touch()
                self.rested.append(name)
            else:
                answer.unlink(missing_ok=True)

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
        found = {name: self.containers[name] for name in words[2:] if name in self.containers}
        states = [
            {
                "Name": f"/{name}",
                "State": {"Running": container.running, "Restarting": container.restarting, "Pid": 1},
                "RestartCount": container.restarts,
                "HostConfig": {"RestartPolicy": {"Name": container.restart}},
                "Config": {"Labels": dict(label.split("=", 1) for label in container.value("--label"))},
            }
            for name, container in found.items()
        ]
        return self._inspected("container", words[2:], states, set(found))

    def _do_volume_inspect(self, words: list[str]) -> Answer:
        found = {name: self.volumes[name] for name in words[2:] if name in self.volumes}
        states = [{"Name": name, "Options": options} for name, options in found.items()]
        return self._inspected("volume", words[2:], states, set(found))

    def _do_network_ls(self, words: list[str]) -> Answer:
        name, label = (words[i + 1].partition("=")[2] for i in _places(words, "--filter"))
        return Answer(0, "\n".join(n for n, options in self.networks.items() if f"^{n}$" == name and label in options))

    def _do_network_create(self, words: list[str]) -> Answer:
        if words[-1] in self.networks:
            return Answer(1, stderr=f"network with name {words[-1]} already exists")
        self.networks[words[-1]] = words
        return Answer(0)

    @staticmethod
    def _inspected(kind: str, names: list[str], states: list[dict[str, Any]], found: set[str]) -> Answer:
        """Docker shows the existing ones, and reports the others as errors."""
        missing = [f"Error: No such {kind}: {name}" for name in names if name not in found]
        return Answer(1 if missing else 0, json.dumps(states), "\n".join(missing))

    def _do_ps(self, words: list[str]) -> Answer:
        wanted = {words[i + 1].removeprefix("label=") for i, word in enumerate(words) if word == "--filter"}
        found = {name: container.value("--label") for name, container in self.containers.items()}
        prefix = "hostwright.release="
        numbers = {
            name: next((label.removeprefix(prefix) for label in labels if label.startswith(prefix)), "")
            for name, labels in found.items()
            if wanted <= set(labels)
        }
        return Answer(0, "\n".join(f"{name} {number}" for name, number in numbers.items()))

    def _do_rm(self, words: list[str]) -> Answer:
        return Answer(0) if self.containers.pop(words[-1], None) else Answer(1, stderr="Error: No such container")

    def _do_create(self, words: list[str]) -> Answer:
        name = words[words.index("--name") + 1]
        if name in self.containers:
            return Answer(125, stderr=f"Conflict. The container name {name} is already in use")
        network = words[words.index("--network") + 1]
        if network != "none" and network not in self.networks:
            return Answer(1, stderr=f"network {network} not found")
        image = next(word for word in words if word in self.images)
        self.containers[name] = Container(image, words, restart=words[words.index("--restart") + 1])
        return Answer(0, name)

    def _do_start(self, words: list[str]) -> Answer:
        return self._set(words[1:], running=True)

    def _do_stop(self, words: list[str]) -> Answer:
        return self._set(words[3:], running=False)

    def _set(self, names: list[str], running: bool) -> Answer:
        for name in names:
            if name not in self.containers:
                return Answer(1, stderr=f"Error response from daemon: No such container: {name}")
            container = self.containers[name]
            container.running = running and not self.images[container.image].dies
        return Answer(0)

    def _do_exec(self, words: list[str]) -> Answer:
        container = self.containers[words[1]]
        if not container.running:
            return Answer(1, stderr="it does not run")
        if words[-1] == "--pending":
            return Answer(0, json.dumps({"applied": self.content(self.database_of(container.options))["migrations"]}))
        if self.images[container.image].healthy:
            return Answer(0, "{}")
        return Answer(1, stderr="last answer: 500")

    def _do_logs(self, words: list[str]) -> Answer:  # noqa: ARG002
        return Answer(0, "first line\nValueError: the reason in the log")

    def _do_cp(self, words: list[str]) -> Answer:
        container = self.containers[words[1].partition(":")[0]]
        for name, text in self.images[container.image].static.items():
            path = Path(words[2]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(text, Path):
                path.symlink_to(text)
            else:
                path.write_text(text)
        return Answer(0)

    def _do_run(self, words: list[str]) -> Answer:
        name = words[words.index("--name") + 1]
        if name in self.containers:
            return Answer(125, stderr=f"Conflict. The container name {name} is already in use")
        image = next(word for word in words if word in self.images)
        if words[-1] == "migrator":
            self.containers[name] = Container(image, words, running=True)
        if "restore" in words:
            return self._restore(words)
        return Answer(0, "{}")

    def _restore(self, words: list[str]) -> Answer:
        """Fill a generation, as the runtime does; here an archive is a database, packed or not."""
        mounts = [dict(part.partition("=")[::2] for part in words[i + 1].split(",")) for i in _places(words, "--mount")]
        places = {mount["dst"]: Path(mount["src"]) for mount in mounts}

        def value(option: str) -> str:
            return words[words.index(option) + 1]

        def on_host(path: str) -> Path:
            inside = next(place for place in places if Path(path).is_relative_to(place))
            return places[inside] / Path(path).relative_to(inside)

        target = on_host(value("--target"))
        if "--file" in words:
            content = on_host(value("--file")).read_text()
            answer: dict[str, Any] = {"rows": {}, "rows_total": len(json.loads(content)["rows"])}
        else:
            directory = on_host(value("--output"))
            manifest = json.loads((directory / f"{value('--backup')}.json").read_text())
            content = (directory / manifest["archive"]["name"]).read_text()
            if hashlib.sha256(content.encode()).hexdigest() != manifest["archive"]["sha256"]:
                return Answer(1, stderr="hostwright restore: the archive is not what was written.")
            media = directory / f"{value('--backup')}.media"
            lacking = [path for path in media.glob("*") if not (on_host(value("--media")) / path.name).exists()]
            for path in lacking:
                shutil.copyfile(path, on_host(value("--media")) / path.name)
            answer = {"manifest": manifest, "media_restored": len(lacking)}
        assert not target.exists()
        target.write_text(content)
        return Answer(0, json.dumps({**answer, "seconds": {"total": 0.1}}))

    def _do_migrator(self, words: list[str]) -> Answer:
        word = json.loads(words[2])
        done: dict[str, Any] = getattr(self, f"_word_{word['do']}")(word)
        return Answer(0, json.dumps(done))

    def _word_rehearse(self, word: dict[str, Any]) -> dict[str, Any]:
        pending = [] if word["backwards"] else self._pending(self.on_host(word["source"]))
        if "broken" in "".join(pending):
            return {"error": "The migration failed", "log": "near the migration"}
        return {"copy_seconds": 0.1, "migrate_seconds": self.migration_seconds, "bytes": 1, "peak_bytes": self.peak}

    def _word_guard(self, word: dict[str, Any]) -> dict[str, Any]:
        self.guarded = self.on_host(word["source"])
        return {"seconds": 0}

    def _word_copy(self, word: dict[str, Any]) -> dict[str, Any]:
        source, target = self.on_host(word["source"]), self.on_host(word["destination"])
        if self.guarded is None or target.exists():
            return {"error": f"no guard, or {target} exists"}
        shutil.copyfile(source, target)
        return {"seconds": 0, "bytes": 1}

    def _word_migrate(self, word: dict[str, Any]) -> dict[str, Any]:
        database = self.on_host(word["database"])
        content = self.content(database)
        if word["backwards"]:
            content["migrations"] = [name for name in content["migrations"] if name not in word["backwards"]]
            database.write_text(json.dumps(content))
            return {"applied": []}
        pending = self._pending(database)
        if "sudden" in "".join(pending) or "broken" in "".join(pending):
            database.write_text("half migrated")
            return {"error": "The migration failed", "log": "near the migration"}
        content["migrations"] += pending
        database.write_text(json.dumps(content))
        return {"applied": pending}

    def _word_rows(self, word: dict[str, Any]) -> dict[str, Any]:
        content = self.content(self.on_host(word["source"]))
        return {"rows": {"vote": len(content["rows"]), "django_migrations": len(content["migrations"])}}

    def _word_check(self, word: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"held": True} if self.guarded else {"error": "the guard was lost"}

    def _word_release(self, word: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self.guarded = None
        return {"held": False}

    def _pending(self, database: Path) -> list[str]:
        helper = self.containers[f"{self.site.name}-release"]
        applied = self.content(database)["migrations"]
        return [name for name in self.images[helper.image].migrations if name not in applied]

    def on_host(self, path: str) -> Path:
        """Return the path on the host of a path in a container."""
        for directory, target, _ in self.site.volumes.values():
            if Path(path).is_relative_to(target):
                return directory / Path(path).relative_to(target)
        raise AssertionError(path)


class PretendedMigrator(Conversation):
    """Answers as the runtime's verb ``migrator``; every request counts as a call of the Engine."""

    def __init__(self, engine: PretendedEngine, words: list[str], started: Answer) -> None:
        self.engine = engine
        self.name = words[words.index("--name") + 1]
        self.words = words
        self.started = started
        self.pending: list[str] = []
        self.answer: dict[str, Any] = {}
        if started.ok:
            app = engine.images[engine.containers[self.name].image]
            applied = engine.content(engine.database_of(words))["migrations"]
            self.pending = [name for name in app.migrations if name not in applied]
            unknown = [name for name in applied if name not in app.migrations]
            self.answer = {
                "static_url": app.static_url, "pending": self.pending, "applied": applied, "unknown": unknown,
            }  # fmt: skip

    def say(self, line: str) -> None:
        word = json.loads(line)
        try:
            answer = self.engine.run(["migrator", word["do"], json.dumps(word)])
        except EngineError as error:
            raise ConversationError(str(error)) from error
        if self.name not in self.engine.containers:
            raise ConversationError("it ended")
        self.answer = json.loads(answer.stdout) if answer.ok else {"error": answer.stderr, "log": "the migrator's log"}

    def hear(self, timeout: float) -> str:  # noqa: ARG002
        if not self.started.ok:
            raise ConversationError(f"it ended with exit status {self.started.status}")
        return json.dumps(self.answer)

    def errors(self) -> str:
        return self.started.stderr

    def end(self) -> None:
        self.engine.containers.pop(self.name, None)

    def close(self, patience: float = 10) -> None:  # noqa: ARG002
        self.engine.guarded = None
        self.engine.containers.pop(self.name, None)


def _places(words: list[str], option: str) -> list[int]:
    return [place for place, word in enumerate(words) if word == option]
