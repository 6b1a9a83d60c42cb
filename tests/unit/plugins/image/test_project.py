"""Reading Django projects from their directories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.hostwright.django.plugins.module_utils.image.project import (
    Project,
    ProjectError,
    context_files,
    digest_of,
    read_project,
    read_requirements,
)
from hypothesis import given, settings
from hypothesis import strategies as st

MANAGE = """
import os, sys
def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
    from django.core.management import execute_from_command_line
"""


def put(root: Path, name: str, text: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    put(root, "manage.py", MANAGE)
    put(root, "mysite/settings.py", 'WSGI_APPLICATION = "mysite.wsgi.application"\n')
    put(root, "mysite/wsgi.py")
    put(root, "requirements.txt", "Django==5.2\n")
    put(root, "VERSION", "1.0\n")
    return root


def read(
    source: Path, version: str = "", settings: str = "", wsgi: str = "", requirements: str = "requirements.txt"
) -> Project:
    return read_project(source, version, settings, wsgi, requirements)


def test_a_fresh_project_needs_only_a_version(source: Path) -> None:
    project = read(source)
    assert project == Project(
        source, "1.0", "mysite.settings", "mysite.wsgi.application", "Django==5.2\n", "", project.digest
    )


def test_the_digest_is_that_of_source_and_requirements(source: Path) -> None:
    first = read(source).digest
    assert read(source, "9.9").digest == first
    put(source, "deps.txt", "django\n")
    with_file = read(source).digest
    assert with_file != first
    assert read(source, requirements="deps.txt").digest != with_file


def test_explicit_values_take_precedence(source: Path) -> None:
    put(source, "mysite/other.py")
    put(source, "deps.txt", "django\n")
    project = read(source, "2.0-rc1", "mysite.other", "mysite.wsgi:app", "deps.txt")
    assert (project.version, project.settings, project.wsgi, project.requirements) == (
        "2.0-rc1",
        "mysite.other",
        "mysite.wsgi:app",
        "django\n",
    )


def test_the_shipped_example_of_another_layout() -> None:
    root = Path(__file__).resolve().parents[3] / "projects" / "split"
    project = read(root / "src", "1.0", requirements="../pyproject.toml")
    assert project.settings == "config.settings.production"
    assert project.wsgi == "config.wsgi.application"


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=f"no directory {tmp_path}/nothing; set it to the directory of"):
        read(tmp_path / "nothing")


def test_a_missing_manage_py_hints_at_the_one_below(source: Path) -> None:
    with pytest.raises(ProjectError, match=rf"has no manage.py.*did you mean {source}\?"):
        read(source.parent)
    (source / "manage.py").unlink()
    with pytest.raises(ProjectError, match=r"is not a Django project$"):
        read(source.parent)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def main(:\n", r"manage.py:1: .*not valid Python"),
        ("print('hello')\n", "names no settings module .* set site_settings"),
        ("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', NAME)\n", "names no settings module"),
        ("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'gone.settings')\n", "no module gone.settings in"),
        ("\0", "not valid Python"),
    ],
)
def test_a_manage_py_that_does_not_name_the_settings(source: Path, text: str, message: str) -> None:
    put(source, "manage.py", text)
    with pytest.raises(ProjectError, match=message):
        read(source)


def test_a_manage_py_in_another_encoding(source: Path) -> None:
    (source / "manage.py").write_bytes(b"# -*- coding: latin-1 -*-\n# caf\xe9\n" + MANAGE.encode())
    assert read(source).settings == "mysite.settings"


@pytest.mark.parametrize(
    "name", ["mysite.nope", "nope", "mysite settings", "/etc/passwd", "mysite/settings", ".", "..mysite"]
)
def test_a_missing_settings_module(source: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="site_settings: there is no module"):
        read(source, settings=name)


@pytest.mark.parametrize("name", ["mysite.nope.application", "mysite.nope:application", "application", "nope.wsgi.app"])
def test_a_missing_wsgi_module(source: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="site_wsgi: there is no module"):
        read(source, wsgi=name)


@pytest.mark.parametrize(
    ("files", "module", "wsgi"),
    [
        ({"settings.py": "", "wsgi.py": ""}, "settings", "wsgi.application"),
        ({"a/b/settings.py": "", "a/wsgi.py": "", "wsgi.py": ""}, "a.b.settings", "a.wsgi.application"),
        ({"a/b/settings.py": "", "a/b/wsgi.py": ""}, "a.b.settings", "a.b.wsgi.application"),
        ({"a/settings.py": "WSGI_APPLICATION = 'b.serve.app'", "b/serve.py": ""}, "a.settings", "b.serve.app"),
        ({"a/settings.py": "WSGI_APPLICATION = None", "a/wsgi.py": ""}, "a.settings", "a.wsgi.application"),
        ({"a/settings/__init__.py": "", "a/wsgi.py": ""}, "a.settings", "a.wsgi.application"),
    ],
)
def test_the_wsgi_callable_is_found(source: Path, files: dict[str, str], module: str, wsgi: str) -> None:
    for name, text in files.items():
        put(source, name, text)
    assert read(source, settings=module).wsgi == wsgi


@pytest.mark.parametrize("version", ["1.0", "2026-01-01", "v1_2.3-rc.1", "a" * 128])
def test_versions(source: Path, version: str) -> None:
    put(source, "VERSION", f"\n {version} \nmore\n")
    assert read(source).version == version


@pytest.mark.parametrize("version", ["1.0 beta", "-1", ".5", "a/b", "a:b", "ä", "a" * 129, "1.0\n", "$(id)"])
def test_versions_that_cannot_be_a_tag(source: Path, version: str) -> None:
    with pytest.raises(ProjectError, match=r"cannot be an image tag.*for example 1.0"):
        read(source, version=version)


def test_an_empty_or_missing_version(source: Path) -> None:
    put(source, "VERSION", "\n")
    with pytest.raises(ProjectError, match="cannot be an image tag"):
        read(source)
    (source / "VERSION").unlink()
    with pytest.raises(ProjectError, match=r"no version: write one .*VERSION, or set site_version"):
        read(source)
    assert read(source, version="3").version == "3"


def test_a_file_that_is_not_text(source: Path) -> None:
    (source / "VERSION").write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(ProjectError, match=r"VERSION is not UTF-8 text"):
        read(source)


# Requirements


def test_requirements_are_flat(tmp_path: Path) -> None:
    put(tmp_path, "base.txt", "Django>=5.2  # the framework\n\n# a comment\npkg @ https://example.org/a.whl#egg=a\n")
    put(tmp_path, "more/prod.txt", "-r ../base.txt\n  gunicorn\n")
    path = put(
        tmp_path,
        "requirements.txt",
        "--requirement=more/prod.txt  # all\n-rbase.txt\n--index-url https://example.org/simple\n",
    )
    assert read_requirements(path).splitlines() == [
        "Django>=5.2",
        "pkg @ https://example.org/a.whl#egg=a",
        "gunicorn",
        "Django>=5.2",
        "pkg @ https://example.org/a.whl#egg=a",
        "--index-url https://example.org/simple",
    ]


def test_hashes_stay_with_their_requirement(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        "requirements.txt",
        "django==5.2 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via -r in.txt\n"
        "asgiref==3.8 \\\n    # via django\nsqlparse==0.5 ; python_version < '4' \\\n    --hash=sha256:cc\n",
    )
    logical = read_requirements(path).replace("\\\n", "").splitlines()
    assert [" ".join(line.split()) for line in logical] == [
        "django==5.2 --hash=sha256:aa --hash=sha256:bb",
        "asgiref==3.8",
        "sqlparse==0.5 ; python_version < '4' --hash=sha256:cc",
    ]


@pytest.mark.parametrize("names", [("a.txt",), ("a.txt", "b.txt"), ("a.txt", "b.txt", "c.txt")])
def test_requirements_that_include_each_other(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, following in zip(names, (*names[1:], names[0]), strict=True):
        put(tmp_path, name, f"django\n-r {following}\n")
    with pytest.raises(ProjectError, match=r"include each other"):
        read_requirements(tmp_path / "a.txt")


def test_a_missing_requirements_file(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=f"site_requirements: no file {tmp_path}/r.txt; set it to a requirements"):
        read_requirements(tmp_path / "r.txt")
    path = put(tmp_path, "r.txt", "-r base.txt\n")
    with pytest.raises(ProjectError, match=r"r.txt includes base.txt, which does not exist"):
        read_requirements(path)


@pytest.mark.parametrize("text", ["", "\n", "# django\n"])
def test_empty_requirements(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProjectError, match="lists no packages"):
        read_requirements(put(tmp_path, "r.txt", text))


@pytest.mark.parametrize(
    "text", ["django", "Django~=5.2", "DJANGO[argon2]>=5", "django @ git+https://example.org/d", "django;x", "wagtail"]
)
def test_requirements_that_include_django(tmp_path: Path, text: str) -> None:
    assert read_requirements(put(tmp_path, "r.txt", text)) == f"{text}\n"


@pytest.mark.parametrize(
    "line", ["-e .", "--editable=./x", "-c limits.txt", "--constraint limits.txt", "./pkg", "../p", "/p", "."]
)
def test_requirements_that_need_other_files_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ProjectError, match="the build has the requirements only"):
        read_requirements(put(tmp_path, "r.txt", f"django\n{line}\n"))


def test_pyproject(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        "pyproject.toml",
        '[project]\nname = "x"\ndependencies = ["django>=5.2", "pillow; os_name == \'nt\'"]\n',
    )
    assert read_requirements(path) == "django>=5.2\npillow; os_name == 'nt'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project\n", "is not valid TOML"),
        ("[tool.poetry.dependencies]\ndjango = '*'\n", r"lists no dependencies in its table \[project\]"),
        ('[project]\ndependencies = "django"\n', r"lists no dependencies in its table \[project\]"),
        ("[project]\ndependencies = []\n", r"lists no dependencies in its table \[project\]"),
    ],
)
def test_a_pyproject_without_dependencies(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        read_requirements(put(tmp_path, "pyproject.toml", text))


# Revision


def test_the_revision_is_the_commit(source: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", "-C", source, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert read(source).revision == commit
    put(source, "new.py")
    assert read(source).revision == f"{commit}-dirty"


def test_no_git_no_revision(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert read(source).revision == ""


# Context and digest


def found(root: Path) -> set[str]:
    return {path.as_posix() for path in context_files(root)}


def test_files_that_never_belong_in_an_image(tmp_path: Path) -> None:
    for name in (
        "a.py", "b/c.py", "b/__pycache__/c.pyc", ".git/HEAD", "b/.venv/x", "node_modules/x/y", "db.sqlite3", ".env",
        "db.sqlite3-wal", "b/.DS_Store", ".env.example", "environment.py",
    ):  # fmt: skip
        put(tmp_path, name)
    assert found(tmp_path) == {"a.py", "b/c.py", ".env.example", "environment.py"}


@pytest.mark.parametrize(
    ("rules", "excluded"),
    [
        ("", set()),
        ("static\n", {"static/a.css"}),
        ("/static/\n", {"static/a.css"}),
        ("**/static\n", {"static/a.css", "polls/static/b.css"}),
        ("*.md\n", {"README.md"}),
        ("**/*.md\n", {"README.md", "docs/x.md", "docs/deep/y.md"}),
        ("docs/*.md\n", {"docs/x.md"}),
        ("docs\n!docs/x.md\n", {"docs/deep/y.md"}),
        ("!docs/x.md\ndocs\n", {"docs/x.md", "docs/deep/y.md"}),
        ("*\n!polls\n", {"README.md", "static/a.css", "docs/x.md", "docs/deep/y.md", ".dockerignore"}),
        ("# static\n\n  README.??\n", {"README.md"}),
        ("README.[mn]d\n", {"README.md"}),
        ("./README.md\n", {"README.md"}),
        ("polls/**/b.*\n", {"polls/static/b.css"}),
        ("READMEx\nstati\n", set()),
    ],
)
def test_dockerignore_follows_docker_s_rules(tmp_path: Path, rules: str, excluded: set[str]) -> None:
    names = {"README.md", "static/a.css", "polls/static/b.css", "docs/x.md", "docs/deep/y.md"}
    for name in names:
        put(tmp_path, name)
    put(tmp_path, ".dockerignore", rules)
    assert found(tmp_path) == (names | {".dockerignore"}) - excluded


def test_links_are_copied_and_not_followed(tmp_path: Path) -> None:
    put(tmp_path, "project/real/a.py")
    root = tmp_path / "project"
    put(tmp_path, "outside/secret")
    (root / "directory").symlink_to("../outside")
    (root / "file").symlink_to("real/a.py")
    (root / "dangling").symlink_to("nothing")
    assert found(root) == {"real/a.py", "directory", "file", "dangling"}


def test_sockets_and_pipes_are_not_copied(tmp_path: Path) -> None:
    put(tmp_path, "a")
    os.mkfifo(tmp_path / "pipe")
    assert found(tmp_path) == {"a"}


def digest(root: Path) -> str:
    return digest_of(root, context_files(root))


def test_the_digest_depends_on_content_names_links_and_executable_bits(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "text")
    seen = [digest(tmp_path)]
    path.write_text("other")
    seen.append(digest(tmp_path))
    path.write_text("text")
    path.chmod(0o755)
    seen.append(digest(tmp_path))
    path.chmod(0o644)
    path.rename(tmp_path / "b")
    seen.append(digest(tmp_path))
    (tmp_path / "a").symlink_to("b")
    seen.append(digest(tmp_path))
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("c")
    seen.append(digest(tmp_path))
    (tmp_path / "a").unlink()
    put(tmp_path, "a", "b")
    seen.append(digest(tmp_path))
    put(tmp_path, "empty")
    seen.append(digest(tmp_path))
    assert len(set(seen)) == len(seen)


def test_the_digest_does_not_depend_on_times_umask_or_directory(tmp_path: Path) -> None:
    one, other = put(tmp_path, "x/a", "text"), put(tmp_path, "y/a", "text")
    os.utime(other, (1, 1))
    one.chmod(0o664)
    other.chmod(0o600)
    put(tmp_path, "y/__pycache__/a.pyc", "left out")
    (tmp_path / "y" / "empty").mkdir()
    assert digest(one.parent) == digest(other.parent)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).write_text("x")
    assert digest(tmp_path)


trees = st.dictionaries(
    st.from_regex(r"[ab]{1,2}(/[cd]{1,2})?", fullmatch=True), st.tuples(st.sampled_from(["", "1", "22"]), st.booleans())
).filter(lambda tree: not any(other.startswith(f"{name}/") for name in tree for other in tree))


@given(one=trees, other=trees)
@settings(max_examples=60, deadline=None)
def test_digests_are_equal_exactly_if_trees_are(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, tuple[str, bool]], other: dict[str, tuple[str, bool]]
) -> None:
    def made(tree: dict[str, tuple[str, bool]]) -> str:
        root = tmp_path_factory.mktemp("tree")
        for name, (text, program) in tree.items():
            put(root, name, text).chmod(0o755 if program else 0o644)
        return digest(root)

    assert (made(one) == made(other)) == (one == other)
    assert made(one) == made(dict(reversed(one.items())))
