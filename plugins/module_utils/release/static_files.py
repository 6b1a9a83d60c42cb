"""Publication of a release's static files for Nginx."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..host import files
from ..host.engine import Engine
from ..host.files import make_directory
from .site import Site

HASHED_NAME = re.compile(r"\.[0-9a-f]{12}\.[^./]+$")  # as ManifestStaticFilesStorage names files


def publish(site: Site, engine: Engine, container: str, number: int) -> None:
    """Copy a release's static files from its image, and share the hashed ones with the other kept releases.

    Args:
        site: the release's site.
        engine: the host's Engine.
        container: a container of the image.
        number: the release's number.
    """
    target = site.static / str(number)
    make_directory(target, 0o755)
    engine("cp", f"{container}:/opt/hostwright/static/.", str(target))
    (site.release(number) / "static").symlink_to(Path("../../../static") / str(number))
    shared = site.static / "shared"
    for path in target.rglob("*"):
        # A link in the image may lead to any file, and Nginx would serve a hard link to that file.
        if files.is_regular(path) and HASHED_NAME.search(path.name):
            link = shared / path.relative_to(target)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.link(path, link)
