"""Command line of the runtime: ``python3 -m hostwright VERB``, run in containers by the roles."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hostwright
import hostwright.sqlite  # before anything imports sqlite3
from hostwright.errors import HostwrightError
from hostwright.limit import ended_after

# These run at low priority, so that they do not delay requests.
_BACKGROUND = ("backup", "verify", "drill")
_NICENESS = 10


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="hostwright", description="The runtime of a site deployed by Hostwright.")
    top.add_argument("--version", action="version", version=f"hostwright {hostwright.__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = verbs.add_parser("install", help="prepare the image (at build, as root)")
    verb.add_argument(
        "--prefix", type=Path, default=Path("/opt/hostwright"), help="directory of requirements, server, runtime"
    )
    verb.add_argument("--root", type=Path, default=Path("/"), help="root of the file system")

    verb = verbs.add_parser("collect", help="collect the static files and check the project (at build)")
    verb.add_argument("--output", type=Path, default=Path("/static"), help="target of the directories vendor and site")
    verb.add_argument("--requirements", type=Path, default=Path("/opt/hostwright/requirements"))

    verb = verbs.add_parser("preflight", help="import the project and check that it can be deployed")
    verb.add_argument("--pending", action="store_true", help="also compare its migrations with the database")

    verbs.add_parser("migrator", help="copy and migrate databases as the committer commands in lines of JSON")

    verbs.add_parser("serve", help="wait until current names the release, then run the WSGI server")

    verb = verbs.add_parser("work", help="run a management command while current names the release")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="and its arguments")

    verb = verbs.add_parser("develop", help="migrate, then run Django's development server")
    verb.add_argument("--port", type=int, default=8000)

    verb = verbs.add_parser("probe", help="wait until the release answers on its socket")
    verb.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")

    verb = verbs.add_parser("backup", help="make one verified backup, and remove old ones")
    _in_backups(verb)
    verb.add_argument("--record", type=Path, help="release.json (default: beside the release's socket)")
    verb.add_argument("--keep", metavar="JSON", help='to keep: {"last":24,"hourly":48,"daily":14,"weekly":8,…}')
    verb.add_argument("--level", type=int, choices=range(1, 20), default=3, metavar="1…19", help="level of zstd")
    verb.add_argument("--media", type=Path, help="the site's media directory (default: no media files)")

    verb = verbs.add_parser("verify", help="read backups from the disk and compare them with the recorded hashes")
    _in_backups(verb)
    verb.add_argument("ids", nargs="*", metavar="ID", help="default: all")

    verb = verbs.add_parser("restore", help="restore a backup, or import a database, to a path that does not exist")
    _in_backups(verb)
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--backup", metavar="ID|latest|TIME", help="the newest made at or before TIME (UTC)")
    what.add_argument("--file", type=Path, help="a SQLite database, or an archive of one (.sqlite3.zst)")
    verb.add_argument("--target", type=Path, required=True, help="path of the database; its directory must exist")
    verb.add_argument("--media", type=Path, help="restore the media files that are missing in this directory")

    verb = verbs.add_parser("drill", help="restore a backup into a scratch directory and boot the release on it")
    _in_backups(verb)
    verb.add_argument("--backup", metavar="ID|latest|TIME", default="latest")
    verb.add_argument("--scratch", type=Path, required=True, help="an empty directory; emptied again at the end")
    return top


def _in_backups(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--output", type=Path, default=Path("/site/backups"), help="the directory of the backups")
    verb.add_argument("--time-limit", type=float, metavar="SECONDS", help="end the process after this time")


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Run the verb of the command line.

    Each verb imports its own modules, so that a process that does not need Django does not load it.

    Returns:
        The result to print as one line of JSON, or None.
    """
    match arguments.verb:
        case "install":
            from hostwright import install

            return {"changed": install.install(arguments.prefix, arguments.root)}
        case "collect":
            from hostwright import collect

            found = collect.collect(arguments.output, arguments.requirements)
            # In a new process, which imports the project with the manifest of static files in place.
            done = subprocess.run([sys.executable, "-m", "hostwright", "preflight"], stdout=sys.stderr, check=False)
            return found if done.returncode == 0 else sys.exit(done.returncode)
        case "preflight":
            from hostwright import preflight

            return preflight.preflight(pending=arguments.pending)
        case "migrator":
            from hostwright import migrator

            migrator.migrator()
        case "serve":
            from hostwright import serve

            serve.serve()
        case "work":
            from hostwright import serve

            serve.work(arguments.command)
        case "develop":
            from hostwright import serve

            serve.develop(arguments.port)
        case "probe":
            from hostwright import probe

            return probe.probe(arguments.timeout)
        case "backup":
            from hostwright import backup, retention

            keep = retention.Keep() if arguments.keep is None else retention.Keep.parse(arguments.keep)
            options = backup.Options(keep, arguments.level, arguments.media, arguments.record)
            with ended_after(arguments.time_limit, f"the backup into {arguments.output}"):
                return backup.backup(arguments.output, options)
        case "verify":
            from hostwright import verify

            with ended_after(arguments.time_limit, f"the verification of {arguments.output}"):
                return verify.verify(arguments.output, arguments.ids)
        case "restore":
            from hostwright import restore

            with ended_after(arguments.time_limit, f"the restore to {arguments.target}"):
                if arguments.file is not None:
                    return restore.import_database(arguments.file, arguments.target)
                return restore.restore(arguments.output, arguments.backup, arguments.target, arguments.media)
        case "drill":
            from hostwright import drill

            with ended_after(arguments.time_limit, f"the drill in {arguments.scratch}"):
                return drill.drill(arguments.output, arguments.backup, arguments.scratch)
    return None


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0, 1 (failure, or a damaged backup), 2 (wrong usage or configuration), 75 (busy).
    """
    arguments = parser().parse_args(argv)
    if arguments.verb in _BACKGROUND:
        os.nice(_NICENESS)
    try:
        answer = run(arguments)
    except HostwrightError as error:
        print(f"hostwright {arguments.verb}: {error}", file=sys.stderr)
        return error.exit_status
    if answer is not None:
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    return 1 if answer is not None and answer.get("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
