"""The whole values of variables that were given with ``-e``."""

from __future__ import annotations

import re
from collections.abc import Sequence


class CommandLineError(ValueError):
    """The command line is ambiguous."""


def as_typed(name: str, value: str, words: Sequence[str]) -> str:
    """Restore the part of a value that Ansible cuts off: of ``-e manage="check --deploy"`` it keeps ``check``.

    The shell removes the quotes, and Ansible splits the rest at blanks.

    Args:
        name: name of the variable.
        value: the value that Ansible has read.
        words: the command line.

    Returns:
        The whole value if Ansible's value is the beginning of the typed one; otherwise Ansible's value.

    Raises:
        CommandLineError: another variable follows in the same ``-e``.
    """
    typed = re.compile(rf"(?:-e|--extra-vars=)?{re.escape(name)}=(?P<value>.*)", re.DOTALL)
    for word in reversed(words):
        match = typed.fullmatch(word)
        if match is None:
            continue
        whole = match["value"].strip()
        rest = whole.removeprefix(value)
        if not value or rest == whole or not rest[:1].isspace():
            return value
        other = re.search(r"\s([a-z_][a-z0-9_]*)=", rest)
        if other:
            raise CommandLineError(f"Use a separate -e for {name} and {other[1]}: -e {name}='…' -e {other[1]}=…")
        return whole
    return value
