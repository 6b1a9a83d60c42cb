"""The release that is live when a transaction begins: paused before the commit, then retired or resumed."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from ..contract import RUN
from ..host.engine import EngineError
from ..host.files import remove_tree
from .containers import Containers
from .generation import database
from .hold import MARGIN, Gate, RenewedGate, connections, drain
from .migrator import Migrator
from .readiness import Readiness
from .record import Record
from .spec import Spec
from .steps import Progress, Step

NGINX = "hostwright-nginx"
REST_ROOM = 10.0  # seconds for a worker to notice the pause, and to start if the Engine is just restarting it
MAINTENANCE_SECONDS = 10.0  # after which Nginx opens again if this process has died


@dataclass
class OldRelease:
    """The old release, and what keeps it from writing.

    ``spec`` is the new release's. ``gate`` keeps requests waiting, ``pause`` pauses the workers, ``stopped`` names the
    containers to restart after a failure, and ``held`` is the number of seconds that requests waited.
    """

    record: Record
    spec: Spec
    containers: Containers
    readiness: Readiness
    progress: Progress
    gate: Gate | None = None
    pause: Gate | None = None
    stopped: list[str] = field(default_factory=list)
    held_since: float = 0.0
    held: float = 0.0

    def pause_workers(self) -> None:
        """Pause the workers and stop the jobs, so that no job of two releases runs at the same time.

        A worker's container keeps running, so that the worker resumes if this process dies.

        Raises:
            ReleaseError: a worker does not pause.
        """
        self.progress.at(Step.REST)
        number, site = self.record.release, self.containers.site
        workers = {self.containers.worker(number, name): name for name in self.record.spec.get("workers", {})}
        patience = self.record.spec.get("stop_timeout", self.spec.stop_timeout) + REST_ROOM
        if workers:
            for name in workers.values():
                remove_tree(site.rested(number, name))
            self.pause = RenewedGate(site.rest(number))  # its only deadline is this process's death
            self.pause.shut(patience + self.spec.hold_seconds + MARGIN)
        others = set(self.containers.of_release(number)) - {self.record.container, *workers}
        self.stopped = [name for name in sorted(others) if self.containers.running(name)]
        self.containers.stop(self.stopped, self.spec.stop_timeout)
        self.readiness.wait_paused(number, workers, patience)

    def hold(self, migrator: Migrator) -> None:
        """Hold requests, let the old release answer the earlier ones, and block writes to its database.

        Raises:
            MigratorError: the database cannot be guarded.
            ReleaseError: the hold's time is over.
        """
        nginx = self._nginx()
        self.progress.at(Step.HOLD)
        site, maintenance = self.containers.site, self.spec.maintenance
        self.gate = RenewedGate(site.maintenance) if maintenance else Gate(site.hold)
        self.held_since = time.monotonic()
        self.gate.shut(MAINTENANCE_SECONDS if maintenance else self.spec.hold_seconds)
        self.progress.at(Step.DRAIN)
        self._drain(nginx)
        self.progress.at(Step.GUARD)
        migrator.guard(database(self.record.generation), min(self.seconds_left(), self.spec.hold_seconds / 2))

    def seconds_left(self) -> float:
        """Return the seconds that a step may take before the hold ends.

        Raises:
            ReleaseError: none are left.
        """
        left = min(self.gate.left() if self.gate else float("inf"), float(self.spec.migrate_timeout))
        if left <= 0:
            raise self.progress.error(
                f"requests may wait {self.spec.hold_seconds:g} s (less {MARGIN:g} s for safety), and that was not "
                "enough: deploy again with app_maintenance=true, or raise app_hold_seconds"
            )
        return left

    def stop(self) -> None:
        """Stop a release whose database is missing or cannot be guarded; visitors get the plain page meanwhile.

        A container that runs on a removed directory makes the Engine mount that directory, not the new generation, in
        every other container.
        """
        self.progress.at(Step.STOP_LIVE)
        held, self.gate = self.gate, RenewedGate(self.containers.site.maintenance)
        self.held_since = self.held_since or time.monotonic()
        self.gate.shut(MAINTENANCE_SECONDS)
        if held and held.path != self.gate.path:
            held.open()
        running = [name for name in self.containers.of_release(self.record.release) if self.containers.running(name)]
        self.stopped = [*self.stopped, *running]
        self.containers.stop(running, self.spec.stop_timeout)

    def end_hold(self) -> None:
        """End the hold and the workers' pause; the workers of the release that ``current`` names then run."""
        if self.gate:
            self.gate.open()
            self.gate = None
            self.held = time.monotonic() - self.held_since
        if self.pause:
            self.pause.open()
            self.pause = None

    def restart(self) -> None:
        """Start the stopped containers; a container that cannot be started now is left to the next call."""
        for name in self.stopped:
            with suppress(EngineError):
                self.containers.engine.run(["start", name])

    def retire(self) -> None:
        """Let the release finish its requests, then remove its containers."""
        names = self.containers.of_release(self.record.release)
        self._drain(self._nginx())
        self.containers.stop([name for name in names if self.containers.running(name)], self.spec.stop_timeout)
        self.containers.remove(*names)
        self.containers.site.end_pause(self.record.release)

    def _nginx(self) -> int:
        """Return the id of Nginx's process, 0 if it does not run."""
        found = self.containers.engine.container(NGINX)
        return int(found["State"]["Pid"]) if found else 0

    def _drain(self, nginx: int) -> None:
        """Let it answer the requests that Nginx has passed on; its end would break connections it has not accepted."""
        socket = f"{RUN}/releases/{self.record.release}/app.sock"
        drain(partial(connections, nginx, socket), self.spec.drain_seconds)
