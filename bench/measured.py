"""Run a command and measure it: ``python -IS bench/measured.py SECONDS FILE COMMAND…``.

FILE gets JSON: ``seconds`` of wall time, ``memory`` (maximum resident set, in bytes), ``status``, and whether the
command was ``ended`` because it took longer than SECONDS. This is a separate, small program because Linux counts the
memory of the parent at the fork as the child's: less than this program's 10 MB cannot be measured.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> int:
    """Run the command; return this program's exit status."""
    limit, file, *command = sys.argv[1:]
    ended = False
    started = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)

    def end(number: int, frame: object) -> None:
        nonlocal ended
        del frame
        ended = ended or number == signal.SIGALRM
        os.killpg(process, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, end)
    signal.setitimer(signal.ITIMER_REAL, float(limit))
    _, status, used = os.wait4(process, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    measured = {
        "seconds": time.monotonic() - started,
        "memory": used.ru_maxrss * 1024,
        "status": os.waitstatus_to_exitcode(status),
        "ended": ended,
    }
    with open(file, "w", encoding="utf-8") as output:  # noqa: PTH123 (this program stays small)
        json.dump(measured, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
