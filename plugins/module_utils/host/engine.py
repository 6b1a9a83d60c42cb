"""The Docker Engine, controlled through its command line.

The command line is the same on every supported Engine (20.10 and newer), needs no Python package on the host, and
exports and loads images as streams.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .line_process import Conversation
from .process import NOT_FOUND, TIMED_OUT, Answer, run


class EngineError(Exception):
    """A Docker command that failed; the message contains the command and its output."""


@dataclass(frozen=True)
class Image:
    """An image as the Engine describes it.

    ``layers`` are the diff ids, bottom up; they identify the content on any Engine, while ``id`` depends on the
    image store (the configuration's digest on the classic one, the manifest's on containerd's).
    """

    id: str
    layers: tuple[str, ...]
    labels: dict[str, str]
    size: int


class Engine:
    """Runs ``docker`` commands; the only place that starts the ``docker`` program."""

    def __init__(self, program: str = "docker") -> None:
        self.program = program

    def run(self, arguments: Sequence[str], timeout: float = 300) -> Answer:
        """Run one command and return its result, whatever its exit status.

        Raises:
            EngineError: the program is missing, or ``timeout`` (seconds) has passed.
        """
        command = [self.program, *arguments]
        answer = run(command, timeout)
        if answer.status == NOT_FOUND:
            raise EngineError(f"no program '{self.program}' here: install the Docker Engine first (role docker)")
        if answer.status == TIMED_OUT:
            raise EngineError(answer.stderr)
        return answer

    def __call__(self, *arguments: str, timeout: float = 300) -> str:
        """Run one command that must succeed and return its standard output, stripped.

        Raises:
            EngineError: the command failed.
        """
        done = self.run(arguments, timeout)
        if done.status != 0:
            raise EngineError(f"'docker {' '.join(arguments[:3])} …' failed ({done.status}): {done.said}")
        return done.stdout.strip()

    def talk(self, *arguments: str) -> Conversation:
        """Start one command and exchange lines with it.

        Raises:
            EngineError: the program is missing.
        """
        try:
            return Conversation([self.program, *arguments])
        except OSError as error:
            raise EngineError(f"cannot run '{self.program}': {error.strerror}") from error

    def image(self, reference: str) -> Image | None:
        """The image with that reference, or None if it does not exist."""
        found = self._inspect("image", reference)
        if found is None:
            return None
        return Image(
            id=found["Id"],
            layers=tuple(found["RootFS"].get("Layers") or ()),
            labels=(found.get("Config") or {}).get("Labels") or {},
            size=int(found.get("Size") or 0),
        )

    def container(self, name: str) -> dict[str, Any] | None:
        """The output of ``docker inspect`` for a container, or None if it does not exist."""
        return self._inspect("container", name)

    def several(self, kind: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The output of ``docker inspect`` for those of the containers or volumes that exist, by name.

        Raises:
            EngineError: the Engine failed for another reason than a missing name.
        """
        done = self.run([kind, "inspect", *names])
        if done.status != 0 and any("no such" not in line.lower() for line in done.stderr.splitlines()):
            raise EngineError(f"cannot ask the Docker Engine about the {kind}s {', '.join(names)}: {done.said}")
        return {found["Name"].lstrip("/"): found for found in json.loads(done.stdout)}

    @property
    def data_root(self) -> Path | None:
        """Directory of the Engine's images; None unless it uses the classic image store with overlay2."""
        info = json.loads(self("info", "--format", "{{json .}}"))
        return Path(info["DockerRootDir"]) if info.get("Driver") == "overlay2" else None

    def _inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        done = self.run([kind, "inspect", name])
        if done.status == 0:
            first: dict[str, Any] = json.loads(done.stdout)[0]
            return first
        if "no such" in done.stderr.lower():
            return None
        raise EngineError(f"cannot ask the Docker Engine about {kind} {name}: {done.said}")
