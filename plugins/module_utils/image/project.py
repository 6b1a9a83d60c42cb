"""Read a Django project from its directory: its version, modules and requirements, and whether it can be deployed."""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

IGNORED = (
    ".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", "*.pyc", ".env", ".mypy_cache",
    ".ruff_cache", ".pytest_cache", ".tox", ".idea", ".vscode", ".DS_Store", "*.sqlite3", "*.sqlite3-wal",
    "*.sqlite3-shm", "*.sqlite3-journal",
)  # fmt: skip
VERSION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # what an image tag may be


class ProjectError(Exception):
    """A directory that cannot be deployed as a Django site; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Project:
    """A Django project ready to be built.

    ``requirements`` is the text of one flat requirements file; ``revision`` is the Git commit of the source (with
    ``-dirty`` if files differ from it), empty outside a Git checkout; ``digest`` identifies source and requirements.
    """

    source: Path
    version: str
    settings: str
    wsgi: str
    requirements: str
    revision: str
    digest: str


def read_project(source: Path, version: str, settings: str, wsgi: str, requirements: str) -> Project:
    """Read a Django project from its directory; empty arguments are detected.

    Args:
        source: the directory that contains ``manage.py``.
        version: the image's tag; empty: the first line of the file ``VERSION``.
        settings: dotted settings module; empty: the default in ``manage.py``.
        wsgi: dotted path of the WSGI callable; empty: ``WSGI_APPLICATION`` of the settings, or the module ``wsgi``
            nearest to them.
        requirements: requirements file or ``pyproject.toml``, relative to ``source``.

    Raises:
        ProjectError: a part of the project is missing or unreadable.
    """
    if not source.is_dir():
        raise ProjectError(f"site_source: no directory {source}; set it to the directory of the project's manage.py")
    manage = source / "manage.py"
    if not manage.is_file():
        others = sorted(str(path.parent) for path in source.glob("*/manage.py"))
        hint = f"; did you mean {others[0]}?" if others else ""
        raise ProjectError(f"site_source: {source} has no manage.py, so it is not a Django project{hint}")
    settings = settings or _settings_of(manage)
    _check_module(source, settings, "site_settings")
    wsgi = wsgi or _wsgi_of(source, settings)
    _check_module(source, wsgi.replace(":", ".").rpartition(".")[0], "site_wsgi")
    flat = read_requirements(source / requirements)
    return Project(
        source=source,
        version=_checked_version(version or _version_file(source)),
        settings=settings,
        wsgi=wsgi,
        requirements=flat,
        revision=_revision(source),
        digest=hashlib.sha256(f"{digest_of(source, context_files(source))}\n{flat}".encode()).hexdigest(),
    )


def _settings_of(manage: Path) -> str:
    """The settings module that manage.py sets as its default."""
    for node in ast.walk(_parsed(manage)):
        if isinstance(node, ast.Call) and [getattr(arg, "value", None) for arg in node.args[:1]] == [
            "DJANGO_SETTINGS_MODULE"
        ]:
            value = getattr(node.args[1], "value", None) if len(node.args) > 1 else None
            if isinstance(value, str):
                return value
    raise ProjectError(
        f"{manage} names no settings module (os.environ.setdefault): set site_settings, e.g. mysite.settings"
    )


def _wsgi_of(source: Path, settings: str) -> str:
    """The WSGI callable: the one that the settings name, else that of the nearest module ``wsgi``."""
    path = source.joinpath(*settings.split(".")).with_suffix(".py")
    for node in ast.walk(_parsed(path)) if path.is_file() else ():
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [
            "WSGI_APPLICATION"
        ]:
            value = getattr(node.value, "value", None)
            if isinstance(value, str):
                return value
    packages = settings.split(".")[:-1]
    for depth in range(len(packages), -1, -1):
        module = [*packages[:depth], "wsgi"]
        if source.joinpath(*module).with_suffix(".py").is_file():
            return ".".join([*module, "application"])
    return f"{settings.split('.')[0]}.wsgi.application"


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else f": {error}"
        raise ProjectError(f"{path}{line}; it is not valid Python") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path} is not UTF-8 text: convert it to UTF-8") from error


def _check_module(source: Path, module: str, variable: str) -> None:
    names = module.split(".")
    path = source.joinpath(*names)
    if not all(name.isidentifier() for name in names) or not (path.is_dir() or path.with_suffix(".py").is_file()):
        raise ProjectError(f"{variable}: there is no module {module or '(empty)'} in {source}; name an existing one")


def _version_file(source: Path) -> str:
    path = source / "VERSION"
    if not path.is_file():
        raise ProjectError(f"no version: write one (e.g. 1.0) into {path}, or set site_version")
    lines = _text(path).strip().splitlines()
    return lines[0].strip() if lines else ""


def _checked_version(version: str) -> str:
    if not VERSION_PATTERN.fullmatch(version):
        raise ProjectError(
            f"the version {version!r} cannot be an image tag: use letters, digits, '.', '_' and '-', for example 1.0"
        )
    return version


def read_requirements(path: Path) -> str:
    """Read a requirements file (with the files that it includes) or a ``pyproject.toml`` into one flat text.

    Raises:
        ProjectError: the file or an included file is missing, or there are no requirements.
    """
    if not path.is_file():
        raise ProjectError(
            f"site_requirements: no file {path}; set it to a requirements file or pyproject.toml, relative to "
            "site_source"
        )
    lines = _pyproject_dependencies(path) if path.suffix == ".toml" else list(_requirement_lines(path, ()))
    if not lines:
        raise ProjectError(f"site_requirements: {path} lists no packages, not even Django: add them")
    return "".join(f"{line}\n" for line in lines)


def _pyproject_dependencies(path: Path) -> list[str]:
    try:
        dependencies = tomllib.loads(_text(path)).get("project", {}).get("dependencies")
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"site_requirements: {path} is not valid TOML: {error}") from error
    if not isinstance(dependencies, list) or not dependencies:
        raise ProjectError(
            f"site_requirements: {path} lists no dependencies in its table [project]; add them there, or name a "
            "requirements file, for example one that your tool exports"
        )
    return [str(line) for line in dependencies]


def _requirement_lines(path: Path, including: tuple[Path, ...]) -> Iterator[str]:
    for line in _text(path).replace("\\\n", "\0").splitlines():  # keep a continued line together
        text = re.sub(r"(^|\s)#.*", "", line).strip("\0 \t")
        included = re.fullmatch(r"(?:-r|--requirement)[ =]?\s*(\S+)", text)
        if included:
            target = (path.parent / included[1]).resolve()
            if target in (*including, path.resolve()):
                raise ProjectError(f"site_requirements: {path} and {target} include each other")
            if not target.is_file():
                raise ProjectError(f"site_requirements: {path} includes {included[1]}, which does not exist")
            yield from _requirement_lines(target, (*including, path.resolve()))
        elif re.match(r"-[ce]|--(constraint|editable)\b|\.{0,2}/|\.$", text):
            raise ProjectError(
                f"site_requirements: {path} has '{text}', but the build has the requirements only, no other files: "
                "list packages and versions, as 'pip freeze' prints them"
            )
        elif text:
            yield from (part.strip() for part in text.replace("\0", "\\\n").splitlines())


def _revision(source: Path) -> str:
    """The Git commit of the source, with ``-dirty`` if its files differ from it; empty without Git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(source), *arguments], capture_output=True, text=True, check=False, timeout=30
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return ""
    return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit


