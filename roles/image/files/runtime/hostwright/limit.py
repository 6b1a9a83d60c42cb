"""A limit of time that ends this process whatever hangs: a hung read ends for no exception."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TIMED_OUT = 124  # as timeout(1)


@contextmanager
def ended_after(seconds: float | None, what: str) -> Iterator[None]:
    """End this process if something takes too long; what is half-done goes at the next run.

    Args:
        seconds: None for no limit.
        what: does not end, in the message.
    """

    def end() -> None:
        os.write(2, f"hostwright: {what} did not end within {seconds:g} s: given up.\n".encode())
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
