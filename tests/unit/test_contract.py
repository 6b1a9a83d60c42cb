"""Values that control node, host and image must share: each item lists its places, and a test compares their values."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from ansible_collections.hostwright.django.plugins.doc_fragments.release import ModuleDocFragment
from ansible_collections.hostwright.django.plugins.module_utils import contract, manifest
from ansible_collections.hostwright.django.plugins.module_utils.host.command import HostCommand
from ansible_collections.hostwright.django.plugins.module_utils.nginx import acme, tls_check
from ansible_collections.hostwright.django.plugins.module_utils.nginx import configuration as nginx_configuration
from ansible_collections.hostwright.django.plugins.module_utils.release import (
    backups,
    containers,
    housekeeping,
    migrator,
    old_release,
    probe,
    record,
    restore,
    secret_files,
    secret_key,
    site,
    spec,
)
from ansible_collections.hostwright.django.plugins.module_utils.release import module as shared_options
from ansible_collections.hostwright.django.plugins.modules import release as release_module
from ansible_collections.hostwright.django.plugins.modules import restore as restore_module

from tests.support import role_app
from tests.unit.host.pretended_host import SOURCE
from tests.unit.templates.rendering import Role

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "roles/image/files/runtime"), str(SOURCE)]

# sqlite first: it installs the safe SQLite before any module imports sqlite3.
from hostwright import sqlite  # noqa: E402

# isort: split
from hostwright import archive, catalogue, configuration, errors, install, rebuild, retention  # noqa: E402
from hostwright import migrator as image_migrator  # noqa: E402
from hostwright import probe as image_probe  # noqa: E402
from hostwright import restore as image_restore  # noqa: E402
from hostwright.__main__ import parser  # noqa: E402
from hostwright.backup import read_record  # noqa: E402
from hostwright_host import certificates, runs, store  # noqa: E402
from hostwright_host import containers as host_containers  # noqa: E402
from hostwright_host import errors as host_errors  # noqa: E402
from hostwright_host import site as host_site  # noqa: E402

assert sqlite
YAML = [path for part in ("playbooks", "roles") for path in sorted((PROJECT / part).rglob("*.y*ml"))]
TEMPLATES = sorted((PROJECT / "roles").rglob("*.j2"))
APP, BACKUP, NGINX = (Role(name) for name in ("app", "backup", "nginx"))
SITE = site.Site("polls", Path(contract.ROOT))
NUMBER = 7


def text(path: str) -> str:
    return (PROJECT / path).read_text(encoding="utf-8")


def found(pattern: str, *paths: str | Path) -> Any:
    """Return the one value of a pattern's group in files; all values if they differ."""
    values = set()
    for path in paths:
        values |= set(re.findall(pattern, (PROJECT / path).read_text(encoding="utf-8"), re.MULTILINE))
    (value,) = values if len(values) == 1 else (sorted(values),)
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def defaults_of(verb: str) -> dict[str, Any]:
    """Return the defaults of a verb of the runtime."""
    required = {
        "restore": ["--file", "x", "--target", "x"],
        "drill": ["--scratch", "x"],
    }
    return vars(parser().parse_args([verb, *required.get(verb, [])]))