def context_files(root: Path, ignored: Sequence[str] = IGNORED) -> list[Path]:
    """The files and links below a directory that belong in an image, sorted, relative to the directory.

    ``ignored`` are shell patterns for names; a ``.dockerignore`` in the directory excludes more, by Docker's rules.
    """
    rules = _dockerignore(root)
    found: list[Path] = []
    for directory, names, files in os.walk(root):
        here = Path(directory).relative_to(root)
        wanted = [name for name in (*names, *files) if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]
        names[:] = sorted(name for name in wanted if name in names and not (root / here / name).is_symlink())
        found += [here / name for name in wanted if name not in names]
    return sorted(path for path in found if _is_content(root / path) and not _is_excluded(path, rules))


def _is_content(path: Path) -> bool:
    """Whether the path has content to copy; sockets and pipes have none."""
    return path.is_symlink() or path.is_file()


Rules = list[tuple[bool, re.Pattern[str]]]


def _dockerignore(root: Path) -> Rules:
    """The rules of ``.dockerignore`` in order: whether a matching path is excluded (with ``!``: included), pattern."""
    path = root / ".dockerignore"
    lines = [line.strip() for line in _text(path).splitlines()] if path.is_file() else []
    rules: Rules = []
    for line in lines:
        pattern = line.removeprefix("!").strip().removeprefix("./").strip("/")
        if pattern and not line.startswith("#"):
            rules.append((not line.startswith("!"), re.compile(_expression(pattern))))
    return rules


def _expression(pattern: str) -> str:
    """Convert a pattern of a .dockerignore to a regular expression for a path relative to the root."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]+\]|.", pattern)
    return "".join(parts.get(part, part if part[0] == "[" and len(part) > 1 else re.escape(part)) for part in found)


def _is_excluded(path: Path, rules: Rules) -> bool:
    """Whether the last rule that matches the path, or a directory above it, excludes it."""
    candidates = [candidate.as_posix() for candidate in (path, *path.parents)]
    excluded = False
    for excludes, pattern in rules:
        if any(map(pattern.fullmatch, candidates)):
            excluded = excludes
    return excluded


def digest_of(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 of the files' names, contents, link targets and executable bits; times and owners do not count."""
    total = hashlib.sha256()
    for path in files:
        full = root / path
        if full.is_symlink():
            kind, content = b"link", os.fsencode(full.readlink())
        else:
            kind = b"program" if full.stat().st_mode & 0o100 else b"file"
            content = hashlib.sha256(full.read_bytes()).digest()
        total.update(b"\0".join([kind, os.fsencode(path.as_posix()), str(len(content)).encode(), content]))
    return total.hexdigest()
