"""A Django project as its directory shows it: what to build, under which version, and whether it can be deployed."""

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
    """A directory that cannot be deployed as a Django site; the message says what, where and what to do."""


@dataclass(frozen=True)
class Project:
    """A Django project ready to be built.

    ``requirements`` is one flat requirements file; ``revision`` is the commit the source stands at (with ``-dirty``
    where files differ from it), empty outside a Git checkout; ``digest`` identifies source and requirements.
    """

    source: Path
    version: str
    settings: str
    wsgi: str
    requirements: str
    revision: str
    digest: str


def read_project(source: Path, version: str, settings: str, wsgi: str, requirements: str) -> Project:
    """Read a Django project from its directory; empty arguments are found out.

    Args:
        source: the directory that holds ``manage.py``.
        version: the image's tag; empty: the first line of the file ``VERSION``.
        settings: dotted settings module; empty: what ``manage.py`` names.
        wsgi: dotted path of the WSGI callable; empty: ``WSGI_APPLICATION`` of the settings, or the module ``wsgi``
            beside them.
        requirements: requirements file or ``pyproject.toml``, relative to ``source``.

    Raises:
        ProjectError: something of it is missing or unreadable.
    """
    if not source.is_dir():
        raise ProjectError(f"site_source: no directory {source}; name the directory that holds the project's manage.py")
    manage = source / "manage.py"
    if not manage.is_file():
        others = sorted(str(path.parent) for path in source.glob("*/manage.py"))
        hint = f"; did you mean {others[0]}?" if others else ""
        raise ProjectError(f"site_source: {source} has no manage.py, so it is no Django project{hint}")
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
    """The settings module that manage.py names as its default."""
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
    """The WSGI callable: as the settings name it, else in the module ``wsgi`` nearest to them."""
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
        raise ProjectError(f"{path} is not UTF-8 text: save it as such") from error


def _check_module(source: Path, module: str, variable: str) -> None:
    names = module.split(".")
    path = source.joinpath(*names)
    if not all(name.isidentifier() for name in names) or not (path.is_dir() or path.with_suffix(".py").is_file()):
        raise ProjectError(f"{variable}: there is no module {module or '(empty)'} in {source}; name one that is there")


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
    """One flat requirements file out of a requirements file (with what it includes) or a ``pyproject.toml``.

    Raises:
        ProjectError: the file or one that it includes is missing or names nothing.
    """
    if not path.is_file():
        raise ProjectError(
            f"site_requirements: no file {path}; name a requirements file or pyproject.toml, relative to site_source"
        )
    lines = _pyproject_dependencies(path) if path.suffix == ".toml" else list(_requirement_lines(path, ()))
    if not lines:
        raise ProjectError(f"site_requirements: {path} names nothing to install, not even Django: add it")
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
    for line in _text(path).replace("\\\n", "\0").splitlines():  # a continued line stays one
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
                f"site_requirements: {path} has '{text}', but the build sees the requirements only, no other files: "
                "name packages and versions, as 'pip freeze' prints them"
            )
        elif text:
            yield from (part.strip() for part in text.replace("\0", "\\\n").splitlines())


def _revision(source: Path) -> str:
    """The Git commit of the source, with ``-dirty`` where its files differ from it; empty without Git."""

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
    """The files and links below a directory that belong into an image, sorted, relative to it.

    ``ignored`` are shell patterns for names; a ``.dockerignore`` in the directory takes out more, as Docker reads it.
    """
    rules = _dockerignore(root)
    found: list[Path] = []
    for directory, names, files in os.walk(root):
        here = Path(directory).relative_to(root)
        wanted = [name for name in (*names, *files) if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)]
        names[:] = sorted(name for name in wanted if name in names and not (root / here / name).is_symlink())
        found += [here / name for name in wanted if name not in names]
    return sorted(path for path in found if _is_content(root / path) and not _taken_out(path, rules))


def _is_content(path: Path) -> bool:
    """Whether it has a content to copy: sockets and pipes have none."""
    return path.is_symlink() or path.is_file()


Rules = list[tuple[bool, re.Pattern[str]]]


def _dockerignore(root: Path) -> Rules:
    """Docker's rules in their order: whether the paths that match are taken out or, with ``!``, put back."""
    path = root / ".dockerignore"
    lines = [line.strip() for line in _text(path).splitlines()] if path.is_file() else []
    rules: Rules = []
    for line in lines:
        pattern = line.removeprefix("!").strip().removeprefix("./").strip("/")
        if pattern and not line.startswith("#"):
            rules.append((not line.startswith("!"), re.compile(_expression(pattern))))
    return rules


def _expression(pattern: str) -> str:
    """A pattern of a .dockerignore as a regular expression for a path from the root."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = re.findall(r"\*\*/|\*\*|\*|\?|\[[^]]+\]|.", pattern)
    return "".join(parts.get(part, part if part[0] == "[" and len(part) > 1 else re.escape(part)) for part in found)


def _taken_out(path: Path, rules: Rules) -> bool:
    """Whether the last rule that matches the path, or a directory that it is in, takes it out."""
    places = [place.as_posix() for place in (path, *path.parents)]
    taken = False
    for takes, pattern in rules:
        if any(pattern.fullmatch(place) for place in places):
            taken = takes
    return taken


def digest_of(root: Path, files: Sequence[Path]) -> str:
    """SHA-256 over names, contents, link targets and executable bits of files; times and owners do not count."""
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
