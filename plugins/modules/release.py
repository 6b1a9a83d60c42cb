"""Make a release of a site on its host."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.cron import problem as cron_problem
from ansible_collections.hostwright.django.plugins.module_utils.host.engine import Engine
from ansible_collections.hostwright.django.plugins.module_utils.host.process import run
from ansible_collections.hostwright.django.plugins.module_utils.release.backups import BackupDirectory
from ansible_collections.hostwright.django.plugins.module_utils.release.errors import ReleaseError
from ansible_collections.hostwright.django.plugins.module_utils.release.housekeeping import HOST_COMMAND
from ansible_collections.hostwright.django.plugins.module_utils.release.module import ARGUMENTS as COMMON
from ansible_collections.hostwright.django.plugins.module_utils.release.module import perform, result_of, site_of
from ansible_collections.hostwright.django.plugins.module_utils.release.outcome import Outcome
from ansible_collections.hostwright.django.plugins.module_utils.release.record_check import PART
from ansible_collections.hostwright.django.plugins.module_utils.release.releases import Releases
from ansible_collections.hostwright.django.plugins.module_utils.release.restore import Source
from ansible_collections.hostwright.django.plugins.module_utils.release.site import SECRET, Site
from ansible_collections.hostwright.django.plugins.module_utils.release.spec import (
    COMMANDS,
    RELATED,
    TYPES,
    Job,
    Limits,
    Spec,
    types_of,
    words_of,
)
from ansible_collections.hostwright.django.plugins.module_utils.release.steps import Step

DOCUMENTATION = r"""
module: release
short_description: Make a release of a Django site on its host
description:
  - Starts a container of an image that is on the host, waits until it answers as the site, and makes it the live
    release by renaming the symlink C(current). Until the rename the old release serves, afterwards the new one.
  - The role app passes every option; its defaults are the ones that users see.
  - Pending migrations are rehearsed on a copy of the database. Then Nginx holds arriving requests, usually for a
    fraction of a second, while the migrations are applied to a second copy, which is the new generation. The same
    rename switches code and database. A failure before the rename is undone, and the old release still serves.
  - A live release that already matches the options is not changed. If it is down, it is started.