SOURCES = [*YAML, *TEMPLATES, *sorted((PROJECT / "plugins").rglob("*.py")), *sorted(SOURCE.rglob("*.py"))]
# The value of each item, by place.
ITEMS: dict[str, dict[str, object]] = {
    "user of the sites": {
        "modules": contract.APP_UID,
        "image, its account": install.UID,
        "image, Dockerfile": found(r"^USER (\d+):", "roles/image/templates/Dockerfile.j2"),
        "image, its group": found(r"^USER \d+:(\d+)", "roles/image/templates/Dockerfile.j2"),
        "group of Nginx": found(r"^USER \d+:(\d+)", "roles/nginx/templates/Dockerfile.j2"),
        "group of Nginx, certificates": acme.NGINX[1],
        "playbooks and roles, as owner": found(r"\b(?:owner|group): \"?([1-9]\d+)", *YAML),
        "role dev, as default": found(r"default\((\d{5})\)", "roles/dev/tasks/run.yml"),
    },
    "user of Nginx": {
        "modules": contract.NGINX_UID,
        "image": found(r"^USER (\d+):", "roles/nginx/templates/Dockerfile.j2"),
        "certificates": acme.NGINX[0],
    },
    "directory of the sites": {
        "modules": contract.ROOT,
        "every file": found(r"(?<!:)(/srv/[a-z]+)", *SOURCES),
        "option of the modules": release_module.ARGUMENTS["root"]["default"],
        "host command": str(host_site.Site.root),
        "certificates": str(acme.ROOT.parent),
        "role nginx": NGINX.variables["__nginx_root"],
    },
    "secrets in memory": {
        "modules": contract.MEMORY,
        "boot": str(secret_files.MEMORY),
        "host command": str(host_site.Site.volatile),
        "audit": found(r"\"(run/hostwright/\w+)/\*\*\"", "plugins/module_utils/audit/inside.py").join(["/", ""]),
    },
    "directory of the backups": {
        "modules": contract.BACKUPS_ROOT,
        "module restore": str(restore_module.DIRECTORY),
        "role backup": BACKUP.variables["backup_directory"],
        "module restore_plan": found(r"default: (/var/[\w/]+)", "plugins/modules/restore_plan.py"),
    },
    "backups in a container": {
        "modules and host command": contract.BACKUPS,
        "runtime, backup": str(defaults_of("backup")["output"]),
        "runtime, restore": str(defaults_of("restore")["output"]),
        "runtime, drill": str(defaults_of("drill")["output"]),
    },
    "directory of Hostwright in the image": {
        "runtime": str(defaults_of("install")["prefix"]),
        "runtime, collect": str(defaults_of("collect")["requirements"].parent),
        "runtime, static files": str(configuration.Configuration.static_root.parent),
        "Dockerfile": found(r"(/opt/[a-z]+)", "roles/image/templates/Dockerfile.j2"),
        "release": found(r"(/opt/[a-z]+)/static/\.", "plugins/module_utils/release/static_files.py"),
    },
    "static files in the image": {
        "runtime": str(configuration.Configuration.static_root),
        "Dockerfile": found(r"^COPY --from=static \S+ (\S+)", "roles/image/templates/Dockerfile.j2"),
        "release": found(r":(/opt/\S+)/\.\"", "plugins/module_utils/release/static_files.py"),
    },
    "directory of Nginx's configuration in its container": {
        "modules": nginx_configuration.TARGET,
        "role nginx": found(r"target: (/etc/\w+)", "roles/nginx/tasks/run.yml"),
        "image": found(r"(/etc/\w+)/nginx\.conf", "roles/nginx/templates/Dockerfile.j2"),
        "site": found(r"(/etc/hostwright|/etc/\w+)/", "roles/nginx/templates/sites/site.conf.j2"),
        "certificates": found(r"(/etc/\w+)/nginx\.conf", "plugins/module_utils/nginx/acme.py"),
    },
    "container of Nginx": {
        "modules": old_release.NGINX,
        "certificates": acme.CONTAINER,
        "role nginx": NGINX.variables["__nginx_container"],
    },
    "host command": {
        "modules": housekeeping.HOST_COMMAND,
        "module that installs it": str(HostCommand({}).program("hostwright")),
        "cron": found(r" root (\S+) ", "roles/backup/templates/cron.j2"),
        "playbooks and roles": found(r"(?:argv: \[|cmd: )(/[\w/]+/hostwright)\b", *YAML),
    },
    "path of the readiness": {
        "modules": probe.READY_PATH,
        "runtime": image_probe.READY_PATH,
        "Nginx, kept from visitors": found(r"\^~ (/-/\S+) ", "roles/nginx/templates/sites/site.conf.j2") + "ready",
    },
    "format of a manifest": {"host": manifest.FORMAT, "runtime": catalogue.FORMAT},
    "name of a manifest": {
        "host": f"x{manifest.MANIFEST}",
        "runtime": catalogue.Backup(Path(), "x").manifest.name,
    },
    "name of a seal": {"host": f"x{manifest.SEAL}", "runtime": catalogue.Backup(Path(), "x").seal.name},
    "ids of backups": {"host": manifest.ID.pattern, "runtime": catalogue._ID.pattern},
    "names of secrets": {"modules": site.SECRET.pattern, "runtime": configuration._ENVIRONMENT_NAME.pattern},
    "files that a backup excludes": {
        "modules": {SITE.progress.name, SITE.deployments.name, found(r"\(self\.configuration / \"(\w+)\"\)\.open",
                                                                     "plugins/module_utils/release/site.py")},
        "runtime": rebuild._LEFT_OUT,
    },
    "exit status of a busy site": {"host command": host_errors.BUSY, "runtime": errors.BusyError.exit_status},
    "days before the end of a certificate": {
        "modules": contract.CERTIFICATE_DAYS,
        "control node": tls_check.SOON.days,
        "host command": certificates._SOON / 86400,
    },
    "processor shares of serving containers": {
        "release": containers.SERVING,
        "Nginx": found(r"cpu_shares: (\d+)", "roles/nginx/tasks/run.yml"),
    },
    "backups that are kept": {
        "role backup": BACKUP.variables["backup_keep"],
        "runtime": dataclasses.asdict(retention.Keep()),
    },
    "level of compression": {
        "role backup": BACKUP.variables["backup_compression_level"],
        "runtime": archive.LEVEL,
        "runtime, backup": defaults_of("backup")["level"],
    },
    "time limit of a restore": {
        "role backup": BACKUP.variables["backup_time_limit_seconds"],
        "module": restore.RestoreRequest.time_limit,
        "option of the module": found(r"\"time_limit\": .*\"default\": (\d+)", "plugins/modules/restore.py"),
    },
    "limits of a release's containers": {
        "role app": APP.variables["app_limits"],
        "module": dataclasses.asdict(spec.Limits()),
    },
    "time limit of a hold": {
        "role app": APP.variables["app_hold_seconds"],
        "module, release": spec.Spec.hold_seconds,
        "module, restore": restore.RestoreRequest.hold_seconds,
        "option of the modules": shared_options.HOLD_ARGUMENTS["hold_seconds"]["default"],
    },
}  # fmt: skip


