"""Variables as they were typed after ``-e``."""

from __future__ import annotations

import re
from collections.abc import Sequence


class CommandLineError(ValueError):
    """What was typed can be read in two ways."""


def as_typed(name: str, value: str, words: Sequence[str]) -> str:
    """Give back what Ansible cuts off: of ``-e manage="check --deploy"`` it keeps ``check``.

    The shell takes the quotes away, and Ansible splits what is left at its blanks.

    Args:
        name: of the variable.
        value: as Ansible understood it.
        words: the command line.

    Returns:
        The whole value, where Ansible's is the beginning of what was typed; else Ansible's.

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
            raise CommandLineError(f"Give {name} and {other[1]} an -e each: -e {name}='…' -e {other[1]}=…")
        return whole
    return value
