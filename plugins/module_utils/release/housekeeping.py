"""Clean-up: remove what unfinished releases have left, and what no kept release needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..host.files import remove_tree, write_durably
from .containers import Containers
from .generation import REHEARSAL
from .record import Record
from .spec import Spec
from .steps import Progress, Step

TITLE_LABEL = "org.opencontainers.image.title"
DEVELOPMENT = "-dev"  # suffix of the tags of development images, which no release names
HOST_COMMAND = "/usr/local/sbin/hostwright"


@dataclass
class Housekeeping:
    """Removes containers, directories, generations, images and jobs of a site that are no longer needed.

    ``cron`` is the directory of cron's tables.
    """

    containers: Containers
    progress: Progress
    cron: Path

    def sweep(self, current: Record | None) -> None:
        """Remove what a release without a commit has left: containers, directories, generations, a hold.

        The migrator's container is removed last: it may guard an old generation until nothing can write to it.

        Raises:
            ReleaseError: there are databases but no live release; they may be the only data of the site.
        """
        self.progress.at(Step.SWEEP)
        site = self.containers.site
        generations = site.generations()
        if current is None and generations and not site.unfinished.exists():
            databases, records = site.data / "databases", site.records()
            cure = f"ln -s releases/{max(records)} {site.current}" if records else f"mv {databases} {databases}.old"
            raise self.progress.error(
                f"{databases} has databases of earlier releases, but {site.current}, which names the live one, "
                "is gone. Nothing was changed. To continue with "
                f"{'that release' if records else 'an empty database'}: {cure}"
            )
        live = current.release if current else 0
        helper = self.containers.helper
        left = [name for name, number in self.containers.all().items() if number != str(live) or name == helper]
        self.containers.remove(*sorted(left, key=lambda name: (name == helper, name)))
        for gate in (site.hold, site.maintenance):
            gate.unlink(missing_ok=True)
        kept = site.records() if current else {}
        for number in kept:
            site.end_pause(number)
        remove_tree(site.data / "databases" / REHEARSAL)
        for number in site.traces() - set(kept):
            site.remove(number)
        for generation in generations - {record.generation for record in kept.values()}:
            site.remove_generation(generation)
        site.unfinished.unlink(missing_ok=True)

    def schedule(self, spec: Spec) -> None:
        """Write cron's table of the release's jobs; cron runs each in the release that is live at that time."""
        site = self.containers.site
        lines = [f"{job.schedule} root {HOST_COMMAND} job {site.name} {name}\n" for name, job in spec.jobs.items()]
        text = "".join(["# Written by Hostwright with every release.\n", *lines])
        table = self.cron / f"hostwright-{site.name}-jobs"
        if not lines:
            table.unlink(missing_ok=True)
        elif not table.exists() or table.read_text() != text:
            write_durably(table, text, 0o644)

    def forget(self, live: Record, keep: int) -> None:
        """Remove all but the last ``keep`` releases, and the generations and images that no kept release names."""
        site = self.containers.site
        records = site.records()
        kept = {record.release for record in list(records.values())[-max(keep, 1) :]} | {live.release}
        for number in set(records) - kept:
            site.remove(number)
        for generation in site.generations() - {records[number].generation for number in kept}:
            site.remove_generation(generation)
        self._forget_images(live)
        site.unfinished.unlink(missing_ok=True)

    def _forget_images(self, live: Record) -> None:
        """Remove the site's images, found by their labels, that are older than the live one and in no kept release."""
        kept, engine = self.containers.site.records().values(), self.containers.engine
        names, ids = {record.image for record in kept}, {record.image_id for record in kept}
        site = live.image.rpartition(":")[0]
        listed = engine.run([
            "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}",
            "--filter", "label=hostwright=image", "--filter", f"label={TITLE_LABEL}={site}",
        ])  # fmt: skip
        images = [line.split() for line in listed.stdout.splitlines()]  # the newest one first
        newer = next((n for n, (_, name) in enumerate(images) if name == live.image), len(images))
        for identity, name in images[newer:]:
            untagged = name == "<none>:<none>" and identity not in ids
            old = name.startswith(f"{site}:") and name not in names and not name.endswith(DEVELOPMENT)
            if untagged or old:
                engine.run(["image", "rm", identity if untagged else name])  # refused while a container uses it