@pytest.mark.parametrize("item", ITEMS)
def test_all_places_have_the_same_value(item: str) -> None:
    first, *others = ITEMS[item].items()
    assert {place: value for place, value in others if value != first[1]} == {}, f"{first[0]}: {first[1]!r}"


# Default values


@pytest.mark.parametrize("option", ["sqlite", "limits"])
def test_role_and_module_have_the_same_default_for_each_part(option: str) -> None:
    parts = release_module.ARGUMENTS[option]["options"]
    assert {name: part["default"] for name, part in parts.items()} == role_app.defaults()[option]


@pytest.mark.parametrize("field", [name for name in role_app.defaults() if hasattr(spec.Spec, name)])
def test_role_and_spec_have_the_same_default(field: str) -> None:
    default = getattr(spec.Spec, field)
    assert (list(default) if isinstance(default, tuple) else default) == role_app.defaults()[field]


@pytest.mark.parametrize(
    ("variable", "ours"),
    [
        ("app_processes", configuration.Server.processes),
        ("app_threads", configuration.Server.threads),
        ("app_backlog", configuration.Server.backlog),
        ("app_stop_timeout", configuration.Server.stop_timeout),
        ("app_health_path", configuration.Configuration.health_path),
        ("app_scheme", configuration.Configuration.scheme),
        ("app_sqlite", {name: getattr(configuration.Sqlite, name) for name in APP.variables["app_sqlite"]}),
    ],
)
def test_role_and_runtime_have_the_same_default(variable: str, ours: object) -> None:
    assert ours == APP.variables[variable]


class Captured(Exception):  # noqa: N818 (no error)
    """Carries the arguments of a module."""


