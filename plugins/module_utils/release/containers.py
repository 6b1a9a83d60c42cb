"""A site's containers: limits, mounts, labels, and their life cycle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import BACKUPS, CONFIGURATION, SECRETS, configuration_of, hardened, labels
from ..host.engine import Engine, EngineError
from .errors import ReleaseError
from .record import Record
from .site import Site
from .spec import Spec

HELPER = "release"  # suffix of the name of a site's one-shot container
SERVING, BESIDE = 1024, 512  # CPU shares of the containers that visitors wait for, and of all others
EGRESS = "hostwright-egress"  # the network of releases that may open connections
# The configuration contains the secrets of all releases, for backups; an empty directory is mounted over them.
HIDDEN = ("--tmpfs", f"{CONFIGURATION}/secrets:ro,nosuid,nodev,noexec,size=4k")
PROBE = (
    "--health-cmd", "python3 -m hostwright probe --timeout 5", "--health-interval", "30s",
    "--health-timeout", "10s", "--health-retries", "3",
)  # fmt: skip
NO_PROBE = ("--no-healthcheck",)
REMOVAL_SECONDS = 10.0
PAUSE = 0.1


@dataclass
class Containers:
    """The containers of one site; a release has ``web``, its workers and its jobs."""

    site: Site
    engine: Engine

    @property
    def helper(self) -> str:
        """Name of the one-shot container that loads a project and migrates."""
        return f"{self.site.name}-{HELPER}"

    def web(self, number: int) -> str:
        """Name of the container that serves a release."""
        return f"{self.site.name}-{number}"

    def worker(self, number: int, name: str) -> str:
        """Name of the container of a release's worker."""
        return f"{self.web(number)}-{name}"

    def job(self, number: int, name: str) -> str:
        """Name of the container that cron starts."""
        return f"{self.web(number)}-job-{name}"

    def provide_network(self, spec: Spec) -> None:
        """Make the network that a release's containers need; in it they cannot reach each other.

        Raises:
            EngineError: it cannot be made, or a foreign network has its name.
        """
        ours = ("--filter", f"name=^{EGRESS}$", "--filter", "label=hostwright=network")
        if spec.egress and not self.engine("network", "ls", "--quiet", *ours):
            apart = ("--opt", "com.docker.network.bridge.enable_icc=false")
            self.engine("network", "create", "--label", "hostwright=network", *apart, EGRESS)

    def create(self, spec: Spec, number: int) -> None:
        """Create all containers of a release, without starting them."""
        self.provide_network(spec)
        self._create(self.web(number), spec, number, "always", PROBE, "serve")
        for name, command in spec.workers.items():
            options = (*NO_PROBE, "--env", f"HOSTWRIGHT_WORKER={name}")
            self._create(self.worker(number, name), spec, number, "always", options, "work", *command)
        for name, job in spec.jobs.items():
            self._create(self.job(number, name), spec, number, "no", NO_PROBE, "work", *job.command)

    def _create(self, name: str, spec: Spec, number: int, restart: str, options: tuple[str, ...], *verb: str) -> None:
        self.engine(
            "create", "--name", name, *_hardened(spec, _network(spec), SERVING if options is PROBE else BESIDE),
            *self._mounts(number), *self._labels(number),
            "--hostname", self.site.name, "--restart", restart, "--stop-timeout", str(spec.stop_timeout),
            *options, spec.image, *verb,
        )  # fmt: skip

    def one_shot(self, spec: Spec, number: int, image: str, *verb: str) -> list[str]:
        """Return Docker's arguments to run a verb of the runtime interactively, without network, media read-only."""
        return [
            "run", "--rm", "--interactive", "--name", self.helper, *_hardened(spec, "none"),
            *self._mounts(number, read_only=(f"{self.site.name}_media",)), *self._labels(number), image, *verb,
        ]  # fmt: skip

    def filler(self, spec: Spec, number: int, backups: Path, *verb: str) -> list[str]:
        """Return Docker's arguments to fill a database generation from a directory, which is mounted read-only.

        The site's directories are bound by their paths: the Engine mounts a volume once for all its containers, so a
        running container would make it show a directory that was removed meanwhile.
        """
        mounts = [
            word
            for path, target, read_only in (*self.site.volumes.values(), (backups, BACKUPS, True))
            for word in ("--mount", f"type=bind,src={path},dst={target}{',readonly' if read_only else ''}")
        ]
        return [
            "run", "--rm", "--name", self.helper, *_hardened(spec, "none"), *mounts, *HIDDEN,
            *self._labels(number), spec.image, *verb,
        ]  # fmt: skip

    def hook(self, name: str, spec: Spec, number: int, command: tuple[str, ...]) -> list[str]:
        """Return Docker's arguments to run a management command of a release that does not serve yet."""
        return [
            "run", "--rm", "--name", name, *_hardened(spec, _network(spec)), *self._mounts(number),
            *self._labels(number), "--entrypoint", "python3", spec.image, "manage.py", *command,
        ]  # fmt: skip

    def of_release(self, number: int) -> list[str]:
        """Return the names of a release's existing containers, the serving one first."""
        return sorted(name for name, label in self.all().items() if label == str(number) and name != self.helper)

    def all(self) -> dict[str, str]:
        """Return the containers of all releases: their names, each with the number of its release."""
        listed = self.engine(
            "ps", "--all", "--filter", "label=hostwright=release",
            "--filter", f"label=hostwright.site={self.site.name}",
            "--format", '{{.Names}} {{.Label "hostwright.release"}}',
        )  # fmt: skip
        found = (line.partition(" ") for line in listed.splitlines())
        return {name: label for name, _, label in found}

    def down(self, live: Record, spec: Spec) -> list[str]:
        """Return the names of the live release's containers that should run and do not, the serving one first."""
        names = [live.container, *(self.worker(live.release, name) for name in spec.workers)]
        return [name for name in names if not self.running(name)]

    def running(self, name: str) -> bool:
        """Return whether a container runs."""
        found = self.engine.container(name)
        return bool(found and found["State"]["Running"])

    def has_process(self, name: str) -> bool:
        """Return whether a process runs in a container; the Engine reports a restarting container as running, too."""
        found = self.engine.container(name)
        return bool(found and found["State"]["Running"] and not found["State"].get("Restarting"))

    def ended(self, name: str) -> bool:
        """Return whether a container has ended since it was started, even if the Engine has restarted it."""
        found = self.engine.container(name)
        return not found or not found["State"]["Running"] or found["RestartCount"] > 0

    def stop(self, names: list[str], timeout: int) -> None:
        """Stop containers; each has ``timeout`` seconds to finish its work."""
        if names:
            self.engine("stop", "-t", str(timeout), *names, timeout=timeout + 60)

    def remove(self, *names: str) -> None:
        """Remove containers of this site and wait until they are gone; a foreign container of that name stays.

        Raises:
            EngineError: one of them cannot be removed.
        """
        for name in names:
            found = self.engine.container(name)
            if found and self._ours(found):
                done = self.engine.run(["rm", "--force", "--volumes", name])
                if done.status != 0:
                    self._wait_until_gone(name, done.said)

    def _wait_until_gone(self, name: str, said: str) -> None:
        """Wait until a container is gone: the Engine may be removing it already, because it ended by itself."""
        until = time.monotonic() + REMOVAL_SECONDS
        while self.engine.container(name):
            if time.monotonic() > until:
                raise EngineError(f"the container {name} cannot be removed: {said}")
            time.sleep(PAUSE)

    def check(self, step: str, spec: Spec, number: int) -> None:
        """Refuse a foreign container or volume under a name that the release needs; it is never removed.

        Raises:
            ReleaseError: there is one.
        """
        needed = [self.web(number), self.helper, *(self.worker(number, name) for name in spec.workers)]
        needed += [self.job(number, name) for name in spec.jobs]
        for name, found in self.engine.several("container", needed).items():
            if not self._ours(found):
                raise ReleaseError(
                    step, f"there is a container {name} on the host, which is not of this site: rename it or the site"
                )
        for name, found in self.engine.several("volume", list(self.site.volumes)).items():
            directory, _, _ = self.site.volumes[name]
            if (found["Options"] or {}).get("device") != str(directory):
                raise ReleaseError(
                    step,
                    f"the Docker volume {name} exists already and is not bound to {directory}, so it is not of this "
                    f"site: check 'docker volume inspect {name}', then rename the site or remove the volume",
                )

    def _ours(self, found: Mapping[str, Any]) -> bool:
        labels = found["Config"].get("Labels") or {}
        return labels.get("hostwright") == "release" and labels.get("hostwright.site") == self.site.name

    def _labels(self, number: int) -> list[str]:
        return [
            *labels("release", self.site.name, number), "--env", f"HOSTWRIGHT_CONFIG={configuration_of(number)}",
        ]  # fmt: skip

    def _mounts(self, number: int, read_only: tuple[str, ...] = ()) -> list[str]:
        # With --volume the Engine creates a missing directory; with --mount it would not start the container. A
        # container that starts at boot before its secrets are copied restarts until they are.
        options = [*HIDDEN, "--volume", f"{self.site.memory / str(number)}:{SECRETS}:ro"]
        for name, (directory, target, always) in self.site.volumes.items():
            mount = (
                f"type=volume,source={name},target={target},volume-driver=local,volume-opt=type=none,volume-opt=o=bind,"
                f"volume-opt=device={directory},volume-nocopy,volume-label=hostwright=site"
            )
            options += ["--mount", mount + (",readonly" if always or name in read_only else "")]
        return options


def _hardened(spec: Spec, network: str, shares: int = BESIDE) -> list[str]:
    """Return Docker's options that limit a container of a release."""
    limits = spec.limits
    return [
        *hardened(network, limits.memory, limits.tmp, limits.pids, shares, limits.cpus),
        "--log-driver", "json-file", "--log-opt", "max-size=10m", "--log-opt", "max-file=3",
    ]  # fmt: skip


def _network(spec: Spec) -> str:
    """Return the network of a release's containers. Nginx needs none: it reaches the site through a socket."""
    return EGRESS if spec.egress else "none"
