"""A time limit that ends this process even if a system call hangs: an exception cannot interrupt a hung read."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TIMED_OUT = 124  # as timeout(1)


@contextmanager
def ended_after(seconds: float | None, what: str) -> Iterator[None]:
    """Exit with status 124 if the body takes too long. The next run removes what this one left incomplete.

    Args:
        seconds: the limit; None for none.
        what: name of the operation, for the message.
    """

    def end() -> None:
        os.write(2, f"hostwright: {what} did not end within {seconds:g} s and was ended.\n".encode())
        os._exit(TIMED_OUT)

    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