def arguments_of(module: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def capture(argument_spec: dict[str, Any], **_: Any) -> None:
        raise Captured(argument_spec)

    monkeypatch.setattr(module, "AnsibleModule", capture)
    with pytest.raises(Captured) as captured:
        module.main()
    return cast("dict[str, Any]", captured.value.args[0])


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return types, defaults and choices of options, from the documentation or the declaration."""
    return {
        name: {
            "type": option.get("type", "str"), "elements": option.get("elements"), "default": option.get("default"),
            "required": option.get("required", False), "choices": option.get("choices"),
            "options": described(option.get("suboptions") or option.get("options") or {}),
        }
        for name, option in options.items()
    }  # fmt: skip


# The other modules are called by an action plugin, with other arguments.
@pytest.mark.parametrize(
    "name",
    sorted(
        path.stem
        for path in (PROJECT / "plugins/modules").glob("*.py")
        if not (PROJECT / "plugins/action" / path.name).exists()
    ),
)
def test_a_module_declares_the_documented_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"ansible_collections.hostwright.django.plugins.modules.{name}")
    documentation = yaml.safe_load(module.DOCUMENTATION)
    options = documentation["options"]
    named = documentation.get("extends_documentation_fragment", [])
    for fragment in [named] if isinstance(named, str) else named:
        part = (*fragment.split("."), "documentation")[3]
        options |= yaml.safe_load(getattr(ModuleDocFragment, part.upper()))["options"]
    documented = described(options)
    assert documented == described(arguments_of(module, monkeypatch))


# Configuration, secrets and record of a release


class Read(dict[str, Any]):
    """A JSON object that records which keys were read."""

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__({key: Read(value) if isinstance(value, dict) else value for key, value in data.items()})
        self.keys_read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_read.add(key)
        return super().get(key, default)


@pytest.fixture
def default_spec() -> spec.Spec:
    """The spec that the module release makes of the defaults of the role app."""
    given = {"image": "polls:1.0", "source_digest": "s", "image_digest": "i", "domains": ["polls.example.org"]}
    return release_module.spec_of({**role_app.defaults(), **given})


def test_the_runtime_reads_all_of_the_configuration(default_spec: spec.Spec) -> None:
    written = Read(site.with_numbers(default_spec.configuration, NUMBER, 3))
    read = configuration.parse(written, "test")
    assert set(written) - written.keys_read == set()
    assert [key for part in ("sqlite", "server") for key in written[part] if key not in written[part].keys_read] == []
    assert (str(read.media_root), str(read.secrets_directory)) == (contract.MEDIA, contract.SECRETS)
    assert str(read.require_database()) == f"{contract.DATA}/databases/3/db.sqlite3"
    assert str(read.require_socket()).startswith(f"{contract.RUN}/")


def test_the_runtime_reads_the_secret_keys(tmp_path: Path) -> None:
    key = secret_key.SecretKey("new", (secret_key.Fallback("old", 4_000_000_000),))
    for name, content in key.files().items():
        (tmp_path / name).write_text(content)
    read = configuration.Configuration(configuration.PRODUCTION, secret_key_file=tmp_path / secret_key.NAME)
    assert configuration.secret_key(read) == "new"
    assert configuration.secret_key_fallbacks(read) == {"old": 4_000_000_000}


@pytest.fixture
def written() -> record.Record:
    """A release's record."""
    return record.Record(
        site="polls", release=NUMBER, image="polls:1.0", image_id="sha256:abc", version="1.0", source_digest="s",
        generation=3, container="polls-7", configuration=contract.configuration_of(NUMBER), created="now",
        migrations=(), previous=None, spec_digest="d",
    )  # fmt: skip


def test_host_command_and_runtime_read_the_record(written: record.Record, tmp_path: Path) -> None:
    own = site.Site("polls", tmp_path)
    own.release(NUMBER).mkdir(parents=True)
    (own.release(NUMBER) / "release.json").write_text(json.dumps(dataclasses.asdict(written)))
    own.current.symlink_to(f"releases/{NUMBER}")
    read = read_record(own.release(NUMBER) / "release.json")
    assert dataclasses.asdict(read).items() <= dataclasses.asdict(written).items()
    current = host_site.Site("polls", tmp_path).current()
    assert current == json.loads(json.dumps(dataclasses.asdict(written)))
    arguments = host_containers.OneShot(host_site.Site("polls", tmp_path), "backup", [], [], 1).arguments(current)
    assert f"HOSTWRIGHT_CONFIG={written.configuration}" in arguments
    assert arguments[-1] == written.image_id


@pytest.mark.parametrize("place", ["data", "run", "media", "config", "secrets"])
def test_host_command_and_modules_have_the_same_layout(place: str) -> None:
    ours, theirs = host_site.Site("polls"), SITE
    if place == "secrets":
        assert ours.secrets("7") == theirs.memory / "7"
    else:
        assert getattr(ours, place) == getattr(theirs, {"config": "configuration"}.get(place, place))


# Containers


@pytest.fixture
def settings(tmp_path: Path) -> host_site.Settings:
    """The settings of a site's backup, as the role writes them."""
    values = {
        "directory": str(tmp_path),
        "time_limit_seconds": 3600,
        "level": 3,
        "keep": dataclasses.asdict(retention.Keep()),
    }
    return host_site.Settings(values, {}, tmp_path / "backup.json")


class Asked(Exception):  # noqa: N818 (no error)
    """Docker was asked to run a container."""


@pytest.fixture
def commands(
    written: record.Record,
    settings: host_site.Settings,
    default_spec: spec.Spec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, list[str]]:
    """The arguments that Docker gets for each container of a site."""
    own = host_site.Site("polls", tmp_path)
    asked: list[list[str]] = []
    monkeypatch.setattr(host_site.Site, "current", lambda _: dataclasses.asdict(written))
    monkeypatch.setattr(host_site.Site, "settings", lambda _: settings)
    own.data.mkdir(parents=True)
    own.media.mkdir(parents=True)

    def docker(arguments: list[str], **_: Any) -> SimpleNamespace:
        if arguments[0] == "run":
            asked.append(arguments)
            raise Asked
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(host_containers, "docker", docker)
    chosen = store.Backup("20261122T203000Z-r7", 0.0, {})
    for run in (
        lambda: runs.backup_container(own, settings, dataclasses.asdict(written)).run(dataclasses.asdict(written)),
        lambda: runs.verify(own, []),
        lambda: runs._drill_one(own, settings, chosen),
    ):
        with pytest.raises(Asked):
            run()
    made: list[list[str]] = []

    def engine(*words: str) -> str:
        made.append(list(words))
        return ""

    boxes = containers.Containers(site.Site("polls", tmp_path), cast("Any", engine))
    boxes.create(
        dataclasses.replace(default_spec, workers={"mail": ("send",)}, jobs={"tidy": spec.Job("* * * * *", ("tidy",))}),
        7,
    )
    source = restore.Source(tmp_path, cast("Any", SimpleNamespace(id=chosen.id)))
    return {
        **dict(zip(("backup", "verify", "drill"), asked, strict=True)),
        **dict(zip(("web", "worker", "job"), made, strict=True)),
        "migrator": boxes.one_shot(default_spec, 7, default_spec.image, "migrator"),
        "filler": boxes.filler(default_spec, 7, tmp_path, *source.words("/site/data/databases/4/db.sqlite3")),
        "hook": boxes.hook("polls-release-hook", default_spec, 7, ("check",)),
    }


KINDS = ("web", "worker", "job", "migrator", "filler", "hook", "backup", "verify", "drill")
# Options whose values may differ, and those whose values may not.
LIMITS = ("--memory", "--memory-swap", "--cpus", "--cpu-shares", "--pids-limit", "--network", "--log-driver")
SAME = ("--user", "--cap-drop", "--security-opt", "--ulimit", "--pull")


def value(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_has_every_option_of_a_release(commands: dict[str, list[str]], kind: str) -> None:
    command, release = commands[kind], commands["web"]
    assert {"--init", "--read-only", "--tmpfs", *LIMITS, *SAME} - set(command) == set()
    assert {option: value(command, option) for option in SAME} == {option: value(release, option) for option in SAME}
    assert value(command, "--memory") == value(command, "--memory-swap")
    sizes = [re.sub(r"size=\w+", "", word) for word in command if word.startswith("/tmp:")]
    assert sizes == [re.sub(r"size=\w+", "", word) for word in release if word.startswith("/tmp:")]
    labels = [word.partition("=")[0] for word in command if word.startswith("hostwright")]
    assert labels[:3] == ["hostwright", "hostwright.site", "hostwright.release"]


@pytest.mark.parametrize(("role", "lacks"), [("nginx", {"init"}), ("dev", {"memory", "memory_swap"})])
def test_containers_of_roles_are_hardened_too(role: str, lacks: set[str]) -> None:
    tasks = yaml.safe_load(text(f"roles/{role}/tasks/run.yml"))
    (container,) = (
        task["community.docker.docker_container"] for task in tasks if "community.docker.docker_container" in task
    )
    wanted = {"read_only": True, "cap_drop": ["ALL"], "security_opts": ["no-new-privileges"], "pull": "never",
              "ulimits": ["core:0:0"], "log_driver": "json-file", "init": True}  # fmt: skip
    assert {name for name, value in wanted.items() if container.get(name) != value} == lacks & set(wanted)
    assert {"memory", "memory_swap", "pids_limit"} - set(container) == lacks - set(wanted)
    assert container.get("memory") == container.get("memory_swap")
    assert all(mount.startswith(f"{contract.TMP}:rw,nosuid,nodev") for mount in container["tmpfs"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_accepts_the_command_of_each_container(commands: dict[str, list[str]], kind: str) -> None:
    command = commands[kind]
    verb = command[[place for place, word in enumerate(command) if word in ("polls:1.0", "sha256:abc")][-1] + 1 :]
    if kind == "hook":
        assert verb == ["manage.py", "check"]
        return
    given = parser().parse_args(verb)
    assert given.verb == verb[0]
    for name in ("output", "media"):
        assert getattr(given, name, None) in (None, Path(contract.BACKUPS), Path(contract.MEDIA))
    if "--health-cmd" in command:
        words = command[command.index("--health-cmd") + 1].split()
        assert parser().parse_args(words[3:]).verb == "probe"


def test_the_migrator_knows_the_verbs_of_the_release() -> None:
    sent = set(re.findall(r"_ask\(\s*\"(\w+)\"", inspect.getsource(migrator.Migrator)))
    known = set(re.findall(r"\"(\w+)\": self\._", inspect.getsource(image_migrator._Migrator._obey)))
    assert sent == known


# The probe


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[bytes]]]:
    """A socket that records its requests."""
    monkeypatch.chdir(tmp_path)
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("app.sock")
        server.listen()

        def serve() -> None:
            for _ in range(2):
                with server.accept()[0] as connection:
                    requests.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nready")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield tmp_path / "app.sock", requests
        thread.join(10)


@pytest.mark.parametrize("domains", [["a.example.org", "b.example.org"], [".example.org"], ["*"]])
def test_host_and_image_send_the_same_request(listener: tuple[Path, list[bytes]], domains: list[str]) -> None:
    path, requests = listener
    release = configuration.Configuration(
        configuration.PRODUCTION, allowed_hosts=tuple(domains), scheme="https",
        server=configuration.Server(socket=path.relative_to(Path.cwd())),
    )  # fmt: skip
    probe.ask(path, probe.host_header(domains), "https", probe.READY_PATH, 5)
    image_probe.ask(release, image_probe.READY_PATH, 5)
    assert requests[0] == requests[1]


# Backups


def seal(directory: Path, name: str, **changes: Any) -> None:
    """Write the manifest and the seal of a backup."""
    moment = f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}Z"
    fields: dict[str, Any] = {"id": name, "time": moment, "format": catalogue.FORMAT}
    for field, kind in manifest.FIELDS.items():
        first, _, second = field.partition(".")
        if second:
            fields.setdefault(first, {})[second] = kind()
        else:
            fields.setdefault(first, kind())
    data = json.dumps({**fields, **changes}).encode()
    (directory / f"{name}.json").write_bytes(data)
    (directory / f"{name}.json.sha256").write_text(f"{hashlib.sha256(data).hexdigest()}  {name}.json\n")


OLD, NEW, NEWEST = "20261122T120000Z-r1", "20261123T120000Z-r9", "20261123T120000Z-r10"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A directory with three backups and a foreign file."""
    for name in (OLD, NEW, NEWEST):
        seal(tmp_path, name)
    (tmp_path / "notes.json.sha256").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    "word",
    ["latest", OLD, NEW, NEWEST, "2026-11-23T11:59", "2026-11-23T12:00", "2026-11-23T12:30+01:00", "2027-01-01T00:00Z"],
)
def test_host_and_image_choose_the_same_backup(three: Path, word: str) -> None:
    assert backups.BackupDirectory.of(three).choose(word).id == image_restore.choose(three, word).id


def test_host_and_image_list_the_same_backups(three: Path) -> None:
    assert [one.id for one in store.backups(three)] == [OLD, NEW, NEWEST]
    assert [one.id for one in backups.BackupDirectory.of(three).whole] == [OLD, NEW, NEWEST]
    assert [one.id for one, _ in catalogue.listed(three)] == [OLD, NEW, NEWEST]


@pytest.mark.parametrize("change", [{"format": 1}, {"id": OLD}, {"format": None}])
def test_all_judge_a_backup_the_same_way(three: Path, change: dict[str, Any]) -> None:
    seal(three, NEWEST, **change)
    usable, wrong = store.look(three)
    assert ([one.id for one in usable], list(wrong)) == ([OLD, NEW], [NEWEST])
    shelf = backups.BackupDirectory.of(three)
    assert ([one.id for one in shelf.whole], list(shelf.damaged)) == ([OLD, NEW], [NEWEST])
    assert [one.id for one, _ in catalogue.listed(three)] == [OLD, NEW]
