"""Clean-up: remove what unfinished releases have left, and what no kept release needs."""

from __future__ import annotations

from pathlib import Path

from ..host.engine import Engine
from ..host.files import remove_tree, write_durably
from .containers import Containers
from .generation import REHEARSAL
from .record import Record
from .site import Site
from .spec import Spec
from .steps import Progress, Step

TITLE_LABEL = "org.opencontainers.image.title"
DEVELOPMENT = "-dev"  # suffix of the tags of development images, which no release names
HOST_COMMAND = "/usr/local/sbin/hostwright"


class Housekeeping:
    """Removes containers, directories, generations, images and jobs of a site that are no longer needed."""

    def __init__(self, site: Site, engine: Engine, containers: Containers, progress: Progress, cron: Path) -> None:
        """``cron`` is the directory of cron's tables."""
        self._site = site
        self._engine = engine
        self._containers = containers
        self._progress = progress
        self._cron = cron / f"hostwright-{site.name}-jobs"

    def sweep(self, current: Record | None) -> None:
        """Remove what a release without a commit has left: containers, directories, generations, a hold.

        The migrator's container is removed last: it may guard an old generation until nothing can write to it.

        Raises:
            ReleaseError: there are databases but no live release; they may be the only data of the site.
        """
        self._progress.at(Step.SWEEP)
        generations = self._site.generations()
        if current is None and generations and not self._site.unfinished.exists():
            databases, records = self._site.data / "databases", self._site.records()
            cure = (
                f"ln -s releases/{max(records)} {self._site.current}" if records else f"mv {databases} {databases}.old"
            )
            raise self._progress.error(
                f"{databases} has databases of earlier releases, but {self._site.current}, which names the live one, "
                "is gone. Nothing was changed. To continue with "
                f"{'that release' if records else 'an empty database'}: {cure}"
            )
        live = current.release if current else 0
        helper = self._containers.helper
        left = [name for name, number in self._containers.all().items() if number != str(live) or name == helper]
        self._containers.remove(*sorted(left, key=lambda name: (name == helper, name)))
        for gate in (self._site.hold, self._site.maintenance):
            gate.unlink(missing_ok=True)
        kept = self._site.records() if current else {}
        for number in kept:
            self._site.end_pause(number)
        remove_tree(self._site.data / "databases" / REHEARSAL)
        for number in self._site.traces() - set(kept):
            self._site.remove(number)
        for generation in generations - {record.generation for record in kept.values()}:
            self._site.remove_generation(generation)
        self._site.unfinished.unlink(missing_ok=True)

    def schedule(self, spec: Spec) -> None:
        """Write cron's table of the release's jobs; cron runs each in the release that is live at that time."""
        lines = [
            f"{job.schedule} root {HOST_COMMAND} job {self._site.name} {name}\n" for name, job in spec.jobs.items()
        ]
        text = "".join(["# Written by Hostwright with every release.\n", *lines])
        if not lines:
            self._cron.unlink(missing_ok=True)
        elif not self._cron.exists() or self._cron.read_text() != text:
            write_durably(self._cron, text, 0o644)

    def forget(self, live: Record, keep: int) -> None:
        """Remove all but the last ``keep`` releases, and the generations and images that no kept release names."""
        records = self._site.records()
        kept = {record.release for record in list(records.values())[-max(keep, 1) :]} | {live.release}
        for number in set(records) - kept:
            self._site.remove(number)
        for generation in self._site.generations() - {records[number].generation for number in kept}:
            self._site.remove_generation(generation)
        self._forget_images(live)
        self._site.unfinished.unlink(missing_ok=True)

    def _forget_images(self, live: Record) -> None:
        """Remove the site's images, found by their labels, that are older than the live one and in no kept release."""
        kept = self._site.records().values()
        names, ids = {record.image for record in kept}, {record.image_id for record in kept}
        site = live.image.rpartition(":")[0]
        labels = ("hostwright=image", f"{TITLE_LABEL}={site}")
        listed = self._engine.run(
            [
                "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}",
                *(word for label in labels for word in ("--filter", f"label={label}")),
            ]
        )  # fmt: skip
        images = [line.split() for line in listed.stdout.splitlines()]  # the newest one first
        newer = next((n for n, (_, name) in enumerate(images) if name == live.image), len(images))
        for identity, name in images[newer:]:
            untagged = name == "<none>:<none>" and identity not in ids
            old = name.startswith(f"{site}:") and name not in names and not name.endswith(DEVELOPMENT)
            if untagged or old:
                self._engine.run(["image", "rm", identity if untagged else name])  # refused while a container uses it
