"""Waiting for a release: until it has loaded, until it serves, until its workers pause."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from . import probe
from .containers import Containers
from .migrator import LOG_LINES, tail
from .spec import Spec
from .steps import Progress

PAUSE = 0.02
WARMING = 3  # requests for each thread, because the server does not distribute them evenly
MOST_AT_ONCE = 48
WARMING_SECONDS = 2.0
INSPECTION = 1.0  # seconds between two inspections of a container that does not answer yet


@dataclass
class Readiness:
    """Probes a site's releases."""

    containers: Containers
    progress: Progress
    ask: probe.Ask

    def _page(self, number: int, spec: Spec, url: str, until: float) -> probe.Reply:
        socket = self.containers.site.release(number) / "app.sock"
        host = probe.host_header(spec.configuration["allowed_hosts"])
        return self.ask(socket, host, spec.configuration["scheme"], url, max(until - time.monotonic(), 0.1))

    def wait_loaded(self, number: int, spec: Spec, until: float) -> None:
        """Wait until a release answers, with any status: it has no database yet."""
        self._wait(number, spec, probe.READY_PATH, until, lambda reply: reply.status > 0)

    def wait_ready(self, number: int, spec: Spec, until: float, patience: float = float("inf")) -> None:
        """Wait until a release answers as the site through its own socket.

        Args:
            number: the release's number.
            spec: the release's spec, with host, scheme and page.
            until: deadline, as a time of the monotonic clock.
            patience: seconds for a healthy page after the release has reported that it can serve.
        """
        self._wait(number, spec, probe.READY_PATH, until, lambda reply: reply.ready)
        until = min(until, time.monotonic() + patience)
        self._wait(number, spec, spec.configuration["health_path"], until, lambda reply: reply.healthy)

    def warm_up(self, number: int, spec: Spec) -> None:
        """Make all threads of the server answer once: the first answer of a thread takes ten times as long as the next.

        This only spares the first visitors that delay. The release has passed its checks before.
        """
        server = spec.configuration["server"]
        processes = server["processes"] if "processes" in server else server["workers"]  # so named in older records
        count = min(WARMING * processes * server["threads"], MOST_AT_ONCE)
        until = time.monotonic() + WARMING_SECONDS
        with ThreadPoolExecutor(count) as pool:
            for _ in range(count):
                pool.submit(self._page, number, spec, spec.configuration["health_path"], until)

    def _wait(self, number: int, spec: Spec, url: str, until: float, good: Callable[[probe.Reply], bool]) -> None:
        """Request a page until the answer is good.

        Raises:
            ReleaseError: the container ended or the time is over; with the last answer and the end of its log.
        """
        container = self.containers.web(number)
        start = inspected = time.monotonic()
        while not good(reply := self._page(number, spec, url, until)):
            now = time.monotonic()
            due = now > min(inspected + INSPECTION, until)
            if due and self.containers.ended(container):
                reason = f"{container} ended while it started"
            elif now > until:
                waited = max(until - start, 0)
                reason = f"{container} was not ready within {waited:.0f} s; GET {url} answered {_short(reply)}"
            else:
                inspected = now if due else inspected
                time.sleep(PAUSE)
                continue
            log = self.containers.engine.run(["logs", "--tail", str(LOG_LINES), container]).said
            raise self.progress.error(reason, tail(log))

    def wait_paused(self, number: int, workers: Mapping[str, str], patience: float) -> None:
        """Wait until each worker has reported its pause, or has no process.

        Args:
            number: the release's number.
            workers: the workers' names by the names of their containers.
            patience: seconds until the wait fails.

        Raises:
            ReleaseError: a worker still works.
        """
        until = time.monotonic() + patience
        inspection = 0.0
        waiting, rested = list(workers), partial(self.containers.site.rested, number)
        while waiting := [name for name in waiting if not os.path.lexists(rested(workers[name]))]:
            if time.monotonic() >= inspection:
                waiting = [name for name in waiting if self.containers.has_process(name)]
                inspection = time.monotonic() + INSPECTION
            if waiting and time.monotonic() > until:
                raise self.progress.error(
                    f"{waiting[0]} has not paused within {patience:.0f} s: see 'docker logs {waiting[0]}'. To release "
                    f"without waiting for it: docker stop {waiting[0]}"
                )
            time.sleep(PAUSE)


def _short(reply: probe.Reply) -> str:
    return f"{reply.status or 'none'}, {json.dumps(reply.text, ensure_ascii=False)}"
