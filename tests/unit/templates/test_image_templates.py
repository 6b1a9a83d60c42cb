"""The site's Dockerfile as text, and its values as the shell passes them."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.unit.templates.rendering import Role, change

PROJECT = {"settings": "mysite.settings", "wsgi": "mysite.wsgi.application", "version": "1.0", "revision": ""}


@pytest.fixture(scope="module")
def role() -> Role:
    return Role("image")


def dockerfile(role: Role, **variables: Any) -> str:
    return role.render("Dockerfile.j2", **{"__image_project": PROJECT, **variables})


def final_stage(text: str) -> str:
    return text.rpartition("\nFROM ")[2]


def runs(text: str) -> list[str]:
    """Return the commands of RUN as the shell gets them."""
    return [line.removeprefix("RUN ") for line in text.replace("\\\n", "").splitlines() if line.startswith("RUN ")]


def test_layers_that_change_rarely_come_first(role: Role) -> None:
    text = dockerfile(role)
    order = [
        "COPY --from=requirements",
        "COPY --from=server",
        "COPY runtime/",
        'USER 10001:10001\nCMD ["serve"]',
        "COPY --from=static /static/vendor",
        "COPY source/ /app/\nCOPY --from=static /static/site",
    ]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


def test_no_image_runs_as_root(role: Role) -> None:
    for target in ("production", "development"):
        stage = final_stage(dockerfile(role, image_target=target))
        assert [line for line in stage.splitlines() if line.startswith("USER ")] == ["USER 10001:10001"]


def test_every_stage_has_a_label(role: Role) -> None:
    for target in ("production", "development"):
        stages = ("\n" + dockerfile(role, image_target=target)).split("\nFROM ")[1:]
        assert all("LABEL hostwright=" in stage for stage in stages if stage.startswith("${"))


def test_development_has_no_source_and_no_static_files(role: Role) -> None:
    text = dockerfile(role, image_target="development")
    assert "COPY source/" not in text
    assert "collect" not in text.partition("# ")[0] + final_stage(text)
    assert 'CMD ["develop"]' in final_stage(text)
    assert "HOSTWRIGHT_CONFIG=/opt/hostwright/development.json" in final_stage(text)
    assert "development.json" not in dockerfile(role)
    assert role.evaluate(
        "__image_directories[image_target].keys() | list", image_target="development", image_source="x"
    ) == ["runtime"]


def test_without_the_overlay_the_project_s_settings_are_used(role: Role) -> None:
    removed, added = change(dockerfile(role), dockerfile(role, image_overlay=False))
    assert removed == ["ENV DJANGO_SETTINGS_MODULE=hostwright.settings \\"]
    assert added == ["ENV DJANGO_SETTINGS_MODULE=mysite.settings \\"]


def test_the_projects_settings_and_wsgi_are_set(role: Role) -> None:
    other = {**PROJECT, "settings": "config.settings.production", "wsgi": "config.wsgi:app"}
    removed, added = change(dockerfile(role), dockerfile(role, __image_project=other))
    assert removed == ["HOSTWRIGHT_SETTINGS=mysite.settings \\", "HOSTWRIGHT_WSGI=mysite.wsgi.application"]
    assert added == ["HOSTWRIGHT_SETTINGS=config.settings.production \\", "HOSTWRIGHT_WSGI=config.wsgi:app"]


def environment(role: Role, **variables: Any) -> dict[str, str]:
    """Return the environment in which the build checks the project, as the shell sets it."""
    [command] = [run for run in runs(dockerfile(role, **variables)) if "hostwright collect" in run]
    shown = command.rpartition("python3 -m ")[0] + "env -0"
    done = subprocess.run(["sh", "-c", shown], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})
    pairs = (pair.partition("=") for pair in done.stdout.decode().split("\0") if pair)
    return {name: value for name, _, value in pairs if name not in ("PATH", "PWD", "_", "SHLVL", "OLDPWD")}


AWKWARD = {
    "PLAIN": "value",
    "SPACES": "two words",
    "SINGLE": "it's",
    "DOUBLE": 'say "hi"',
    "DOLLAR": "$HOME $(id) `id`",
    "BACKSLASH": "C:\\new\\",
    "EMPTY": "",
    "HASH": "# no comment",
    "UMLAUT": "ä",
    "SEMICOLON": "a; exit 1 && b",
    "LINES": "-----BEGIN-----\nabc\n-----END-----\n",
}


@pytest.mark.parametrize("name", AWKWARD)
def test_environment_variables_are_passed_unchanged(role: Role, name: str) -> None:
    found = environment(role, image_environment_variables={name: AWKWARD[name]})
    assert found == {name: AWKWARD[name], "HOSTWRIGHT_BUILD": "1", "HOSTWRIGHT_BUILD_SECRETS": ""}


def test_many_environment_variables_and_numbers(role: Role) -> None:
    found = environment(role, image_environment_variables={**AWKWARD, "NUMBER": 5, "FLAG": True})
    assert found == {
        **AWKWARD, "NUMBER": "5", "FLAG": "True", "HOSTWRIGHT_BUILD": "1", "HOSTWRIGHT_BUILD_SECRETS": "",
    }  # fmt: skip


def test_the_order_of_variables_does_not_matter(role: Role) -> None:
    turned = dict(reversed(AWKWARD.items()))
    assert dockerfile(role, image_environment_variables=turned) == dockerfile(role, image_environment_variables=AWKWARD)
    assert dockerfile(role, image_secret_names=["B", "A"]) == dockerfile(role, image_secret_names=["A", "B"])


def test_only_the_names_of_secrets_are_passed(role: Role) -> None:
    assert environment(role, image_secret_names=["TOKEN", "API_KEY"])["HOSTWRIGHT_BUILD_SECRETS"] == "API_KEY,TOKEN"


def test_variables_of_the_build_are_not_in_the_image(role: Role) -> None:
    text = dockerfile(role, image_environment_variables={"COLOUR": "blue"}, image_secret_names=["TOKEN"])
    assert "COLOUR" in text
    assert "COLOUR" not in final_stage(text)
    assert "TOKEN" not in final_stage(text)
    assert "ENV COLOUR" not in text


def test_pips_settings_are_in_build_stages_only(role: Role) -> None:
    text = dockerfile(role)
    stages = {stage.partition("\n")[0]: stage for stage in ("\n" + text).split("\nFROM ")[1:]}
    having = {name for name, stage in stages.items() if "COPY build/" in stage}
    assert having == {"${BUILD_BASE} AS requirements", "${BUILD_BASE} AS server"}


@pytest.mark.parametrize(("debian", "zones"), [("12", ["tzdata"]), ("13", ["tzdata", "tzdata-legacy"])])
def test_the_base_has_packages_that_common_requirements_need(role: Role, debian: str, zones: list[str]) -> None:
    packages = role.evaluate("__image_packages", image_debian=debian, image_packages=["gettext", "tzdata"])
    assert packages == ["ca-certificates", "gettext", "libstdc++6", "media-types", "python3", *zones]
