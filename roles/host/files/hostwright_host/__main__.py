"""``hostwright VERB [SITE]``: the command line."""

from __future__ import annotations

import argparse
import json
import re
import sys
import syslog
import time
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.hostwright.django.plugins.module_utils.release import secret_files

from hostwright_host import certificates, containers, runs, show
from hostwright_host.errors import CommandError
from hostwright_host.site import Site
from hostwright_host.store import look

_SITE = re.compile(r"[a-z0-9][a-z0-9_-]*")


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(prog="hostwright", description="Manage the sites of this host.")
    for place in ("root", "private", "state", "volatile"):
        top.add_argument(f"--{place}", type=Path, default=getattr(Site, place), help=argparse.SUPPRESS)
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.add_argument("site", metavar="SITE")
        return added

    added = verb("manage", "run a management command in the live release: hostwright manage SITE -- check")
    added.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS", help="arguments for manage.py")
    added = verb("job", "run a job of the live release, as cron does")
    added.add_argument("name", metavar="JOB")
    for name, text in (
        ("backup", "back the site up, verify the backup, send it off-site if a repository is configured"),
        ("drill", "restore and boot the newest backup and an older one in a scratch directory"),
        ("offsite-check", "check the off-site repository"),
    ):
        verb(name, text).add_argument("--quiet", action="store_true", help="print nothing on success (for cron)")
    verb("watch", "raise an alarm if backups or drills are late or failed (for cron)")
    added = verb("backups", "list the backups")
    added.add_argument("--json", action="store_true", help="as JSON, oldest first")
    added.add_argument("--fresh", action="store_true", help="print nothing; fail if the backups are stale")
    added = verb("verify", "read backups again and compare them with their manifests")
    added.add_argument("ids", nargs="*", metavar="ID", help="backups to verify (default: all)")
    added = verb("status", "print the live release, its container and its backups as JSON")
    added.add_argument("--page", action="store_true", help="print text; fail if there is a problem")
    text = "obtain and renew the certificates that a CA issues for this host's sites"
    added = verbs.add_parser("certificates", help=text, description=text)
    added.add_argument("sites", nargs="*", metavar="SITE", help="sites to process (default: all)")
    added.add_argument("--force", action="store_true", help="renew certificates that are not due, too")
    text = "copy the secrets of all releases into memory, as at every boot"
    verbs.add_parser("secrets", help=text, description=text)
    return top


def run(arguments: argparse.Namespace) -> int:
    """Run the verb of the command line; return the exit status."""
    if arguments.verb == "certificates":
        return certificates.renew(arguments.root / "nginx", arguments.sites, arguments.force)
    if arguments.verb == "secrets":
        return secret_files.provide_all(arguments.root, arguments.volatile)
    if not _SITE.fullmatch(arguments.site):
        raise CommandError(f"{arguments.site!r} is not a site name: use lower-case letters, digits, '-' and '_'.", 2)
    places = (arguments.root, arguments.private, arguments.state, arguments.volatile)
    return _run(arguments, Site(arguments.site, *places))


def _run(arguments: argparse.Namespace, site: Site) -> int:
    verb = arguments.verb
    if verb == "manage":
        words = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
        if not words:
            raise CommandError(f"The command is missing. Example: hostwright manage {site.name} -- check --deploy", 2)
        return containers.manage(site, words)
    if verb == "job":
        return containers.job(site, arguments.name)
    if verb == "backup":
        manifest = runs.backup(site)
        if not arguments.quiet:
            print(json.dumps(manifest, ensure_ascii=False))
    elif verb == "drill":
        reports = runs.drill(site)
        if not arguments.quiet:
            print(json.dumps(reports, ensure_ascii=False))
    elif verb == "offsite-check":
        runs.check_offsite(site)
        if not arguments.quiet:
            print(f"The off-site repository of {site.name} passed its check.")
    elif verb == "watch":
        message = runs.watch(site)
        if message:
            print(message)
    elif verb == "backups":
        return _backups(arguments, site)
    elif verb == "verify":
        result = runs.verify(site, arguments.ids)
        print(json.dumps(result, ensure_ascii=False))
        return 1 if result.get("wrong") else 0
    elif verb == "status":
        state = show.status(site)
        print(show.page(state) if arguments.page else json.dumps(state, ensure_ascii=False, indent=2))
        return 1 if arguments.page and state["problems"] else 0
    return 0


def _backups(arguments: argparse.Namespace, site: Site) -> int:
    if arguments.fresh:
        show.require_fresh(site)
        return 0
    usable, unusable = look(site.settings().directory)
    if arguments.json:
        print(json.dumps(show.as_data(usable), ensure_ascii=False, indent=2))
    elif usable or unusable:
        print(show.table(usable, unusable, time.time()))
    else:
        print(f"There is no backup of {site.name} yet.")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status."""
    arguments = parser().parse_args(argv)
    syslog.openlog("hostwright")
    try:
        return run(arguments)
    except CommandError as error:
        if str(error):
            words = ["hostwright", arguments.verb, *([arguments.site] if "site" in arguments else [])]
            print(f"{' '.join(words)}: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
