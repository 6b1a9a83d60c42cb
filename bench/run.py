"""Measure, and rewrite docs/benchmarks.md with the results. Run by `make bench`."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping

from bench import backup, push, release, tls
from bench.lab import PROJECT, Lab, LabError
from bench.report import Section, merged

# All measurements, in the order of the report. Each gets the machines and returns its section.
MEASUREMENTS: Mapping[str, Callable[[Lab], Section]] = {
    "push": push.measure,
    "release": release.measure,
    "backup": backup.measure,
    "tls": tls.measure,
}
REPORT = PROJECT / "docs" / "benchmarks.md"


def main() -> int:
    """Run the chosen measurements; return the exit status, which does not depend on the targets."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--only", choices=sorted(MEASUREMENTS), action="append", help="measure only this")
    parser.add_argument("--quick", action="store_true", help="fewer samples; prints the report and leaves the file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))  # so that the hosts are removed on exit
    started = time.monotonic()
    sections = []
    for name in options.only or MEASUREMENTS:
        with Lab(quick=options.quick) as lab:
            sections.append(MEASUREMENTS[name](lab))
    report = merged(REPORT.read_text() if REPORT.exists() else "", sections, list(MEASUREMENTS))
    if options.quick:
        print(*sections, sep="\n")
    else:
        REPORT.write_text(report)
        print(*(f"{section.title}: {section.verdict}" for section in sections), sep="\n")
        print(f"The report is in {REPORT.relative_to(PROJECT)}.")
    print(f"That took {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as problem:
        sys.exit(f"Hostwright: {problem}")
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