options:
  image:
    description: Full name of the image.
    type: str
    required: true
  source_digest:
    description: Digest of the site's source, kept in the record.
    type: str
    required: true
  image_digest:
    description: Digest of everything that determines the image's content. A different digest makes a new release.
    type: str
    required: true
  domains:
    description: Host names the site answers to; the first one is probed.
    type: list
    elements: str
    required: true
  scheme:
    description: Scheme the browser uses.
    type: str
    choices: [http, https]
    required: true
  health_path:
    description: Path of a page that must answer before a release is committed.
    type: str
    required: true
  health_timeout:
    description: Seconds a new release has to become ready.
    type: int
    required: true
  stop_timeout:
    description: Seconds an old release has to finish its requests.
    type: int
    required: true
  migrate_timeout:
    description: Seconds the migrations may take.
    type: int
    required: true
  keep_releases:
    description: Number of release records to keep, with their database generations and images.
    type: int
    required: true
  static_url:
    description: Path at which Nginx serves static files; must be the project's STATIC_URL.
    type: str
    required: true
  processes:
    description: Processes of the WSGI server.
    type: int
    required: true
  threads:
    description: Requests that one process handles at a time.
    type: int
    required: true
  backlog:
    description: Connections that may wait for the WSGI server.
    type: int
    required: true
  workers:
    description: Management commands that run permanently, by name. Those of the old release pause before the commit.
    type: dict
    required: true
  jobs:
    description: Management commands that cron starts, by name. Each has a C(schedule) and a C(command).
    type: dict
    required: true
  pre_release:
    description: Management commands that run in the new image, on the live database, before every release except the
      first.
    type: list
    elements: str
    required: true
  post_release:
    description: Management commands that run in the new release when it is live.
    type: list
    elements: str
    required: true
  post_restore:
    description: Management commands that run in a restored release when it is live.
    type: list
    elements: str
    required: true
  restore:
    description: Backup on the host from which the first release is made, with the backup's secret key. The site must
      not have a live release on the host.
    type: dict
    suboptions:
      directory:
        description: Directory of the backup.
        type: path
        required: true
      backup:
        description: V(latest), a backup's id, or a time.
        type: str
        default: latest
  hold_seconds:
    description: Seconds that requests may wait while a release with migrations commits.
    type: float
    required: true
  maintenance:
    description: Answer requests with 503 and a plain page during the migrations, instead of holding them.
    type: bool
    required: true
  bytes:
    description: Bytes of the image that were sent to the host, for the audit log.
    type: int
    default: 0
  rehearsal:
    description: Only load the project and rehearse its migrations. Nothing changes, and the module fails where a
      release would fail. So a release can be rehearsed on all hosts before it is made on the first one.
    type: bool
    required: true
  image_migrations:
    description: All migrations of the image. Check mode returns those that the live database lacks.
    type: list
    elements: str
  sqlite:
    description: SQLite settings of every connection.
    type: dict
    required: true
    suboptions:
      synchronous:
        description: V(NORMAL) can lose the last commits at power loss, V(FULL) cannot.
        type: str
        choices: [NORMAL, FULL]
        default: NORMAL
      busy_timeout:
        description: Milliseconds that a writer waits for another writer.
        type: int
        default: 5000
      journal_size_limit:
        description: Size in bytes to which the write-ahead log is truncated.
        type: int
        default: 67108864
  limits:
    description: What the container may use.
    type: dict
    required: true
    suboptions:
      memory:
        description: Memory, as a size in Docker's notation. Swap is off.
        type: str
        default: 512m
      cpus:
        description: >-
          Processor cores; 0 sets no limit. With a limit, a container that has used its share of a period of 0.1 s
          waits for the next period, and so do its visitors.
        type: float
        default: 0.0
      pids:
        description: Number of processes and threads.
        type: int
        default: 256
      tmp:
        description: Size of /tmp, which is memory.
        type: str
        default: 256m
  egress:
    description: >-
      Whether the release's containers may open connections, through the network C(hostwright-egress). Otherwise they
      have no network. Requests reach the release through a socket in both cases.
    type: bool
    required: true
  environment_variables:
    description: Environment variables of the site that every user of the host may see.
    type: dict
    required: true
  secrets:
    description: Environment variables of the site that are kept in files that only the site can read.
    type: dict
    required: true
extends_documentation_fragment: hostwright.django.release
attributes:
  check_mode:
    description: Predicts whether a release would be made.
    support: full
  diff_mode:
    description: Shows version and configuration, without secrets.
    support: full
author: Hostwright contributors
"""

EXAMPLES = r"""
- name: Release the site
  hostwright.django.release:
    site: polls
    image: polls:1.0
    source_digest: "{{ built.source_digest }}"
    image_digest: "{{ built.digest }}"
    domains: [polls.example.org]
    scheme: https
    health_path: /
    health_timeout: 60
    stop_timeout: 30
    migrate_timeout: 600
    keep_releases: 3
    static_url: /static/
    hold_seconds: 10
    maintenance: false
    processes: 2
    threads: 2
    backlog: 4096
    workers: {mailer: send_mail --loop}
    jobs: {tidy: {schedule: 5 4 * * *, command: clearsessions}}
    pre_release: []
    post_release: []
    post_restore: []
    sqlite: {synchronous: FULL}
    limits: {memory: 1g}
    egress: false
    environment_variables: {LANGUAGE: en}
    secrets: {API_TOKEN: "{{ vault_api_token }}"}
    rehearsal: false
"""

RETURN = r"""
action:
  description: C(none), C(started) (the live release was down) or C(released).
  type: str
  returned: success
