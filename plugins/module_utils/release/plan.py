"""Prediction of a release, without any change."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..host.engine import Engine
from .containers import Containers
from .migrator import tail
from .outcome import Outcome
from .record import Record
from .site import Site
from .spec import Spec

OVERHEAD = 0.5  # seconds of a hold besides drain, copy and migration: probe, record, rename
COPY_SPEED = 200e6  # bytes a second, of a slow disk
RECENT = 5  # number of the last holds, of which the longest is the estimate


def plan(
    site: Site, engine: Engine, containers: Containers, spec: Spec, migrations: Sequence[str] | None = None
) -> Outcome:
    """Predict a release.

    Args:
        site: the site on the host.
        engine: the host's Engine.
        containers: the site's containers.
        spec: the release to predict.
        migrations: all migrations of the image, in their order; None if they are those of the live release.
    """
    current = site.current_record()
    if current is None:
        return Outcome("released", 1, None, tuple(migrations or ()))
    if current.spec_digest == spec.digest(site.secret_key().value):
        return Outcome("started" if containers.down(current, spec) else "none", current.release, current)
    number = site.next_number()
    if migrations is None:
        return Outcome("released", number, current)
    asked = engine.run(["exec", current.container, "python3", "-m", "hostwright", "preflight", "--pending"])
    if asked.status != 0:
        unknown = f"cannot ask the live release for its applied migrations: {tail(asked.said, 3)}"
        return Outcome("released", number, current, warnings=(unknown,))
    applied = json.loads(asked.stdout.splitlines()[-1])["applied"]
    pending = tuple(name for name in migrations if name not in applied)
    return Outcome("released", number, current, pending, _hold(site, current) if pending else 0.0)


def _hold(site: Site, current: Record) -> float:
    """Estimate the seconds that requests wait, by the last holds or by the database's size."""
    holds = [line["hold_ms"] / 1000 for line in site.audited() if line["hold_ms"] and line["migrations"]]
    if holds:
        return float(max(holds[-RECENT:]))
    size = site.database_bytes(current.generation)
    return OVERHEAD + size / COPY_SPEED
