"""``python3 -m hostwright VERB``: what the roles do inside the image."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import hostwright
import hostwright.sqlite  # before anything imports sqlite3
from hostwright.errors import HostwrightError


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    top = argparse.ArgumentParser(prog="hostwright", description="The runtime of a site deployed by Hostwright.")
    top.add_argument("--version", action="version", version=f"hostwright {hostwright.__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = verbs.add_parser("install", help="prepare the image (at build, as root)")
    verb.add_argument(
        "--prefix", type=Path, default=Path("/opt/hostwright"), help="holds requirements, server, runtime"
    )
    verb.add_argument("--root", type=Path, default=Path("/"), help="of the file system")

    verb = verbs.add_parser("collect", help="check the project and collect its static files (at build)")
    verb.add_argument("--output", type=Path, default=Path("/static"), help="gets the directories vendor and site")
    verb.add_argument("--requirements", type=Path, default=Path("/opt/hostwright/requirements"))

    verb = verbs.add_parser("preflight", help="import the project and check that it can be deployed")
    verb.add_argument("--pending", action="store_true", help="compare its migrations with the database too")

    verbs.add_parser("migrator", help="copy and migrate databases at the committer's word, by lines of JSON")

    verbs.add_parser("serve", help="run the WSGI server on the release's socket, once current names the release")

    verb = verbs.add_parser("work", help="run a management command while current names the release")
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="and its arguments")

    verb = verbs.add_parser("develop", help="migrate, then run Django's development server")
    verb.add_argument("--port", type=int, default=8000)

    verb = verbs.add_parser("probe", help="wait until the release answers on its socket")
    verb.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS")

    verb = verbs.add_parser("backup", help="make one verified backup")
    verb.add_argument("--output", type=Path, default=Path("/site/backups"))
    verb.add_argument("--keep", type=int, default=48, metavar="COUNT")
    verb.add_argument("--record", type=Path, help="release.json (default: beside the release's socket)")
    verb.add_argument("--time-limit", type=float, metavar="SECONDS")
    return top


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Do what the command line says.

    Each verb imports what it needs itself: a process that does not need Django does not load it.

    Returns:
        What to print as one line of JSON.
    """
    match arguments.verb:
        case "install":
            from hostwright import install

            return {"changed": install.install(arguments.prefix, arguments.root)}
        case "collect":
            from hostwright import collect, preflight

            preflight.preflight()
            return collect.collect(arguments.output, arguments.requirements)
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
            from hostwright import backup

            return backup.backup(arguments.output, arguments.keep, arguments.record, arguments.time_limit)
    return None


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0, 1 (what the verb looks at is not right), 2 (wrong usage or configuration), 75 (busy).
    """
    arguments = parser().parse_args(argv)
    try:
        answer = run(arguments)
    except HostwrightError as error:
        print(f"hostwright {arguments.verb}: {error}", file=sys.stderr)
        return error.exit_status
    if answer is not None:
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