release:
  description: Number of the live release.
  type: int
  returned: success
previous:
  description: Number of the release that was live before the call; empty for the first release.
  type: int
  returned: success
migrations:
  description: Migrations that the release applied.
  type: list
  elements: str
  returned: success
held:
  description: Seconds during which requests waited, or were answered 503 in a maintenance window.
  type: float
  returned: success
rehearsed:
  description: Seconds and bytes that the rehearsal of the migrations took, and the hold that it predicts.
  type: dict
  returned: success
restored:
  description: Result of the restore that made the first release, as M(hostwright.django.restore) returns it.
  type: dict
  returned: success
step:
  description: Step that failed.
  type: str
  returned: failure
"""

NO_OPTIONS = ("configuration", "drain_seconds")  # fields of a spec that are no options of the module
SHOWN_APART = ("image", "source_digest", "image_digest", "configuration")  # not among the other fields in --diff
SERVER = ("processes", "threads", "backlog")  # options of the WSGI server alone
ARGUMENTS: dict[str, Any] = {
    **COMMON,
    **{
        name: {"type": kind, "required": True, **({"elements": "str"} if kind == "list" else {})}
        for name, kind in TYPES.items()
        if name not in NO_OPTIONS
    },
    **{name: {"type": "int", "required": True} for name in SERVER},
    "secrets": {"type": "dict", "required": True, "no_log": True},
    "domains": {"type": "list", "elements": "str", "required": True},
    "scheme": {"type": "str", "choices": ["http", "https"], "required": True},
    "health_path": {"type": "str", "required": True},
    "restore": {
        "type": "dict",
        "options": {
            "directory": {"type": "path", "required": True},
            "backup": {"type": "str", "default": "latest"},
        },
    },
    "bytes": {"type": "int", "default": 0},
    "image_migrations": {"type": "list", "elements": "str"},
    "rehearsal": {"type": "bool", "required": True},
    "sqlite": {
        "type": "dict",
        "required": True,
        "options": {
            "synchronous": {"type": "str", "choices": ["NORMAL", "FULL"], "default": "NORMAL"},
            "busy_timeout": {"type": "int", "default": 5000},
            "journal_size_limit": {"type": "int", "default": 67108864},
        },
    },
    "limits": {
        "type": "dict",
        "required": True,
        "options": {name: {"type": kind, "default": getattr(Limits, name)} for name, kind in types_of(Limits).items()},
    },
    "environment_variables": {"type": "dict", "required": True},
}


def spec_of(parameters: dict[str, Any]) -> Spec:
    """Return the spec that the module's options describe.

    Raises:
        ReleaseError: an option has an invalid value.
    """
    for option, pattern, rule in (
        ("secrets", SECRET.pattern, "capital letters, digits and '_'"),
        ("environment_variables", r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and '_'"),
    ):
        wrong = [name for name in parameters[option] if not re.fullmatch(pattern, str(name))]
        if wrong:
            raise ReleaseError(
                Step.READ_SETTINGS, f"{option}: {wrong[0]!r} cannot name an environment variable: use {rule}"
            )
    configuration = {
        "environment": "production",
        "debug": False,
        "allowed_hosts": parameters["domains"],
        "scheme": parameters["scheme"],
        "media_root": "/site/media",
        "health_path": parameters["health_path"],
        "sqlite": parameters["sqlite"],
        "server": {name: parameters[name] for name in (*SERVER, "stop_timeout")},
        "environment_variables": {name: str(value) for name, value in parameters["environment_variables"].items()},
    }
    transformed = {
        "configuration": configuration,
        "limits": Limits(**parameters["limits"]),
        "secrets": {name: str(value) for name, value in parameters["secrets"].items()},
        "workers": {_part("workers", name): words_of("workers", line) for name, line in parameters["workers"].items()},
        "jobs": {_part("jobs", name): _job(name, job) for name, job in parameters["jobs"].items()},
        **{option: tuple(words_of(option, line) for line in parameters[option]) for option in COMMANDS},
    }
    return Spec(**{name: parameters[name] for name in TYPES if name not in NO_OPTIONS} | transformed)


def _part(option: str, name: object) -> str:
    if not PART.fullmatch(str(name)):
        raise ReleaseError(
            Step.READ_SETTINGS, f"{option}: {name!r} is not a valid name: use lower-case letters, digits, '-', '_'"
        )
    return str(name)


def _job(name: object, job: object) -> Job:
    if not isinstance(job, dict) or set(job) != {"schedule", "command"}:
        raise ReleaseError(Step.READ_SETTINGS, f"jobs: {name!r} needs 'schedule' and 'command', and nothing else")
    problem = cron_problem(job["schedule"])
    if problem:
        raise ReleaseError(Step.READ_SETTINGS, f"jobs: {name}: {problem}")
    return Job(str(job["schedule"]), words_of("jobs", job["command"]))


def described(site: Site) -> str:
    """Return the live release as text for ``--diff``; empty without a live release."""
    live = site.current_record()
    return _text({"egress": True, **live.spec}, live.container) if live and live.spec else ""  # as Spec.of_record


def difference(before: str, outcome: Outcome, spec: Spec, site: Site) -> dict[str, str]:
    """Return the state before and after as text for ``--diff``, without secrets."""
    if outcome.action != "released":
        return {}
    waiting = f" (requests wait for about {outcome.held:.1f} s)" if outcome.held else ""
    migrations = [f"migration: {name}{waiting}\n" for name in outcome.migrations]
    after = _text(spec.recorded(), f"{site.name}-{outcome.release}", "".join(migrations))
    return {"before": before, "after": after, "before_header": "release", "after_header": f"release {outcome.release}"}


def _text(recorded: Mapping[str, Any], container: str, migrations: str = "") -> str:
    names = [container, *(f"{container}-{part}" for part in (*recorded["workers"], *recorded["jobs"]))]
    others = {name: recorded[name] for name in RELATED if name in recorded and name not in SHOWN_APART}
    text = json.dumps(recorded["configuration"] | others, indent=1, sort_keys=True)
    image = f"image: {recorded['image']} (source {recorded['source_digest'][:12]})\n"
    return "".join([image, *(f"container: {name}\n" for name in names), migrations, text, "\n"])


def stale_backups(site: str, command: str = HOST_COMMAND) -> str:
    """Return the host command's message about stale backups; empty if they are fresh or not set up."""
    done = run([command, "backups", site, "--fresh"])
    return done.said if done.status == 1 else ""


def perform_release(releases: Releases, spec: Spec, options: Mapping[str, Any], check_mode: bool) -> Outcome:
    """Predict, rehearse, rebuild or make a release."""
    if check_mode:
        return releases.plan(spec, options["image_migrations"])
    if options["rehearsal"]:
        return releases.rehearse(spec)
    if not options["restore"]:
        return releases.run(spec)
    directory = Path(options["restore"]["directory"])
    backup = BackupDirectory.of(directory).choose(options["restore"]["backup"])
    return releases.rebuild(spec, Source(directory, backup))


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    site = site_of(module)
    releases = Releases(site, Engine(), audit={name: module.params[name] for name in ("by", "bytes")})

    def release() -> dict[str, Any]:
        spec = spec_of(module.params)
        before = described(site)
        outcome = perform_release(releases, spec, module.params, module.check_mode)
        result = result_of(module, outcome)
        if outcome.previous and outcome.action == "released" and (stale := stale_backups(site.name)):
            module.warn(f"the site's backups are stale: {stale}")
        return {**result, "restored": outcome.restored or None, "diff": difference(before, outcome, spec, site)}

    perform(module, releases, release)


if __name__ == "__main__":
    main()
