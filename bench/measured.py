"""Runs a command and tells what it took: ``python -IS bench/measured.py SECONDS FILE COMMAND…``.

FILE gets JSON: ``seconds`` of wall, ``memory`` (the greatest resident set, in bytes), ``status``, and whether the
command was ``ended`` because it took longer than SECONDS. It is a program of its own, and a small one, as Linux counts
the memory of whoever starts a process as the process's own: less than this program's 10 MB is not seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> int:
    """Run it; return its exit status."""
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
    told = {
        "seconds": time.monotonic() - started,
        "memory": used.ru_maxrss * 1024,
        "status": os.waitstatus_to_exitcode(status),
        "ended": ended,
    }
    with open(file, "w", encoding="utf-8") as output:  # noqa: PTH123 (this program stays small)
        json.dump(told, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
