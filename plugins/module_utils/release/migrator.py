"""The warm migrator: a process of the new image that does on a word what must not wait while requests do.

It runs in a container of its own, without network, has Django and the migrations loaded, and opens the databases, which
nothing on the host itself may do. Its words are the verb ``migrator`` of the image's runtime.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from ..host.line_process import Conversation, ConversationError

GRACE = 5.0  # seconds above the limit that the migrator itself keeps
ROWS_SECONDS = 30.0
LOG_LINES = 25


class MigratorError(Exception):
    """The migrator could not do it; ``log`` is the end of what the project has said."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class Migrator:
    """The host's end of the conversation."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self.guarding = False

    def look(self, timeout: float) -> dict[str, Any]:
        """Wait until the project is loaded: what the preflight has found, with the pending migrations.

        Raises:
            MigratorError: the project cannot be deployed, and why.
        """
        return self._hear(timeout)

    def rehearse(self, source: str, scratch: str, backwards: list[str], limit: float) -> dict[str, Any]:
        """Copy a database and migrate the copy, which is thrown away: seconds and bytes."""
        return self._ask("rehearse", limit, source=source, scratch=scratch, backwards=backwards)

    def guard(self, source: str, wait: float) -> None:
        """Keep every writer out of a database until ``release``, or until the migrator ends."""
        self._ask("guard", wait, source=source, wait=wait)
        self.guarding = True

    def copy(self, source: str, destination: str, limit: float) -> dict[str, Any]:
        """Copy the guarded database: seconds and bytes."""
        return self._ask("copy", limit, source=source, destination=destination)

    def migrate(self, database: str, backwards: list[str], limit: float) -> dict[str, Any]:
        """Apply the pending migrations, or take back those of ``backwards``."""
        return self._ask("migrate", limit, database=database, backwards=backwards)

    def rows(self, source: str) -> dict[str, int]:
        """Count the rows of every table."""
        found: dict[str, int] = self._ask("rows", ROWS_SECONDS, source=source)["rows"]
        return found

    def check(self) -> None:
        """See that the guard has held all the time.

        Raises:
            MigratorError: it has not.
        """
        self._ask("check", GRACE)

    def release(self) -> None:
        """Drop the guard, if any."""
        if self.guarding:
            self.guarding = False
            with suppress(MigratorError):  # it has ended, and its guard with it
                self._ask("release", GRACE)

    def dismiss(self) -> None:
        """Let the migrator end while something else goes on; it guards nothing."""
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
            raise MigratorError(f"the migrator said what is not JSON: {error}") from error
        if "error" in answer:
            raise MigratorError(answer["error"], answer.get("log", ""))
        return answer

    def _ended(self, error: ConversationError) -> MigratorError:
        return MigratorError(f"the migrator: {error}", tail(self._conversation.errors()))


def tail(text: str, lines: int = LOG_LINES) -> str:
    """The last lines of a text."""
    return "\n".join(text.strip().splitlines()[-lines:])
