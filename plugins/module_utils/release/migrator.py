"""The warm migrator: a process of the new image that copies and migrates databases without a start during the hold.

It runs in a separate container without network, with Django and the migrations loaded. Only a container may open a
site's databases, never the host. The runtime's verb ``migrator`` defines the protocol.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ..host.line_process import Conversation, ConversationError

GRACE = 5.0  # seconds added to the limit that the migrator itself enforces
ROWS_SECONDS = 30.0
LOG_LINES = 25


class MigratorError(Exception):
    """The migrator failed; ``log`` is the end of the project's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Migrator:
    """The host's side of the protocol."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.guarding = False

    def look(self, timeout: float) -> dict[str, Any]:
        """Wait until the project is loaded, and return the preflight's result with the pending migrations.

        Raises:
            MigratorError: the project cannot be deployed.
        """
        return self._hear(timeout)

    def rehearse(self, source: str, scratch: str, backwards: list[str], limit: float) -> dict[str, Any]:
        """Copy a database and migrate the copy, which is then removed; return seconds and bytes."""
        return self._ask("rehearse", limit, source=source, scratch=scratch, backwards=backwards)

    def guard(self, source: str, wait: float) -> None:
        """Block writes to a database until ``release``, or until the migrator ends."""
        self._ask("guard", wait, source=source, wait=wait)
        self.guarding = True

    def copy(self, source: str, destination: str, limit: float) -> dict[str, Any]:
        """Copy the guarded database; return seconds and bytes."""
        return self._ask("copy", limit, source=source, destination=destination)

    def migrate(self, database: str, backwards: list[str], limit: float) -> dict[str, Any]:
        """Apply the pending migrations, or reverse those in ``backwards``."""
        return self._ask("migrate", limit, database=database, backwards=backwards)

    def rows(self, source: str) -> dict[str, int]:
        """Count the rows of every table."""
        found: dict[str, int] = self._ask("rows", ROWS_SECONDS, source=source)["rows"]
        return found

    def check(self) -> None:
        """Check that the guard has been in force without interruption.

        Raises:
            MigratorError: it has not.
        """
        self._ask("check", GRACE)

    def release(self) -> None:
        """Drop the guard, if any."""
        if self.guarding:
            self.guarding = False
            with suppress(MigratorError):  # the migrator has ended, and with it the guard
                self._ask("release", GRACE)

    def dismiss(self) -> None:
        """Let the migrator, which guards nothing, end in the background."""
        self._conversation.end()

    def close(self) -> None:
        """Drop the guard, if any, and end the migrator."""
        self.release()
        self._conversation.close()

    def _ask(self, word: str, limit: float, **fields: Any) -> dict[str, Any]:
        try:
            self._conversation.say(json.dumps({"do": word, "limit": limit, **fields}))
        except ConversationError as error:
            raise self._ended(error) from error
        return self._hear(limit + GRACE)

    def _hear(self, timeout: float) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._conversation.hear(timeout))
        except ConversationError as error:
            raise self._ended(error) from error
        except ValueError as error:
            raise MigratorError(f"the migrator's answer is not JSON: {error}") from error
        if "error" in answer:
            raise MigratorError(answer["error"], answer.get("log", ""))
        return answer

    def _ended(self, error: ConversationError) -> MigratorError:
        return MigratorError(f"the migrator: {error}", tail(self._conversation.errors()))


def tail(text: str, lines: int = LOG_LINES) -> str:
    """Return the last lines of a text."""
    return "\n".join(text.strip().splitlines()[-lines:])
