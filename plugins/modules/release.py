"""Make a release of a site on its host."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostwright.django.plugins.module_utils.engine import Engine, EngineError
from ansible_collections.hostwright.django.plugins.module_utils.release import Limits, Outcome, Releaser, Spec
from ansible_collections.hostwright.django.plugins.module_utils.site import ReleaseError, Site

DOCUMENTATION = r"""
module: release
short_description: Make a release of a Django site on its host
description:
  - Starts a container of an image that is on the host, waits until it answers as the site, and makes it the live
    release by renaming the symlink C(current). Before the rename the old release serves, after it the new one.
  - Pending migrations are applied to a copy of the database (a new generation) while the site is stopped; if anything
    fails the old release is started again on its own, untouched database.
  - A release that already is what is asked for is left alone, or started if it is down.
options:
  site:
    description: Name of the site; container, volume and directory names begin with it.
    type: str
    required: true
  image:
    description: Full name of the image.
    type: str
    required: true
  source_digest:
    description: Digest of the site's source, kept in the record.
    type: str
    required: true
  image_digest:
    description: Digest of all that decides the image's content. Another one makes a new release.
    type: str
    required: true
  root:
    description: Directory on the host that holds all sites.
    type: path
    default: /srv/hostwright
  domains:
    description: Host names the site answers to; the first one is probed.
    type: list
    elements: str
    required: true
  scheme:
    description: Scheme the browser uses.
    type: str
    choices: [http, https]
    default: http
  health_path:
    description: Path of a page that must answer before a release is committed.
    type: str
    default: /
  health_timeout:
    description: Seconds a new release has to become ready.
    type: int
    default: 60
  stop_timeout:
    description: Seconds an old release has to finish its requests.
    type: int
    default: 30
  migrate_timeout:
    description: Seconds the migrations may take.
    type: int
    default: 600
  keep_releases:
    description: Number of release records to keep, with their database generations and images.
    type: int
    default: 3
  static_url:
    description: Path at which Nginx serves static files; must be the project's STATIC_URL.
    type: str
    default: /static/
  workers:
    description: Processes of the WSGI server.
    type: int
    default: 2
  threads:
    description: Requests that one process handles at a time.
    type: int
    default: 2
  backlog:
    description: Connections that may wait for the WSGI server.
    type: int
    default: 1024
  sqlite:
    description: SQLite settings of every connection.
    type: dict
    default: {}
    suboptions:
      synchronous:
        description: V(NORMAL) can lose the last commits at power loss, V(FULL) cannot.
        type: str
        choices: [NORMAL, FULL]
        default: NORMAL
      busy_timeout:
        description: Milliseconds a writer waits for another one.
        type: int
        default: 5000
      journal_size_limit:
        description: Bytes to which the write-ahead log is cut back.
        type: int
        default: 67108864
  limits:
    description: What the container may use.
    type: dict
    default: {}
    suboptions:
      memory:
        description: Memory, as Docker writes sizes; swap is off.
        type: str
        default: 512m
      cpus:
        description: Processor cores.
        type: float
        default: 1.0
      pids:
        description: Processes and threads.
        type: int
        default: 256
      tmp:
        description: Size of /tmp, which is memory.
        type: str
        default: 256m
  environment_variables:
    description: Environment variables of the site that may be seen by anybody on the host.
    type: dict
    default: {}
  secrets:
    description: Environment variables of the site that are kept in files which only the site reads.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says whether a release would be made.
    support: full
  diff_mode:
    description: Shows version and configuration; secrets do not show.
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
  description: Number of the release that was live before the call; empty at the first one.
  type: int
  returned: success
migrations:
  description: Migrations that the release applied.
  type: list
  elements: str
  returned: success
seconds_down:
  description: Seconds during which the site answered 503 because its database was migrated.
  type: float
  returned: success
step:
  description: Step that failed.
  type: str
  returned: failure
