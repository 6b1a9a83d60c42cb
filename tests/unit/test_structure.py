"""The structure that docs/development.md describes: no circle of imports, and cited pages exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
UTILS = PROJECT / "plugins" / "module_utils"


def test_cited_pages_exist() -> None:
    for directory in ("plugins", "roles", "playbooks", "scripts", "bench", "molecule"):
        for path in (PROJECT / directory).rglob("*"):
            if path.suffix in (".py", ".yml", ".j2", ".md", ".js"):
                text = path.read_text(encoding="utf-8")
                cited = set(re.findall(r"\bdocs/[\w-]+\.(?:md|svg)", text))
                assert {page for page in cited if not (PROJECT / page).exists()} == set(), path
                assert "DESIGN" not in text, f"{path} cites a page that is not part of the project"


def test_no_modules_import_each_other() -> None:
    """An import for type checkers counts too: the reader follows it."""
    uses: dict[Path, set[Path]] = {}
    for path in UTILS.rglob("*.py"):
        uses[path] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*filter(None, (node.module or "").split(".")))
                targets = [base, *(base / alias.name for alias in node.names)]
                uses[path] |= {target.with_suffix(".py") for target in targets if target.with_suffix(".py").is_file()}
    assert sum(map(len, uses.values())) > 100
    while leaves := {path for path, used in uses.items() if not used & uses.keys()}:
        for path in leaves:
            del uses[path]
    assert [str(path.relative_to(UTILS)) for path in uses] == []