"""

ARGUMENTS: dict[str, Any] = {
    "site": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "source_digest": {"type": "str", "required": True},
    "image_digest": {"type": "str", "required": True},
    "root": {"type": "path", "default": "/srv/hostwright"},
    "domains": {"type": "list", "elements": "str", "required": True},
    "scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
    "health_path": {"type": "str", "default": "/"},
    "health_timeout": {"type": "int", "default": 60},
    "stop_timeout": {"type": "int", "default": 30},
    "migrate_timeout": {"type": "int", "default": 600},
    "keep_releases": {"type": "int", "default": 3},
    "static_url": {"type": "str", "default": "/static/"},
    "workers": {"type": "int", "default": 2},
    "threads": {"type": "int", "default": 2},
    "backlog": {"type": "int", "default": 1024},
    "sqlite": {
        "type": "dict",
        "default": {},
        "apply_defaults": True,
        "options": {
            "synchronous": {"type": "str", "choices": ["NORMAL", "FULL"], "default": "NORMAL"},
            "busy_timeout": {"type": "int", "default": 5000},
            "journal_size_limit": {"type": "int", "default": 67108864},
        },
    },
    "limits": {
        "type": "dict",
        "default": {},
        "apply_defaults": True,
        "options": {
            "memory": {"type": "str", "default": "512m"},
            "cpus": {"type": "float", "default": 1.0},
            "pids": {"type": "int", "default": 256},
            "tmp": {"type": "str", "default": "256m"},
        },
    },
    "environment_variables": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
}


def spec_of(parameters: dict[str, Any]) -> Spec:
    """What the module's arguments ask for.

    Raises:
        ReleaseError: something that the site would not understand.
    """
    for option, pattern, rule in (
        ("secrets", r"[A-Z][A-Z0-9_]*", "capital letters, digits and '_'"),
        ("environment_variables", r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and '_'"),
    ):
        wrong = [name for name in parameters[option] if not re.fullmatch(pattern, str(name))]
        if wrong:
            raise ReleaseError(
                "read the settings", f"{option}: {wrong[0]!r} cannot name an environment variable: use {rule}"
            )
    configuration = {
        "environment": "production",
        "debug": False,
        "secret_key_file": "/site/config/secrets/secret_key",
        "allowed_hosts": parameters["domains"],
        "scheme": parameters["scheme"],
        "media_root": "/site/media",
        "health_path": parameters["health_path"],
        "sqlite": parameters["sqlite"],
        "server": {
            "workers": parameters["workers"],
            "threads": parameters["threads"],
            "backlog": parameters["backlog"],
            "stop_timeout": parameters["stop_timeout"],
        },
        "environment_variables": {name: str(value) for name, value in parameters["environment_variables"].items()},
    }
    return Spec(
        image=parameters["image"],
        source_digest=parameters["source_digest"],
        image_digest=parameters["image_digest"],
        configuration=configuration,
        limits=Limits(**parameters["limits"]),
        static_url=parameters["static_url"],
        secrets={name: str(value) for name, value in parameters["secrets"].items()},
        health_timeout=parameters["health_timeout"],
        stop_timeout=parameters["stop_timeout"],
        migrate_timeout=parameters["migrate_timeout"],
        keep_releases=parameters["keep_releases"],
    )


def described(site: Site) -> str:
    """The live release as text for ``--diff``: image and configuration, without what its number decides."""
    live = site.current_record()
    if live is None or not site.release_configuration(live.release).exists():
        return ""
    configuration = json.loads(site.release_configuration(live.release).read_text())
    for numbered in ("database", "secrets_directory"):
        configuration.pop(numbered, None)
    configuration["server"].pop("socket", None)
    return f"image: {live.image} (source {live.source_digest[:12]})\n" + _pretty(configuration)


def difference(before: str, outcome: Outcome, spec: Spec) -> dict[str, str]:
    """Before and after, as text for ``--diff``; secrets do not show."""
    if outcome.action != "released":
        return {}
    after = f"image: {spec.image} (source {spec.source_digest[:12]})\n" + _pretty(spec.configuration)
    return {"before": before, "after": after, "before_header": "release", "after_header": f"release {outcome.release}"}


def serving(site: Site, engine: Engine) -> str:
    """What serves the site now, as a sentence; it never fails."""
    try:
        live = site.current_record()
        if live is None:
            return "The site has no live release yet."
        found = engine.container(live.container)
    except (ReleaseError, EngineError):
        return "What serves now cannot be told."
    if found and found["State"]["Running"]:
        return f"Release {live.release} ({live.image}) serves on."
    return f"Release {live.release} ({live.image}) is the live one, but its container {live.container} does not run."


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # Nginx, which is not root, reads what is made here
    site = Site(module.params["site"], Path(module.params["root"]))
    engine = Engine()
    releaser = Releaser(site, engine)
    try:
        spec = spec_of(module.params)
        before = described(site)
        outcome = releaser.plan(spec) if module.check_mode else releaser.run(spec)
        for warning in outcome.warnings:
            module.warn(warning)
        module.exit_json(
            changed=outcome.action != "none",
            action=outcome.action,
            release=outcome.release,
            previous=outcome.previous.release if outcome.previous else None,
            migrations=list(outcome.migrations),
            seconds_down=round(outcome.seconds_down, 2),
            diff=difference(before, outcome, spec),
        )
    except ReleaseError as error:
        log = f"\nThe end of the log:\n{error.log}" if error.log else ""
        module.fail_json(
            msg=f"could not {error.step}: {error}. {serving(site, engine)}{log}", step=error.step, log=error.log
        )
    except EngineError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
